//! Separable FIR resampling by a factor of 2 (Karras et al. 2020, "Analyzing and improving the image
//! quality of StyleGAN"; the filter `[1, 3, 3, 1]` there, `[1, 1]` for plain mean and repeat).

use tch::Tensor;

use crate::error::{Error, Result};
use crate::net::store::{Path, Store};

/// A two-dimensional low-pass filter, the outer product of its taps with sum 1.
#[derive(Debug)]
pub struct Fir {
    /// `[1, 1, k, k]`.
    filter: Tensor,
    taps: i64,
    /// All taps equal and two of them: mean and repeat, for which libtorch has faster kernels.
    pair: bool,
}

impl Fir {
    /// A filter of an even number of taps, stored as the constant `resample_filter`.
    ///
    /// # Errors
    /// Where the number of taps is odd, their sum is zero, or the name is taken.
    pub fn new(p: &Path, taps: &[f64]) -> Result<Self> {
        let (outer, n) = outer(taps)?;
        let filter = p.constant("resample_filter", &[1, 1, n, n], &outer)?;
        Ok(Self::of(filter, taps, n))
    }

    /// The same filter for tensors like those of `store`, without a name in it.
    ///
    /// # Errors
    /// Where the number of taps is odd, or their sum is zero.
    pub fn unnamed(store: &Store, taps: &[f64]) -> Result<Self> {
        let (outer, n) = outer(taps)?;
        let filter = Tensor::f_from_slice(&outer)?.f_reshape([1, 1, n, n])?;
        Ok(Self::of(filter.f_to_kind(store.kind())?.f_to_device(store.device())?, taps, n))
    }

    fn of(filter: Tensor, taps: &[f64], n: i64) -> Self {
        let pair = taps.len() == 2 && taps[0].to_bits() == taps[1].to_bits();
        Fir { filter, taps: n, pair }
    }

    /// Padding that keeps the image's extent.
    pub(super) fn padding(&self) -> i64 {
        (self.taps - 1) / 2
    }

    /// `x` `[B, C, H, W]` to `[B, C, H/2, W/2]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn down(&self, x: &Tensor) -> Result<Tensor> {
        self.down_padded(x, self.padding())
    }

    /// As [`Fir::down`] with another padding (for inputs that carry their own margin).
    pub(super) fn down_padded(&self, x: &Tensor, padding: i64) -> Result<Tensor> {
        if self.pair && padding == 0 {
            return Ok(x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?);
        }
        let channels = x.size()[1];
        let filter = self.filter.f_to_kind(x.kind())?.f_expand([channels, 1, self.taps, self.taps], false)?;
        Ok(x.f_conv2d(&filter, None::<Tensor>, [2, 2], [padding; 2], [1, 1], channels)?)
    }

    /// As [`Fir::down`], with the image mirrored at its edges instead of zeros around it.
    ///
    /// # Errors
    /// Where the image is too small to be mirrored, or libtorch fails.
    pub fn down_mirrored(&self, x: &Tensor) -> Result<Tensor> {
        self.down_padded(&x.f_reflection_pad2d([self.padding(); 4])?, 0)
    }

    /// `x` `[B, C, H, W]` to `[B, C, 2H, 2W]`, mean preserved.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn up(&self, x: &Tensor) -> Result<Tensor> {
        if self.pair {
            let size = x.size();
            return Ok(x.f_upsample_nearest2d([2 * size[2], 2 * size[3]], Some(2.0), Some(2.0))?);
        }
        self.spread(x, self.padding())
    }

    /// As [`Fir::up`], with the image mirrored at its edges instead of zeros around it.
    ///
    /// # Errors
    /// Where the image is too small to be mirrored, or libtorch fails.
    pub fn up_mirrored(&self, x: &Tensor) -> Result<Tensor> {
        // The mirrored pixels a filter reaches from the edge; what they add outside is cut off again.
        let margin = (self.padding() + 1) / 2;
        self.spread(&x.f_reflection_pad2d([margin; 4])?, self.padding() + 2 * margin)
    }

    /// Transposed filter of stride 2 and gain 4, without the outer `padding` pixels.
    fn spread(&self, x: &Tensor, padding: i64) -> Result<Tensor> {
        let channels = x.size()[1];
        let filter = self.filter.f_mul_scalar(4.0)?.f_to_kind(x.kind())?;
        let filter = filter.f_expand([channels, 1, self.taps, self.taps], false)?;
        Ok(x.f_conv_transpose2d(&filter, None::<Tensor>, [2, 2], [padding; 2], [0, 0], channels, [1, 1])?)
    }
}

