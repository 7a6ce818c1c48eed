//! Fixed pseudo-random orders: the same on every machine, for ever.

use std::sync::{Arc, Mutex, PoisonError};

use crate::math::rng::SplitMix64;

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
}
