//! Philox4x32-10, the counter-based generator behind CUDA's random numbers.
//!
//! Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The layout is that of PyTorch's
//! `torch.randn(..., device="cuda")`: element i of a draw is the first normal of subsequence i, and
//! each draw moves the offset of every subsequence on by one block of four. That is exact for draws of
//! up to one element per CUDA thread (about 270 000 elements on a large GPU), which every latent here is.

/// A stream of normal numbers keyed by a 64-bit seed.
#[derive(Debug, Clone)]
pub struct Philox {
    seed: u64,
    offset: u64,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32.
#[must_use]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        counter = [high32(b) ^ counter[1] ^ key[0], low(b), high32(a) ^ counter[3] ^ key[1], low(a)];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

fn high32(x: u64) -> u32 {
    (x >> 32) as u32
}

fn low(x: u64) -> u32 {
    (x & 0xFFFF_FFFF) as u32
}

impl Philox {
    /// The stream of `torch.Generator("cuda").manual_seed(seed)`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Philox { seed, offset: 0 }
    }

    /// The next `n` standard normal numbers.
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        let key = [low(self.seed), high32(self.seed)];
        let offset = self.offset;
        self.offset += 1;
        (0..n as u64)
            .map(|i| {
                let bits = philox4x32([low(offset), high32(offset), low(i), high32(i)], key);
                box_muller(bits[0], bits[1])
            })
            .collect()
    }
}

impl Philox {
    /// The next whole number in `[0, high)`, as `torch.randint` on CUDA makes it from 32 bits.
    pub fn below(&mut self, high: u64) -> u64 {
        let key = [low(self.seed), high32(self.seed)];
        let bits = philox4x32([low(self.offset), high32(self.offset), 0, 0], key);
        self.offset += 1;
        u64::from(bits[0]) % high.max(1)
    }
}

/// The first of the two normals of cuRAND's Box-Muller transform, in f32 as on the GPU.
fn box_muller(x: u32, y: u32) -> f32 {
    const SCALE: f32 = 2.328_306_4e-10; // 2^-32
    const ANGLE: f32 = SCALE * std::f32::consts::TAU;
    let u = x as f32 * SCALE + SCALE / 2.0;
    let v = y as f32 * ANGLE + ANGLE / 2.0;
    (-2.0 * u.ln()).sqrt() * v.sin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors() {
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox4x32(counter, key), want);
        }
    }

    #[test]
    fn draws_are_standard_normal_and_seeds_independent() {
        let n = 200_000;
        let (a, b) = (Philox::new(5).normal(n), Philox::new(6).normal(n));
        let mean = |x: &[f32], f: &dyn Fn(usize) -> f64| (0..x.len()).map(f).sum::<f64>() / x.len() as f64;
        let m = mean(&a, &|i| f64::from(a[i]));
        let v = mean(&a, &|i| f64::from(a[i]).powi(2));
        let c = mean(&a, &|i| f64::from(a[i]) * f64::from(b[i]));
        let sd = 1.0 / (n as f64).sqrt();
        assert!(m.abs() < 4.0 * sd && (v - 1.0).abs() < 6.0 * sd && c.abs() < 4.0 * sd, "{m} {v} {c}");
    }

    #[test]
    fn a_second_draw_goes_on() {
        let mut p = Philox::new(1);
        assert_ne!(p.normal(4), p.normal(4));
    }
}