/// The outer product of `taps` with sum 1, and their number.
fn outer(taps: &[f64]) -> Result<(Vec<f64>, i64)> {
    let sum: f64 = taps.iter().sum();
    if taps.is_empty() || taps.len() % 2 == 1 || sum == 0.0 || !sum.is_finite() {
        return Err(Error::model(format!("resampling filter {taps:?}"))
            .why("it needs an even number of taps whose sum is not zero"));
    }
    let n = i64::try_from(taps.len()).map_err(|_| Error::model("resampling filter is too long"))?;
    Ok((taps.iter().flat_map(|a| taps.iter().map(move |b| a * b / (sum * sum))).collect(), n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::layers::conv::{FirConv2d, Resample};
    use crate::net::layers::init::Init;
    use crate::torch::shim::Generator;
    use tch::{Device, Kind};

    fn noise(shape: &[i64], seed: u64) -> Tensor {
        Generator::new(seed).unwrap().normal(shape, Kind::Double).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    fn fir(taps: &[f64]) -> Fir {
        Fir::new(&Store::new(Device::Cpu, Kind::Double, 0).root(), taps).unwrap()
    }

    /// The definition: zero-pad, correlate with the filter, keep every second value.
    fn down_by_hand(x: &Tensor, taps: &[f64]) -> Tensor {
        let sum: f64 = taps.iter().sum();
        let pad = (taps.len() as i64 - 1) / 2;
        let size = x.size();
        let padded = x.constant_pad_nd([pad, pad, pad, pad]);
        let mut out =
            Tensor::zeros([size[0], size[1], size[2] / 2, size[3] / 2], (Kind::Double, Device::Cpu));
        for (i, a) in taps.iter().enumerate() {
            for (j, b) in taps.iter().enumerate() {
                let rows = padded.slice(2, i as i64, i as i64 + size[2] - 1, 2);
                out += rows.slice(3, j as i64, j as i64 + size[3] - 1, 2) * (a * b / (sum * sum));
            }
        }
        out
    }

    #[test]
    fn down_is_filter_and_decimate() {
        let x = noise(&[2, 3, 8, 8], 1);
        for taps in [vec![1.0, 1.0], vec![1.0, 3.0, 3.0, 1.0]] {
            assert!(gap(&fir(&taps).down(&x).unwrap(), &down_by_hand(&x, &taps)) < 1e-14);
        }
    }

    #[test]
    fn up_is_4_times_the_adjoint_of_down() {
        for taps in [vec![1.0, 1.0], vec![1.0, 3.0, 3.0, 1.0]] {
            let (x, y, f) = (noise(&[1, 2, 4, 4], 2), noise(&[1, 2, 8, 8], 3), fir(&taps));
            let up = f.up(&x).unwrap();
            assert_eq!(up.size(), [1, 2, 8, 8]);
            let (a, b) = ((up * &y).sum(Kind::Double), (x * f.down(&y).unwrap()).sum(Kind::Double) * 4.0);
            assert!(gap(&a, &b) < 1e-12);
        }
    }

    #[test]
    fn pair_shortcuts_are_the_general_filter() {
        let x = noise(&[1, 3, 6, 6], 4);
        let fast = fir(&[1.0, 1.0]);
        let slow = Fir { pair: false, filter: fast.filter.shallow_clone(), taps: 2 };
        assert!(gap(&fast.down(&x).unwrap(), &slow.down(&x).unwrap()) < 1e-15);
        assert!(gap(&fast.up(&x).unwrap(), &slow.up(&x).unwrap()) < 1e-15);
    }

    #[test]
    fn mirrored_edges_keep_a_constant() {
        let (f, x) =
            (fir(&[1.0, 3.0, 3.0, 1.0]), Tensor::full([1, 2, 6, 4], 3.0, (Kind::Double, Device::Cpu)));
        for (y, size) in
            [(f.down_mirrored(&x).unwrap(), [1, 2, 3, 2]), (f.up_mirrored(&x).unwrap(), [1, 2, 12, 8])]
        {
            assert_eq!(y.size(), size);
            assert!((y - 3.0).abs().max().double_value(&[]) < 1e-14);
        }
        // Away from the edges mirrored and zero-padded filters are the same.
        let x = noise(&[1, 2, 8, 8], 6);
        let inner = |t: Tensor, n: i64| t.narrow(2, n, t.size()[2] - 2 * n).narrow(3, n, t.size()[3] - 2 * n);
        assert!(gap(&inner(f.up_mirrored(&x).unwrap(), 2), &inner(f.up(&x).unwrap(), 2)) < 1e-14);
        assert!(gap(&inner(f.down_mirrored(&x).unwrap(), 1), &inner(f.down(&x).unwrap(), 1)) < 1e-14);
    }

    #[test]
    fn convolving_first_is_filter_then_strided_convolution() {
        // Both orders are linear maps; with margins of k/2 + filter padding they commute: filter with
        // full margin at stride 1, then the 3x3 convolution with stride 2 and no padding.
        let store = Store::new(Device::Cpu, Kind::Double, 9);
        let taps = [1.0, 3.0, 3.0, 1.0];
        let init = (Init::XavierUniform(1.0), Init::ZEROS);
        let layer =
            FirConv2d::new(&store.root(), (2, 5), 3, init, Resample::Down, &taps).unwrap().conv_first();
        let x = noise(&[1, 2, 8, 8], 5);
        let filter = store.get("resample_filter").unwrap().expand([2, 1, 4, 4], false);
        let filtered = x.conv2d(&filter, None::<Tensor>, [1, 1], [2, 2], [1, 1], 2);
        let want = filtered.conv2d(&store.get("weight").unwrap(), None::<Tensor>, [2, 2], [0, 0], [1, 1], 1);
        assert!(gap(&layer.forward(&x).unwrap(), &want) < 1e-13);
    }

    #[test]
    fn odd_filters_are_refused() {
        assert!(Fir::new(&Store::new(Device::Cpu, Kind::Float, 0).root(), &[1.0, 2.0, 1.0]).is_err());
    }
}
