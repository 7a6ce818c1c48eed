//! First values of A, B and P.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use tch::{Kind, Tensor};

use super::config::{RealTransform, S4Config};
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::math::hippo::{self, Hippo};
use crate::math::rng::SplitMix64;

/// A complex number as (real, imaginary).
pub(super) type Complex = (f64, f64);

/// One system, its stored half: `a`, `b` of N/2 values, `p` of rank times N/2.
#[derive(Debug, Clone)]
pub(super) struct System {
    pub a: Vec<Complex>,
    pub b: Vec<Complex>,
    pub p: Vec<Vec<Complex>>,
}

/// The copies of a layer; random parts are drawn with `seed`.
#[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
pub(super) fn systems(config: &S4Config, seed: u64) -> Result<Vec<System>> {
    let names: Vec<&str> = match config.init.as_str() {
        "hippo" => vec!["legs", "fout"],
        "diag" => vec!["diag-inv", "diag-lin"],
        "all" => vec!["legs", "fout", "diag-inv", "diag-lin"],
        other => vec![other],
    };
    let copies = config.copies() as usize;
    if !copies.is_multiple_of(names.len()) {
        return Err(Error::model("the state-space layer is not defined").why(format!(
            "init = \"{}\" divides its copies among {}, and there are {copies} (n_ssm)",
            config.init,
            names.len()
        )));
    }
    let mut random = SplitMix64::new(seed);
    let mut out = Vec::with_capacity(copies);
    for name in &names {
        let count = copies / names.len();
        match base(name) {
            Some(hippo) => out.extend(vec![of_hippo(&hippo, config)?; count]),
            None => {
                for _ in 0..count {
                    out.push(diagonal(name, config, &mut random)?);
                }
            }
        }
    }
    Ok(out)
}

/// The HiPPO systems by their plain names.
fn base(name: &str) -> Option<Basis> {
    match name {
        "legs" => Some(Basis::Legs),
        "legt" => Some(Basis::Legt),
        "fout" | "fourier" => Some(Basis::Fourier),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy)]
enum Basis {
    Legs,
    Legt,
    Fourier,
}

fn of_hippo(basis: &Basis, config: &S4Config) -> Result<System> {
    let n = usize::try_from(config.d_state).unwrap_or(2);
    let rank = usize::try_from(config.rank).unwrap_or(1);
    let mut system = match basis {
        Basis::Legs => diagonalised(&hippo::legs(n))?,
        Basis::Legt => diagonalised(&hippo::legt(n))?,
        Basis::Fourier => fourier(n),
    };
    if rank < system.p.len() {
        return Err(Error::model("the state-space layer is not defined").why(format!(
            "init = \"{}\" needs rank {} or more",
            config.init,
            system.p.len()
        )));
    }
    system.p.resize(rank, vec![(0.0, 0.0); n / 2]);
    if config.b_clip > 0.0 {
        system.b.iter_mut().for_each(|b| b.1 = b.1.clamp(-config.b_clip, config.b_clip));
    }
    Ok(system)
}

