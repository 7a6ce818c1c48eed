//! Plain f64 mathematics without tensors.

mod beta;
pub mod hippo;
mod linear;
pub mod mel;
mod normal;
mod phi;
mod quadrature;
pub mod resample;
pub mod rng;

pub use beta::{beta_cdf, beta_quantile};
pub use linear::solve;
pub use normal::normal_cdf;
pub use phi::{Phi, phi_data, phi_noise, phi_remainder};
pub use quadrature::{gauss_legendre, lagrange, lagrange_integral};

/// `ln(exp(a) + exp(b))` without overflow.
#[must_use]
pub fn logaddexp(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logaddexp_is_safe_at_both_ends() {
        assert!((logaddexp(0.0, 0.0) - 2f64.ln()).abs() < 1e-16);
        assert!((logaddexp(1000.0, 0.0) - 1000.0).abs() < 1e-12);
        assert_eq!(logaddexp(f64::NEG_INFINITY, 3.0), 3.0);
        assert!((logaddexp(-40.0, 0.0) - (-40f64).exp()).abs() < 1e-30);
    }
}
