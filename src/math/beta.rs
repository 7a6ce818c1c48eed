//! The beta distribution: its distribution function and quantiles.
//!
//! The regularised incomplete beta function `I_x(a, b)` by its continued fraction (Abramowitz and Stegun
//! 1964, 26.5.8), evaluated by Lentz's method; `ln Gamma` by Lanczos' approximation.

/// Lanczos' coefficients for g = 7.
const LANCZOS: [f64; 9] = [
    0.999_999_999_999_809_9,
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_1,
    -176.615_029_162_140_6,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_572e-6,
    1.505_632_735_149_311_6e-7,
];

/// `ln Gamma(x)` for positive x.
fn ln_gamma(x: f64) -> f64 {
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = LANCZOS[0] + LANCZOS[1..].iter().zip(1..).map(|(c, i)| c / (x + f64::from(i))).sum::<f64>();
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// The continued fraction of `I_x(a, b)`, for x below the mean.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut h = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = h;
        for term in [even, odd] {
            d = 1.0 / guard(1.0 + term * d);
            c = guard(1.0 + term / c);
            h *= d * c;
        }
        if (h / before - 1.0).abs() < 1e-15 {
            break;
        }
    }
    h
}

/// The distribution function of Beta(a, b) at `x`.
#[must_use]
pub fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let log = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    if x < (a + 1.0) / (a + b + 2.0) {
        log.exp() * fraction(x, a, b) / a
    } else {
        1.0 - log.exp() * fraction(1.0 - x, b, a) / b
    }
}

/// The quantile of Beta(a, b): the x at which the distribution function is `p` of 0 to 1.
#[must_use]
pub fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    if p > 0.5 {
        // The other tail keeps its digits.
        return 1.0 - beta_quantile(1.0 - p, b, a);
    }
    // Bisection in ln x, since x may be very small.
    let (mut low, mut high) = (-745.0f64, 0.0f64);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if beta_cdf(middle.exp(), a, b) < p { low = middle } else { high = middle }
    }
    (0.5 * (low + high)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions() {
        // Beta(1, 1) is uniform, Beta(2, 1) is x^2, Beta(1/2, 1/2) is the arcsine law.
        for x in [1e-6, 0.1, 0.37, 0.5, 0.93] {
            assert!((beta_cdf(x, 1.0, 1.0) - x).abs() < 1e-14);
            assert!((beta_cdf(x, 2.0, 1.0) - x * x).abs() < 1e-14);
            let arcsine = 2.0 / std::f64::consts::PI * x.sqrt().asin();
            assert!((beta_cdf(x, 0.5, 0.5) - arcsine).abs() < 1e-14, "{x}");
        }
        assert!((ln_gamma(0.5) - 0.5 * std::f64::consts::PI.ln()).abs() < 1e-14);
        assert!((ln_gamma(6.0) - 120f64.ln()).abs() < 1e-13);
    }

    #[test]
    fn quantiles_invert_the_distribution() {
        for p in [1e-9, 0.02, 0.3, 0.5, 0.71, 0.999] {
            let x = beta_quantile(p, 0.6, 0.6);
            assert!((beta_cdf(x, 0.6, 0.6) - p).abs() < 1e-13, "{p}");
            let arcsine = (p * std::f64::consts::FRAC_PI_2).sin().powi(2);
            assert!((beta_quantile(p, 0.5, 0.5) / arcsine - 1.0).abs() < 1e-11, "{p}");
        }
        assert_eq!((beta_quantile(0.0, 0.6, 0.6), beta_quantile(1.0, 0.6, 0.6)), (0.0, 1.0));
    }
}
