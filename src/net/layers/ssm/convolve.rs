//! Long convolutions by FFT.

use tch::{Kind, Tensor};

use crate::error::Result;

/// The least length not below `n` whose only factors are 2, 3 and 5.
pub(super) fn fast_length(n: i64) -> i64 {
    let mut best = 1;
    while best < n {
        best *= 2;
    }
    let mut fives = 1;
    while fives < best {
        let mut threes = fives;
        while threes < best {
            let mut whole = threes;
            while whole < n {
                whole *= 2;
            }
            best = best.min(whole);
            threes *= 3;
        }
        fives *= 5;
    }
    best
}

/// `y_t = sum_{s <= t} k_{t-s} u_s` of `u` `[B, H, L]` with kernels `[1, H, L]`; with kernels `[2, H, L]` also the
/// second one backwards, `sum_{s > t} k1_{s-t-1} u_s`. In f32 or f64, never less: what lies beyond the end is padded
/// with zeros, so that nothing wraps around.
pub(super) fn convolve(u: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    let len = u.size()[2];
    let n = fast_length(2 * len);
    let kind = if kernel.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let u = u.f_to_kind(kind)?;
    let kernel = kernel.f_to_kind(kind)?;
    let whole = if kernel.size()[0] == 2 {
        let forward = kernel.f_select(0, 0)?.f_constant_pad_nd([0, n - len])?;
        let backward = kernel.f_select(0, 1)?.f_flip([-1])?.f_constant_pad_nd([n - len, 0])?;
        forward.f_add(&backward)?
    } else {
        kernel.f_select(0, 0)?
    };
    let product = u.f_fft_rfft(n, -1, "backward")?.f_mul(&whole.f_fft_rfft(n, -1, "backward")?)?;
    Ok(product.f_fft_irfft(n, -1, "backward")?.f_narrow(2, 0, len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_small_factors_only() {
        for (n, want) in
            [(1, 1), (7, 8), (17, 18), (31, 32), (2002, 2025), (32_000, 32_000), (262_144, 262_144)]
        {
            assert_eq!(fast_length(n), want);
        }
    }

    #[test]
    fn both_directions_start_where_they_must() {
        let k = Tensor::from_slice(&[1f64, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).reshape([2, 1, 4]);
        for (u, want) in [
            ([1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]),
            ([0.0, 0.0, 0.0, 1.0], [7.0, 6.0, 5.0, 1.0]),
            ([1.0, -1.0, 2.0, 0.5], [11.5, 14.0, 5.5, 5.5]),
        ] {
            let y = convolve(&Tensor::from_slice(&u).reshape([1, 1, 4]), &k).unwrap();
            for (i, want) in want.iter().enumerate() {
                assert!((y.double_value(&[0, 0, i as i64]) - want).abs() < 1e-12, "{y}");
            }
        }
    }
}