/// The eigenbasis of a corrected system, the half with negative imaginary parts, by a Hermitian solver in double.
fn diagonalised(hippo: &Hippo) -> Result<System> {
    let n = hippo.n;
    let size = i64::try_from(n).unwrap_or(i64::MAX);
    let s = Tensor::f_from_slice(&hippo.corrected())?.f_reshape([size, size])?;
    let real = s.f_diagonal(0, 0, 1)?.f_mean(Kind::Double)?.f_double_value(&[])?;
    // S = real + K with K skew; -i K is Hermitian.
    let skew = s.f_sub(&s.f_transpose(0, 1)?)?.f_mul_scalar(-0.5)?;
    let hermitian = Tensor::f_complex(&skew.f_zeros_like()?, &skew)?;
    let (frequencies, basis) = hermitian.f_linalg_eigh("L")?;
    let half = size / 2;
    let a = tensor_to_f64(&frequencies)?.into_iter().take(n / 2).map(|w| (real, w)).collect();
    // Rows of V^* for the kept half.
    let kept = basis.f_narrow(1, 0, half)?.f_conj()?.f_resolve_conj()?.f_transpose(0, 1)?;
    let project = |v: &[f64]| -> Result<Vec<Complex>> {
        let v = Tensor::f_from_slice(v)?.f_unsqueeze(1)?;
        let part = |rows: Tensor| -> Result<Vec<f64>> { tensor_to_f64(&rows.f_matmul(&v)?.f_squeeze()?) };
        Ok(part(kept.f_real()?)?.into_iter().zip(part(kept.f_imag()?)?).collect())
    };
    let p = hippo.p.iter().map(|p| project(p)).collect::<Result<_>>()?;
    Ok(System { a, b: project(&hippo.b)?, p })
}

/// The Fourier system: pairs `(x_2k, x_2k+1)` turn by `pi k`, eigenvector `(1, i)/sqrt 2`.
#[allow(clippy::cast_precision_loss)]
fn fourier(n: usize) -> System {
    let a = (0..n / 2).map(|k| (0.0, -PI * k as f64)).collect();
    let b: Vec<Complex> = (0..n / 2).map(|k| (if k == 0 { FRAC_1_SQRT_2 } else { 1.0 }, 0.0)).collect();
    System { a, p: vec![b.clone()], b }
}

#[allow(clippy::cast_precision_loss)]
fn diagonal(name: &str, config: &S4Config, random: &mut SplitMix64) -> Result<System> {
    let half = usize::try_from(config.half()).unwrap_or(1);
    let n = config.d_state as f64;
    let (short, with_p) = match name.split_once('-') {
        Some(("diag", rest)) => (rest, false),
        Some(("dplr", rest)) => (rest, true),
        None => (name, false),
        _ => ("", false),
    };
    let mut b = vec![(1.0, 0.0); half];
    let mut real = vec![0.5; half];
    let frequency: Box<dyn FnMut(f64) -> f64 + '_> = match short {
        "lin" | "linear" => Box::new(|k| PI * k),
        "inv" | "inverse" => Box::new(|k| n / PI * (n / (2.0 * k + 1.0) - 1.0)),
        "inv2" | "inverse2" => Box::new(|k| n / PI * (n / (k + 1.0) - 1.0)),
        "quad" | "quadratic" => Box::new(|k| (2.0 * k + 1.0).powi(2) / PI),
        "real" => {
            real = (0..half).map(|k| k as f64 + 1.0).collect();
            Box::new(|_| 0.0)
        }
        "rand" | "random" => Box::new(|_| random.normal().exp()),
        "legs" | "hippo" => {
            let legs = of_hippo(&Basis::Legs, config)?;
            b = legs.b;
            let list: Vec<f64> = legs.a.iter().map(|a| -a.1).collect();
            Box::new(move |k| list[k as usize])
        }
        _ => {
            return Err(Error::model("the state-space layer is not defined")
                .why(format!("init = \"{}\" is unknown", config.init))
                .hint("legs, legt, fout, lin, inv, inv2, quad, real, rand, dplr-NAME, hippo, diag or all"));
        }
    };
    let mut frequency = frequency;
    let a: Vec<Complex> = (0..half).map(|k| (-real[k], -frequency(k as f64))).collect();
    drop(frequency);
    let rank = usize::try_from(config.rank).unwrap_or(1);
    let mut draw = || if with_p { random.normal() * FRAC_1_SQRT_2 } else { 0.0 };
    let p = (0..rank).map(|_| (0..half).map(|_| (draw(), draw())).collect()).collect();
    Ok(System { a, b, p })
}

