//! HiPPO matrices (Gu et al. 2020, "HiPPO: recurrent memory with optimal polynomial projections") in plain f64.
//!
//! Each is given as `(A, B)` of `x' = A x + B u` with real, dense A, and the columns P of its low-rank
//! correction: `A + sum_j P_j P_j^T` is a multiple of the identity plus a skew matrix, so that it has an
//! orthonormal eigenbasis (Gu et al. 2022, "Efficiently modeling long sequences with structured state spaces").

/// A system of order `n` with the correction that makes it normal.
#[derive(Debug, Clone, PartialEq)]
pub struct Hippo {
    /// Order.
    pub n: usize,
    /// A, row after row, `n * n`.
    pub a: Vec<f64>,
    /// B, `n`.
    pub b: Vec<f64>,
    /// Columns of the correction, each `n`.
    pub p: Vec<Vec<f64>>,
}

impl Hippo {
    /// `A + sum_j P_j P_j^T`, row after row.
    #[must_use]
    pub fn corrected(&self) -> Vec<f64> {
        let mut out = self.a.clone();
        for p in &self.p {
            for i in 0..self.n {
                for j in 0..self.n {
                    out[i * self.n + j] += p[i] * p[j];
                }
            }
        }
        out
    }
}

#[allow(clippy::cast_precision_loss)]
fn odd(i: usize) -> f64 {
    (2 * i + 1) as f64
}

fn filled(n: usize, value: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..n * n).map(|k| value(k / n, k % n)).collect()
}

/// Scaled Legendre measure: `A_ij = -sqrt((2i+1)(2j+1))` below the diagonal, `-(i+1)` on it; `B_i = sqrt(2i+1)`;
/// rank 1 with `P_i = sqrt(i + 1/2)`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn legs(n: usize) -> Hippo {
    let a = filled(n, |i, j| match i.cmp(&j) {
        std::cmp::Ordering::Greater => -(odd(i) * odd(j)).sqrt(),
        std::cmp::Ordering::Equal => -((i + 1) as f64),
        std::cmp::Ordering::Less => 0.0,
    });
    let b = (0..n).map(|i| odd(i).sqrt()).collect();
    let p = (0..n).map(|i| (i as f64 + 0.5).sqrt()).collect();
    Hippo { n, a, b, p: vec![p] }
}

/// Translated Legendre measure, halved in time: `A_ij = -s_ij sqrt((2i+1)(2j+1))/2` with `s_ij = (-1)^(i-j)`
/// above the diagonal and 1 elsewhere; `B_i = sqrt(2i+1)/2`; rank 2, one column for odd and one for even indices.
#[must_use]
pub fn legt(n: usize) -> Hippo {
    let sign = |i: usize, j: usize| if i < j && (j - i) % 2 == 1 { -1.0 } else { 1.0 };
    let a = filled(n, |i, j| -0.5 * sign(i, j) * (odd(i) * odd(j)).sqrt());
    let b = (0..n).map(|i| 0.5 * odd(i).sqrt()).collect();
    let column = |parity: usize| {
        (0..n).map(|i| if i % 2 == parity { (0.5 * odd(i)).sqrt() } else { 0.0 }).collect::<Vec<f64>>()
    };
    Hippo { n, a, b, p: vec![column(1), column(0)] }
}

/// Fourier output basis: A couples `x_2k` and `x_2k+1` by the frequency `pi k`, minus `B B^T`; `B_0 = 1`,
/// `B_2k = sqrt 2`, `B_odd = 0`; rank 1 with P = B.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn fourier(n: usize) -> Hippo {
    let b: Vec<f64> = (0..n)
        .map(|i| match i {
            0 => 1.0,
            _ if i % 2 == 0 => std::f64::consts::SQRT_2,
            _ => 0.0,
        })
        .collect();
    let a = filled(n, |i, j| {
        let turn = std::f64::consts::PI * (i / 2) as f64;
        let pair = match (i / 2 == j / 2, i % 2, j % 2) {
            (true, 0, 1) => -turn,
            (true, 1, 0) => turn,
            _ => 0.0,
        };
        pair - b[i] * b[j]
    });
    Hippo { n, a, p: vec![b.clone()], b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64, tolerance: f64) {
        assert!((got - want).abs() < tolerance, "{got} {want}");
    }

    #[test]
    fn legs_of_order_4_is_the_published_matrix() {
        let h = legs(4);
        let a = [
            [-1.0, 0.0, 0.0, 0.0],
            [-1.732_050_81, -2.0, 0.0, 0.0],
            [-2.236_067_98, -3.872_983_35, -3.0, 0.0],
            [-2.645_751_31, -4.582_575_69, -5.916_079_78, -4.0],
        ];
        h.a.iter().zip(a.as_flattened()).for_each(|(got, want)| close(*got, *want, 1e-8));
        let b = [1.0, 1.732_050_81, 2.236_067_98, 2.645_751_31];
        h.b.iter().zip(b).for_each(|(got, want)| close(*got, want, 1e-8));
        let p = [0.5f64.sqrt(), 1.224_744_87, 1.581_138_83, 1.870_828_69];
        h.p[0].iter().zip(p).for_each(|(got, want)| close(*got, want, 1e-8));
        let s = h.corrected();
        for (i, j, want) in [
            (0, 1, 0.866_025_4),
            (0, 2, 1.118_033_99),
            (0, 3, 1.322_875_66),
            (1, 2, 1.936_491_67),
            (1, 3, 2.291_287_85),
            (2, 3, 2.958_039_89),
        ] {
            close(s[i * 4 + j], want, 1e-7);
        }
    }

    #[test]
    fn the_corrections_leave_a_skew_matrix() {
        for (h, diagonal) in [(legs(8), -0.5), (legt(8), 0.0), (fourier(8), 0.0)] {
            let s = h.corrected();
            for i in 0..8 {
                close(s[i * 8 + i], diagonal, 1e-12);
                for j in 0..i {
                    close(s[i * 8 + j], -s[j * 8 + i], 1e-12);
                }
            }
        }
    }
}
