//! What a network is told of the diffusion step.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::net::layers::embed::Sinusoid;
use crate::net::layers::linear::Linear;
use crate::net::layers::silu;
use crate::net::store::Path;

/// The sinusoids of a step, 64 frequencies, `[sin, cos]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StepTable {
    /// Frequencies `10000^(-j/63)`, of any (fractional) step: the code published with the paper and what came of it.
    Exp {},
    /// Frequencies `10^(4j/63)`, as the paper (Kong et al. 2021, "DiffWave", section 2.3) has them: a table in f32
    /// of the steps 0 ... steps - 1, between two of them linear in its rows, and held at its ends.
    Pow10 {
        /// Number of rows.
        steps: i64,
    },
}

impl Default for StepTable {
    fn default() -> Self {
        StepTable::Exp {}
    }
}

/// Sinusoids of a step.
pub(super) const FEATURES: i64 = 128;
/// Width of the embedding.
pub(super) const WIDTH: i64 = 512;

#[derive(Debug)]
enum Table {
    Exp(Sinusoid),
    Pow10(Tensor),
}

/// Step `[B]` to embedding `[B, 512]`: sinusoids, then twice a linear map and SiLU.
#[derive(Debug)]
pub(super) struct StepEmbedding {
    table: Table,
    first: Linear,
    second: Linear,
}

impl StepEmbedding {
    /// The embedding with its linear maps `fc_t1` and `fc_t2` below `p`.
    pub(super) fn new(p: &Path, table: StepTable) -> Result<Self> {
        let table = match table {
            StepTable::Exp {} => Table::Exp(Sinusoid::new(p, FEATURES, 1.0, false)?),
            StepTable::Pow10 { steps } => {
                if !(2..=1_000_000).contains(&steps) {
                    return Err(Error::model(format!("a table of {steps} diffusion steps"))
                        .why("2 are needed, and a million are enough"));
                }
                Table::Pow10(pow10(steps)?.f_to_device(p.store().device())?)
            }
        };
        let first = Linear::new(&(p / "fc_t1"), FEATURES, WIDTH)?;
        Ok(StepEmbedding { table, first, second: Linear::new(&(p / "fc_t2"), WIDTH, WIDTH)? })
    }

    /// `t` `[B]`, the (fractional) index of the step, to `[B, 512]` of the dtype `kind`.
    pub(super) fn forward(&self, t: &Tensor, kind: Kind) -> Result<Tensor> {
        let features = match &self.table {
            Table::Exp(sinusoid) => sinusoid.forward(t)?,
            Table::Pow10(table) => rows(table, t)?,
        };
        silu(self.second.forward(&silu(self.first.forward(&features.f_to_kind(kind)?)?)?)?)
    }
}

/// The table `[steps, 128]`. Its upper frequencies are far above one a step, so that rounding is part of it: every
/// operation is in f32, as it is where networks are trained with it.
fn pow10(steps: i64) -> Result<Tensor> {
    let float = (Kind::Float, Device::Cpu);
    let exponents = Tensor::f_arange(FEATURES / 2, float)?.f_mul_scalar(4.0)?.f_div_scalar(63.0)?;
    let frequencies = Tensor::f_pow_scalar(10.0, &exponents)?;
    let phase = Tensor::f_arange(steps, float)?.f_unsqueeze(1)?.f_mul(&frequencies)?;
    Ok(Tensor::f_cat(&[phase.f_sin()?, phase.f_cos()?], 1)?)
}

/// Rows of `table` at the places `t`, in f64.
fn rows(table: &Tensor, t: &Tensor) -> Result<Tensor> {
    let last = table.size()[0] - 1;
    let t = t.f_to_kind(Kind::Double)?.f_clamp(0.0, last as f64)?;
    let low = t.f_floor()?;
    let row = |at: &Tensor| -> Result<Tensor> {
        Ok(table.f_index_select(0, &at.f_to_kind(Kind::Int64)?)?.f_to_kind(Kind::Double)?)
    };
    let (a, b) = (row(&low)?, row(&t.f_ceil()?)?);
    Ok(a.f_lerp_tensor(&b, &t.f_sub(&low)?.f_unsqueeze(1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;

    #[test]
    fn the_two_tables_have_their_known_values() {
        let at = |table: &Tensor, k: i64| table.double_value(&[0, k]);
        let table = rows(&pow10(200).unwrap(), &Tensor::from_slice(&[10.0])).unwrap();
        for (k, want) in [-0.544021, -0.837199, 0.737868, 0.201418].into_iter().enumerate() {
            assert!((at(&table, k as i64) - want).abs() < 2e-6);
        }
        let store = Store::empty(Device::Cpu, Kind::Double);
        let exp = Sinusoid::new(&store.root(), FEATURES, 1.0, false).unwrap();
        let exp = exp.forward(&Tensor::from_slice(&[10.0])).unwrap();
        for (k, want) in [-0.544021, 0.70675, 0.925205, 0.165516].into_iter().enumerate() {
            assert!((at(&exp, k as i64) - want).abs() < 1e-6);
        }
    }

    #[test]
    fn rows_are_joined_by_lines_and_held_at_the_ends() {
        let table = pow10(50).unwrap();
        let t = Tensor::from_slice(&[7.25, 8.0, -0.5, 49.7]);
        let got = rows(&table, &t).unwrap();
        let row = |i: i64| table.get(i).to_kind(Kind::Double);
        let gap = |i: i64, want: Tensor| (got.get(i) - want).abs().max().double_value(&[]);
        assert!(gap(0, row(7) * 0.75 + row(8) * 0.25) < 1e-14);
        assert!(gap(1, row(8)) == 0.0 && gap(2, row(0)) == 0.0 && gap(3, row(49)) == 0.0);
    }
}
