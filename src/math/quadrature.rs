//! Lagrange interpolation and Gauss-Legendre quadrature.

use std::f64::consts::PI;

/// Nodes and weights of the n-point Gauss-Legendre rule on `[-1, 1]`, by Newton's method on the
/// three-term recurrence of the Legendre polynomials.
#[must_use]
pub fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let count = n as f64;
    (0..n)
        .map(|i| {
            let mut x = (PI * (i as f64 + 0.75) / (count + 0.5)).cos();
            let mut slope = 1.0;
            for _ in 0..100 {
                let (mut p, mut before) = (1.0, 0.0);
                for k in 1..=n {
                    let k = k as f64;
                    (p, before) = (((2.0 * k - 1.0) * x * p - (k - 1.0) * before) / k, p);
                }
                slope = count * (x * p - before) / (x * x - 1.0);
                let change = p / slope;
                x -= change;
                if change.abs() < 1e-16 {
                    break;
                }
            }
            (x, 2.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}

/// The j-th Lagrange basis polynomial of `nodes` at `x`.
#[must_use]
pub fn lagrange(nodes: &[f64], j: usize, x: f64) -> f64 {
    nodes
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != j)
        .map(|(_, node)| (x - node) / (nodes[j] - node))
        .product()
}

/// The integral of the j-th Lagrange basis polynomial of `nodes` from `a` to `b`, exact: the
/// polynomial is expanded around `a`, so that a short interval keeps its digits.
#[must_use]
pub fn lagrange_integral(nodes: &[f64], j: usize, a: f64, b: f64) -> f64 {
    // Coefficients in powers of (x - a), lowest first.
    let mut poly = vec![1.0];
    for (i, node) in nodes.iter().enumerate() {
        if i == j {
            continue;
        }
        let scale = nodes[j] - node;
        let mut next = vec![0.0; poly.len() + 1];
        for (k, c) in poly.iter().enumerate() {
            next[k] += c * (a - node) / scale;
            next[k + 1] += c / scale;
        }
        poly = next;
    }
    let h = b - a;
    poly.iter().enumerate().rev().fold(0.0, |sum, (k, c)| sum * h + c / (k + 1) as f64) * h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_points_integrate_smooth_functions_exactly() {
        let rule = gauss_legendre(64);
        let integral: f64 = rule.iter().map(|(x, w)| w * x.exp()).sum();
        assert!((integral - (1f64.exp() - (-1f64).exp())).abs() < 1e-14);
        assert!((rule.iter().map(|(_, w)| w).sum::<f64>() - 2.0).abs() < 1e-14);
        // Degree 2n - 1 is exact.
        let three: f64 = gauss_legendre(3).iter().map(|(x, w)| w * (x.powi(5) + x.powi(4))).sum();
        assert!((three - 0.4).abs() < 1e-15);
    }

    #[test]
    fn closed_form_and_quadrature_agree() {
        let (nodes, a, b) = ([3.0, 2.0, 1.2, 0.3], 0.3, -0.4);
        let rule = gauss_legendre(8);
        for j in 0..4 {
            let half = (b - a) / 2.0;
            let numeric: f64 =
                rule.iter().map(|(x, w)| w * half * lagrange(&nodes, j, a + half * (x + 1.0))).sum();
            assert!((numeric - lagrange_integral(&nodes, j, a, b)).abs() < 1e-15);
        }
    }
}
