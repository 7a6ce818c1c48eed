//! The phi functions of exponential integrators, accurate down to steps of size zero.
//!
//! Lu et al. 2022, "DPM-Solver", Appendix A (noise prediction) and Lu et al. 2022, "DPM-Solver++",
//! Appendix A (data prediction). The closed forms lose all digits for small steps, so there the
//! Taylor series is summed instead.

/// The first three phi terms of a step `h` in half log-SNR.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phi {
    /// Zeroth-order term: `e^h - 1` for noise prediction, `e^-h - 1` for data prediction.
    pub p1: f64,
    /// First-order term: `p1/h - 1`, or `p1/h + 1`.
    pub p2: f64,
    /// Second-order term: `p2/h - 1/2`.
    pub p3: f64,
}

/// Below this step the closed forms lose digits.
const SMALL: f64 = 0.3;
/// Terms of the series: `SMALL^n / (n + 1)!` is below the rounding error of f64.
const TERMS: u32 = 16;

/// What is left of the exponential series after its first terms, divided by `z^i`:
/// `phi_remainder(z, i) = sum_{k >= 1} z^k / (k + i)!`, so that `e^z - 1 = z (1 + phi_remainder(z, 1))`
/// and `phi_remainder(z, i + 1) = phi_remainder(z, i)/z - 1/(i + 1)!` (UniPC's recursion; Zhao et al.
/// 2023, "UniPC", Appendix A).
#[must_use]
pub fn phi_remainder(z: f64, i: u32) -> f64 {
    if z.abs() < SMALL {
        let mut sum = 0.0;
        for k in (1..=TERMS).rev() {
            sum = (1.0 + sum) * z / f64::from(i + k);
        }
        return sum / (1..=i).map(f64::from).product::<f64>();
    }
    let (mut rest, mut factorial) = (z.exp_m1() / z - 1.0, 1.0);
    for k in 2..=i {
        factorial *= f64::from(k);
        rest = rest / z - 1.0 / factorial;
    }
    rest
}

/// `p1 = e^h - 1`, `p2 = p1/h - 1`, `p3 = p2/h - 1/2`.
#[must_use]
pub fn phi_noise(h: f64) -> Phi {
    Phi { p1: h.exp_m1(), p2: phi_remainder(h, 1), p3: phi_remainder(h, 2) }
}

/// `q1 = e^-h - 1`, `q2 = q1/h + 1`, `q3 = q2/h - 1/2`. For `h = inf`: -1, 1, -1/2.
#[must_use]
pub fn phi_data(h: f64) -> Phi {
    Phi { p1: (-h).exp_m1(), p2: -phi_remainder(-h, 1), p3: phi_remainder(-h, 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_closed_form_meet() {
        for phi in [phi_noise as fn(f64) -> Phi, phi_data] {
            let (below, above) = (phi(SMALL * (1.0 - 1e-13)), phi(SMALL * (1.0 + 1e-13)));
            assert!((below.p2 - above.p2).abs() < 1e-13);
            assert!((below.p3 - above.p3).abs() < 2e-13);
        }
    }

    #[test]
    fn small_steps_keep_all_digits() {
        // First three terms of each series, exact at this size.
        let h = 1e-5;
        let noise = phi_noise(h);
        assert!((noise.p2 / (h / 2.0 + h * h / 6.0 + h * h * h / 24.0) - 1.0).abs() < 1e-15);
        assert!((noise.p3 / (h / 6.0 + h * h / 24.0 + h * h * h / 120.0) - 1.0).abs() < 1e-15);
        let data = phi_data(h);
        assert!((data.p2 / (h / 2.0 - h * h / 6.0 + h * h * h / 24.0) - 1.0).abs() < 1e-15);
        assert!((data.p3 / (-h / 6.0 + h * h / 24.0 - h * h * h / 120.0) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn remainders_are_the_partial_sums() {
        for z in [-2.5, -0.01, 0.2, 1.7f64] {
            let want = [z.exp_m1() / z - 1.0, (z.exp_m1() / z - 1.0) / z - 0.5];
            let three = want[1] / z - 1.0 / 6.0;
            for (i, want) in [want[0], want[1], three].into_iter().enumerate() {
                assert!((phi_remainder(z, i as u32 + 1) - want).abs() < 2e-9, "{z} {i}");
            }
        }
        assert!((phi_remainder(1e-6, 3) - 1e-6 / 24.0).abs() < 1e-13);
    }

    #[test]
    fn the_last_step_onto_clean_data_is_finite_in_data_form() {
        assert_eq!(phi_data(f64::INFINITY), Phi { p1: -1.0, p2: 1.0, p3: -0.5 });
    }
}
