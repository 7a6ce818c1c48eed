//! Linear layers of a language model, whose weights may be in fewer bits than what goes through them.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::net::layers::init::Init;
use crate::net::store::Path;
use crate::torch::shim::rows::linear_rows;

/// Up to so many rows a product costs what reading the weights costs, and is done by the kernel for that.
const ROWS: i64 = 16;
/// The same for bf16, where libtorch's kernels for many rows (AMX) are faster from here on.
const ROWS_BF16: i64 = 16;

/// `y = x W^T + b` with `W` `[N, K]` in f64, f32, bf16, f16, or 8-bit integers with a scale for each row.
#[derive(Debug)]
pub struct Matrix {
    weight: Tensor,
    scale: Option<Tensor>,
    bias: Option<Tensor>,
}

/// Whether the kernels of the CPU that keep no graph may take these.
pub(super) fn plain(x: &Tensor, weights: &[&Tensor]) -> bool {
    let free = |t: &Tensor| t.device() == Device::Cpu && !t.requires_grad();
    x.kind() == Kind::Float && x.is_contiguous() && free(x) && weights.iter().all(|t| free(t))
}

impl Matrix {
    /// A layer with weights drawn from a normal distribution of standard deviation `std` and no bias at first.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn new(p: &Path, input: i64, out: i64, std: f64, bias: bool) -> Result<Self> {
        let weight = p.param("weight", &[out, input], Init::Normal(std))?;
        let bias = if bias { Some(p.param("bias", &[out], Init::ZEROS)?) } else { None };
        Ok(Matrix { weight, scale: None, bias })
    }

    /// Whether its weights are being trained.
    #[must_use]
    pub fn requires_grad(&self) -> bool {
        self.weight.requires_grad()
    }

    /// Dtype of the weights.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    /// Bytes read by a product.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
        size(&self.weight) + self.scale.as_ref().map_or(0, size) + self.bias.as_ref().map_or(0, size)
    }

    /// `x` `[..., K]` to `[..., N]`, in the dtype of `x`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None)
    }

    /// `add + forward(x)`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward_add(&self, x: &Tensor, add: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(add))
    }

    fn apply(&self, x: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        let (kind, own) = (x.kind(), self.weight.kind());
        let width = self.weight.size()[1].max(1);
        #[allow(clippy::cast_possible_wrap)]
        let rows = x.numel() as i64 / width;
        let most = if own == Kind::BFloat16 { ROWS_BF16 } else { ROWS };
        let narrow = matches!(own, Kind::Float | Kind::BFloat16 | Kind::Half | Kind::Int8);
        if rows <= most && narrow && plain(x, &[&self.weight]) && add.is_none_or(|a| plain(a, &[])) {
            return linear_rows(x, &self.weight, self.scale.as_ref(), self.bias.as_ref(), add);
        }
        let y = if let Some(scale) = &self.scale {
            // 8-bit integers are exact in bf16.
            let compute = if kind == Kind::Double { Kind::Double } else { Kind::BFloat16 };
            let y = x.f_to_kind(compute)?.f_linear(&self.weight.f_to_kind(compute)?, None::<Tensor>)?;
            let y = y.f_to_kind(kind)?.f_mul(&scale.f_to_kind(kind)?)?;
            match &self.bias {
                Some(bias) => y.f_add(&bias.f_to_kind(kind)?)?,
                None => y,
            }
        } else if kind == own {
            x.f_linear(&self.weight, self.bias.as_ref())?
        } else {
            let bias = self.bias.as_ref().map(|b| b.f_to_kind(own)).transpose()?;
            x.f_to_kind(own)?.f_linear(&self.weight, bias)?.f_to_kind(kind)?
        };
        match add {
            Some(add) => Ok(y.f_add(add)?),
            None => Ok(y),
        }
    }

    /// Rows `ids` (any shape, i64) of the weights, in `kind`: `[..., K]`.
    ///
    /// # Errors
    /// Where an id is outside.
    pub fn rows(&self, ids: &Tensor, kind: Kind) -> Result<Tensor> {
        let Some(scale) = &self.scale else {
            return Ok(Tensor::f_embedding(&self.weight, ids, -1, false, false)?.f_to_kind(kind)?);
        };
        let flat = ids.f_flatten(0, -1)?;
        let rows = self.weight.f_index_select(0, &flat)?.f_to_kind(kind)?;
        let rows = rows.f_mul(&scale.f_index_select(0, &flat)?.f_to_kind(kind)?.f_unsqueeze(1)?)?;
        let mut size = ids.size();
        size.push(self.weight.size()[1]);
        Ok(rows.f_view(size.as_slice())?)
    }

    /// Replaces the weights by integers in [-127, 127] with a scale for each row, rounded to nearest.
    ///
    /// # Errors
    /// Where a weight is not finite, or libtorch fails.
    pub fn quantise(&mut self) -> Result<()> {
        if self.scale.is_some() {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        let w = self.weight.f_detach()?.f_to_kind(Kind::Float)?;
        let top = w.f_abs()?.f_amax([1i64].as_slice(), true)?;
        if !top.f_isfinite()?.f_all()?.f_int64_value(&[]).is_ok_and(|fine| fine != 0) {
            return Err(Error::model("weights cannot be quantised").why("one of them is not finite"));
        }
        // A row of zeros has any scale.
        let scale = top.f_div_scalar(127.0)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
        self.weight = w.f_div(&scale)?.f_round()?.f_clamp(-127, 127)?.f_to_kind(Kind::Int8)?;
        self.scale = Some(scale.f_squeeze_dim(1)?.f_contiguous()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;
    use crate::torch::shim::Generator;

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn few_rows_and_many_rows_agree_and_gradients_flow_where_they_are_wanted() {
        let store = Store::new(Device::Cpu, Kind::Float, 1);
        let layer = Matrix::new(&store.root(), 40, 24, 0.1, true).unwrap();
        let x = Generator::new(1).unwrap().normal(&[40, 40], Kind::Float).unwrap();
        let all = layer.forward(&x).unwrap();
        assert!(all.requires_grad() && layer.forward(&x.narrow(0, 0, 2)).unwrap().requires_grad());
        store.set_requires_grad(false).unwrap();
        let few = layer.forward(&x.narrow(0, 0, 2)).unwrap();
        assert!(gap(&few, &all.narrow(0, 0, 2)) < 1e-5 && !few.requires_grad());
        let twice = layer.forward_add(&x, &all).unwrap();
        assert!(gap(&twice, &(&all * 2)) < 1e-5);
    }

    #[test]
    fn eight_bits_are_within_half_a_step() {
        let store = Store::new(Device::Cpu, Kind::Float, 2);
        let mut layer = Matrix::new(&store.root(), 40, 24, 0.1, false).unwrap();
        store.set_requires_grad(false).unwrap();
        let w = store.get("weight").unwrap();
        layer.quantise().unwrap();
        let ids = Tensor::arange(24, (Kind::Int64, Device::Cpu)).view([2, 12]);
        let back = layer.rows(&ids, Kind::Float).unwrap().view([24, 40]);
        let step = w.abs().amax([1i64].as_slice(), true) / 127.0;
        assert!(((&w - &back).abs() / &step).max().double_value(&[]) <= 0.5 + 1e-4);
        let x = Generator::new(1).unwrap().normal(&[40, 40], Kind::Float).unwrap();
        let want = x.matmul(&back.transpose(0, 1));
        assert!(gap(&layer.forward(&x.narrow(0, 0, 3)).unwrap(), &want.narrow(0, 0, 3)) < 1e-5);
        // Many rows go through bf16.
        assert!(gap(&layer.forward(&x).unwrap(), &want) < 0.03);
        let _ = w.get(0).get(0).fill_(f64::NAN);
        let mut layer = Matrix { weight: w, scale: None, bias: None };
        assert!(layer.quantise().is_err());
    }
}
