//! Small fixed hashes and streams: the same numbers on every machine and in every version.

/// FNV-1a, 64 bits, of `bytes` (Fowler, Noll and Vo).
#[must_use]
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    #[allow(clippy::cast_precision_loss)]
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [0, 1), a multiple of 2^-24 (exact in f32).
    #[allow(clippy::cast_precision_loss)]
    pub fn uniform24(&mut self) -> f64 {
        (self.next_u64() >> 40) as f64 / f64::from(1 << 24)
    }

    /// A whole number uniform in `[0, n)`, without bias (Lemire 2019, "Fast random integer generation in an
    /// interval").
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            let low = product as u64;
            if low >= n || low >= n.wrapping_neg() % n {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box and Muller 1958; one of the pair, so that the stream stays simple).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// A seed for the stream `name` of the run `seed`.
#[must_use]
pub fn named_seed(seed: u64, name: &str) -> u64 {
    SplitMix64::new(seed ^ fnv1a64(name.as_bytes())).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_published_ones() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a64(b"fc.bias"), 0x145e_200a_f8fe_4b85);
        // First outputs of the reference implementation for seed 1234567.
        let mut stream = SplitMix64::new(1_234_567);
        assert_eq!(stream.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(stream.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn normals_have_moments_0_and_1() {
        let mut stream = SplitMix64::new(3);
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let var = draws.iter().map(|x| x * x).sum::<f64>() / 1e5 - mean * mean;
        assert!(mean.abs() < 4.0 / 1e5f64.sqrt(), "{mean}");
        assert!((var - 1.0).abs() < 4.0 * (2.0 / 1e5f64).sqrt(), "{var}");
    }

    #[test]
    fn the_mixer_gives_its_published_values() {
        assert_eq!(SplitMix64::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(SplitMix64::new(1).next_u64(), 0x910a_2dec_8902_5cc1);
        let mut s = SplitMix64::new(1);
        let a: Vec<f64> = (0..3).map(|_| s.uniform24()).collect();
        for (got, want) in a.iter().zip([0.5665615201, 0.745781719685, 0.971002697945]) {
            assert!((got - want).abs() < 1e-10);
        }
    }

    #[test]
    fn bounded_integers_are_uniform() {
        let mut s = SplitMix64::new(5);
        let mut counts = [0usize; 7];
        (0..70_000).for_each(|_| counts[s.below(7) as usize] += 1);
        // Chi-square with 6 degrees of freedom: 22.5 is the 0.1 % point.
        let chi2: f64 = counts.iter().map(|&c| (c as f64 - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 22.5, "{counts:?}");
    }
}
