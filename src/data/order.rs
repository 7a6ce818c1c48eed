//! Fixed pseudo-random orders: the same on every machine, for ever.

use std::sync::{Arc, Mutex, PoisonError};

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

    /// The next value uniform in [0, 1), a multiple of 2^-24 (exact in f32).
    #[allow(clippy::cast_precision_loss)]
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 40) as f64 / f64::from(1 << 24)
    }

    /// The next integer uniform in `[0, n)`, without bias (Lemire 2019, "Fast random integer generation in an
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
}

/// The permutation of `0..n` keyed by `(seed, epoch)`.
#[must_use]
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    // Two rounds of the mixer keep neighbouring seeds and epochs apart.
    let key = SplitMix64::new(seed).next_u64() ^ SplitMix64::new(!epoch).next_u64().rotate_left(17);
    let mut stream = SplitMix64::new(key);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = stream.below(i as u64 + 1) as usize;
        order.swap(i, j);
    }
    order
}

type Epoch = (u64, Arc<Vec<usize>>);

/// The endless order in which a dataset is gone through: a new permutation every epoch, or always the file's.
///
/// A position counts images since the start of training; it is all that is needed to go on where a run stopped.
#[derive(Debug)]
pub struct Order {
    n: usize,
    seed: u64,
    shuffle: bool,
    /// The last two permutations: a batch may straddle two epochs.
    recent: Mutex<Vec<Epoch>>,
}

impl Order {
    /// An order of `n` images.
    #[must_use]
    pub fn new(n: usize, seed: u64, shuffle: bool) -> Self {
        Order { n, seed, shuffle, recent: Mutex::new(Vec::new()) }
    }

    fn epoch(&self, epoch: u64) -> Arc<Vec<usize>> {
        // A panic elsewhere cannot leave the list half-changed.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(e, _)| *e == epoch) {
            return Arc::clone(order);
        }
        let order = if self.shuffle { permutation(self.n, self.seed, epoch) } else { (0..self.n).collect() };
        let order = Arc::new(order);
        if recent.len() == 2 {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        order
    }

    /// The images at positions `start .. start + count`.
    #[must_use]
    pub fn indices(&self, start: u64, count: usize) -> Vec<usize> {
        let n = self.n as u64;
        let mut out = Vec::with_capacity(count);
        if n == 0 {
            return out;
        }
        let mut at = start;
        while out.len() < count {
            let order = self.epoch(at / n);
            let from = (at % n) as usize;
            let take = (count - out.len()).min(self.n - from);
            out.extend_from_slice(&order[from..from + take]);
            at += take as u64;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixer_gives_its_published_values() {
        assert_eq!(SplitMix64::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(SplitMix64::new(1).next_u64(), 0x910a_2dec_8902_5cc1);
        let mut s = SplitMix64::new(1);
        let a: Vec<f64> = (0..3).map(|_| s.uniform()).collect();
        for (got, want) in a.iter().zip([0.5665615201, 0.745781719685, 0.971002697945]) {
            assert!((got - want).abs() < 1e-10);
        }
    }

    #[test]
    fn every_epoch_is_a_permutation_of_its_own() {
        let sorted = |mut v: Vec<usize>| {
            v.sort_unstable();
            v
        };
        let (a, b, c) = (permutation(1000, 0, 0), permutation(1000, 0, 1), permutation(1000, 1, 0));
        for p in [&a, &b, &c] {
            assert_eq!(sorted(p.clone()), (0..1000).collect::<Vec<_>>());
        }
        let same = |x: &[usize], y: &[usize]| x.iter().zip(y).filter(|(a, b)| a == b).count();
        assert!(same(&a, &b) < 12 && same(&a, &c) < 12 && same(&b, &c) < 12);
        assert_eq!(a, permutation(1000, 0, 0));
        // A change of these numbers would change every run that is resumed.
        assert_eq!(permutation(8, 0, 0), GOLDEN);
    }

    const GOLDEN: [usize; 8] = [7, 0, 5, 6, 3, 4, 1, 2];

    #[test]
    fn positions_go_on_across_epochs() {
        let order = Order::new(7, 3, true);
        let all = order.indices(0, 30);
        assert_eq!(all[..7], permutation(7, 3, 0));
        assert_eq!(all[7..14], permutation(7, 3, 1));
        for start in [0u64, 1, 6, 7, 13, 20] {
            assert_eq!(order.indices(start, 9), all[start as usize..start as usize + 9]);
        }
        assert_eq!(Order::new(3, 0, false).indices(2, 5), [2, 0, 1, 2, 0]);
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
