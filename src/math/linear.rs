//! Small dense linear systems.

/// Solves `A x = b` for a small row-major `A` `[n][n]` by Gaussian elimination with partial pivoting.
/// `None` where `A` is singular to working precision.
#[must_use]
pub fn solve(a: &[Vec<f64>], b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    let mut m: Vec<Vec<f64>> = a
        .iter()
        .zip(b)
        .map(|(row, rhs)| {
            let mut row = row.clone();
            row.push(*rhs);
            row
        })
        .collect();
    if m.len() != n || m.iter().any(|row| row.len() != n + 1) {
        return None;
    }
    for column in 0..n {
        let pivot = (column..n).max_by(|&i, &j| m[i][column].abs().total_cmp(&m[j][column].abs()))?;
        m.swap(column, pivot);
        let head = m[column].clone();
        if head[column] == 0.0 || !head[column].is_finite() {
            return None;
        }
        for row in m.iter_mut().skip(column + 1) {
            let factor = row[column] / head[column];
            for (value, above) in row.iter_mut().zip(&head).skip(column) {
                *value -= factor * above;
            }
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| m[i][j] * x[j]).sum();
        x[i] = (m[i][n] - known) / m[i][i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn a_system_that_needs_pivoting_is_solved() {
        let a = vec![vec![0.0, 2.0, 1.0], vec![1.0, -1.0, 0.0], vec![3.0, 0.0, -2.0]];
        let x = [1.0, -2.0, 0.5];
        let b: Vec<f64> = a.iter().map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect();
        let got = solve(&a, &b).unwrap();
        assert!(got.iter().zip(x).all(|(a, b)| (a - b).abs() < 1e-14), "{got:?}");
    }

    #[test]
    fn a_singular_system_has_no_solution() {
        assert!(solve(&[vec![1.0, 2.0], vec![2.0, 4.0]], &[1.0, 1.0]).is_none());
    }
}
