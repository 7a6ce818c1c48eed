//! Natural order of names: numbers in them count as numbers.

use std::cmp::Ordering;

/// Compares names so that `2.wav` comes before `10.wav`; equal numbers with different zeros are told apart by their
/// text.
#[must_use]
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        match (left.is_empty(), right.is_empty()) {
            (true, true) => return a.cmp(b),
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let ((x, x_rest), (y, y_rest)) = (piece(left), piece(right));
        let digits = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
        let order = if digits(x) && digits(y) {
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (x_rest, y_rest);
    }
}

/// The longest start that is all digits or all other characters, and the rest.
fn piece(text: &str) -> (&str, &str) {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    text.split_at(end)
}

/// The parts of `n` files in natural order that end at the shares `ends`: `int(share n)` files, as Python truncates.
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn boundaries(n: usize, ends: [f64; 2]) -> [usize; 2] {
    ends.map(|share| ((share * n as f64) as usize).min(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["10.wav", "2.wav", "a10b2", "a2b10", "1.wav", "a2b9", "02.wav", "a", "é3", "é10"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["1.wav", "02.wav", "2.wav", "10.wav", "a", "a2b9", "a2b10", "a10b2", "é3", "é10"]);
        let long = "9".repeat(40);
        assert_eq!(natural(&long, &format!("1{long}")), Ordering::Less);
    }

    #[test]
    fn published_splits() {
        assert_eq!(boundaries(4328, [0.88, 0.94]), [3808, 4068]);
        assert_eq!(boundaries(241, [0.88, 0.94]), [212, 226]);
        assert_eq!(boundaries(0, [0.88, 0.94]), [0, 0]);
        assert_eq!(boundaries(5, [1.0, 1.0]), [5, 5]);
    }
}