/// What is stored for the negated real part `v` of A, which is at least 1e-4.
pub(super) fn stored_real(v: f64, transform: RealTransform) -> f64 {
    let v = v.max(1e-4);
    match transform {
        RealTransform::Exp => v.ln(),
        RealTransform::Relu | RealTransform::None => v,
        RealTransform::Softplus => v.exp_m1().ln(),
        RealTransform::Sigmoid => (v / (1.0 - v)).ln(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legs(n: i64, b_clip: f64) -> System {
        let config = S4Config { d_state: n, d_model: 1, b_clip, ..S4Config::default() };
        systems(&config, 0).unwrap().remove(0)
    }

    fn modulus(z: Complex) -> f64 {
        z.0.hypot(z.1)
    }

    #[test]
    fn legs_has_the_published_spectrum() {
        let s = legs(4, 0.0);
        for (k, (w, p, b)) in
            [(4.603_293_01, 1.879_500_48, 2.658_015_07), (0.556_501_12, 0.683_723_59, 0.966_931_17)]
                .into_iter()
                .enumerate()
        {
            assert!((s.a[k].0 + 0.5).abs() < 1e-12 && (s.a[k].1 + w).abs() < 1e-7, "{:?}", s.a);
            assert!((modulus(s.p[0][k]) - p).abs() < 1e-7, "{:?}", s.p);
            assert!((modulus(s.b[k]) - b).abs() < 1e-7, "{:?}", s.b);
        }
        let want = [19.857_410_37, 5.354_208_52, 1.957_794_15, 0.427_488_71];
        legs(8, 0.0).a.iter().zip(want).for_each(|(a, w)| assert!((a.1 + w).abs() < 1e-7));
        let s = legs(64, 0.0);
        let w: Vec<f64> = s.a.iter().map(|a| -a.1).collect();
        for (got, want) in w.iter().zip([1_303.273_842_98, 433.030_756_54, 258.152_210_22]) {
            assert!((got - want).abs() < 1e-6);
        }
        for (got, want) in w.iter().rev().zip([0.263_856_93, 0.905_859_41, 1.702_968_17]) {
            assert!((got - want).abs() < 1e-7);
        }
        let largest = s.b.iter().copied().map(modulus).fold(0.0, f64::max);
        assert!((largest - 40.7518).abs() < 1e-3, "{largest}");
        assert!(s.b.iter().zip(&s.p[0]).all(|(b, p)| (modulus(*b) / modulus(*p) - 2f64.sqrt()).abs() < 1e-9));
        assert!(legs(64, 2.0).b.iter().all(|b| b.1.abs() <= 2.0));
    }

    #[test]
    fn names_are_divided_among_copies_and_unknown_ones_refused() {
        let config = |init: &str, n_ssm| S4Config {
            d_model: 8,
            d_state: 4,
            n_ssm,
            init: init.to_owned(),
            ..S4Config::default()
        };
        let all = systems(&config("all", 4), 0).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(all[1].a[1], (0.0, -PI));
        assert!((all[2].a[0].1 + 4.0 / PI * 3.0).abs() < 1e-12);
        assert_eq!((all[3].a[1], all[3].p[0][0]), ((-0.5, -PI), (0.0, 0.0)));
        assert!(systems(&config("hippo", 1), 0).is_err());
        assert!(systems(&config("lenin", 1), 0).unwrap_err().to_string().contains("lenin"));
        let two = S4Config { rank: 2, ..config("legt", 0) };
        assert_eq!(systems(&two, 0).unwrap()[7].p.len(), 2);
        assert!(systems(&config("legt", 0), 0).is_err());
        let random = systems(&config("dplr-lin", 2), 3).unwrap();
        assert!(random[0].p[0][0].0 != 0.0 && random[0].p[0][0] != random[1].p[0][0]);
        for name in ["lin", "inv", "inv2", "quad", "real", "rand", "diag-legs", "dplr-legs", "diag"] {
            assert_eq!(systems(&config(name, 2), 1).unwrap().len(), 2, "{name}");
        }
    }
}
