//! Number of statistically different bins (Richardson and Weiss 2018, "On GANs and GMMs").
//!
//! The reference's features are divided into K cells by k-means; a cell is different where the shares of the
//! reference and of the generated set in it differ in a two-proportion z-test at the level 0.05.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::metric::distance::{rows, same_width};
use crate::metric::kmeans::{kmeans, nearest};

/// Rounds of k-means.
const ROUNDS: usize = 100;
/// The two-sided bound of the standard normal at the level 0.05.
const BOUND: f64 = 1.959_963_984_540_054;

/// The share of `cells` cells of the reference `y` `[m, d]` in which generated features `x` `[n, d]` differ.
///
/// # Errors
/// Where widths differ, or there are fewer reference features than cells.
#[allow(clippy::cast_precision_loss)]
pub fn ndb(x: &Tensor, y: &Tensor, cells: usize, seed: u64) -> Result<f64> {
    same_width(x, y)?;
    let (n, m) = (rows(x)?.0, rows(y)?.0);
    if cells == 0 || m < cells || n == 0 {
        return Err(Error::data(format!("{m} reference sounds"))
            .why(format!("{cells} cells need at least as many"))
            .hint("ask for fewer cells, or give a larger reference"));
    }
    let host = |t: &Tensor| -> Result<Tensor> { Ok(t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?) };
    let (x, y) = (host(x)?, host(y)?);
    let centres = kmeans(&y, cells, (1, ROUNDS), seed)?.centres;
    let counts = |t: &Tensor| -> Result<Vec<f64>> {
        tensor_to_f64(&nearest(t, &centres)?.1.f_bincount::<Tensor>(None, cells as i64)?)
    };
    let (own, other) = (counts(&x)?, counts(&y)?);
    let different = own.iter().zip(&other).filter(|(a, b)| differs(**a, n as f64, **b, m as f64)).count();
    Ok(different as f64 / cells as f64)
}

/// Whether `a` of `n` and `b` of `m` are different shares.
fn differs(a: f64, n: f64, b: f64, m: f64) -> bool {
    let pooled = (a + b) / (n + m);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    deviation > 0.0 && ((a / n - b / m) / deviation).abs() > BOUND
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    #[test]
    fn equal_sets_do_not_differ_and_missing_modes_do() {
        let mut random = Generator::new(1).unwrap();
        let spots = |random: &mut Generator, of: &[i64], n: i64| {
            let parts: Vec<Tensor> = of
                .iter()
                .map(|k| {
                    random.normal(&[n, 2], Kind::Float).unwrap() * 0.01
                        + Tensor::from_slice(&[*k as f32, 0.0])
                })
                .collect();
            Tensor::cat(&parts, 0)
        };
        let all: Vec<i64> = (0..10).collect();
        let y = spots(&mut random, &all, 100);
        let same = spots(&mut random, &all, 80);
        assert!(ndb(&same, &y, 10, 0).unwrap() <= 0.1);
        let half = spots(&mut random, &all[..5], 160);
        assert_eq!(ndb(&half, &y, 10, 0).unwrap(), 1.0, "five modes are missing, five have too much");
        assert!(ndb(&same, &y, 2000, 0).is_err());
    }

    #[test]
    fn the_test_is_the_two_proportion_one() {
        // 30 of 100 against 20 of 100: z = 0.1 / sqrt(0.25 0.75 0.02) = 1.633; 35 of 100: z = 2.371.
        assert!(!differs(30.0, 100.0, 20.0, 100.0) && differs(35.0, 100.0, 20.0, 100.0));
        assert!(!differs(0.0, 10.0, 0.0, 10.0));
    }
}
