//! The few characters that axes of pictures need, 5 x 7 pixels each.

/// Height of a character.
pub const GLYPH_HEIGHT: usize = 7;
const ADVANCE: usize = 6;

/// Rows of a character from above, five bits each, the left pixel highest.
fn rows(c: char) -> [u8; GLYPH_HEIGHT] {
    match c {
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 2, 4, 8, 31],
        '3' => [31, 2, 4, 2, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        '-' => [0, 0, 0, 31, 0, 0, 0],
        's' => [0, 0, 14, 16, 14, 1, 30],
        'k' => [16, 16, 18, 20, 24, 20, 18],
        'H' => [17, 17, 17, 31, 17, 17, 17],
        'z' => [0, 0, 31, 2, 4, 8, 31],
        _ => [0; GLYPH_HEIGHT],
    }
}

/// Pixels that `text` is wide.
#[must_use]
pub fn text_width(text: &str) -> usize {
    (text.chars().count() * ADVANCE).saturating_sub(1)
}

/// Calls `dot` for every pixel of `text`, whose upper left corner is `(x, y)`.
pub fn write_text(text: &str, x: usize, y: usize, dot: &mut dyn FnMut(usize, usize)) {
    for (i, c) in text.chars().enumerate() {
        for (dy, row) in rows(c).into_iter().enumerate() {
            (0..5).filter(|dx| row >> (4 - dx) & 1 == 1).for_each(|dx| dot(x + i * ADVANCE + dx, y + dy));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_drawn_in_their_places() {
        let mut seen = Vec::new();
        write_text("-.", 10, 20, &mut |x, y| seen.push((x, y)));
        let mut want: Vec<(usize, usize)> = (10..15).map(|x| (x, 23)).collect();
        want.extend([(17, 25), (18, 25), (17, 26), (18, 26)]);
        assert_eq!(seen, want);
        assert_eq!((text_width("0.5"), text_width("")), (17, 0));
    }
}
