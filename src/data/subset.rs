//! A part of a dataset, in an order of its own.

use std::sync::Arc;

use super::order::permutation;
use super::{Dataset, Item, Split, SplitOrder};
use crate::error::{Error, Result};

/// Some images of another dataset.
#[derive(Debug)]
pub struct Subset {
    of: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The images `indices` of `of`, in that order.
    ///
    /// # Errors
    /// Where an index is beyond the dataset.
    pub fn new(of: Arc<dyn Dataset>, indices: Vec<usize>) -> Result<Self> {
        if let Some(i) = indices.iter().find(|&&i| i >= of.len()) {
            return Err(Error::run(format!("image {i} of {}", of.len())));
        }
        Ok(Subset { of, indices })
    }

    /// The indices into the whole dataset.
    #[must_use]
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }
}

/// The images of `split` among `n`, of which `held_out` are for testing, ascending.
///
/// # Errors
/// Where a part would be empty.
pub fn split_indices(n: usize, held_out: usize, split: Split, order: SplitOrder) -> Result<Vec<usize>> {
    if split == Split::All {
        return Ok((0..n).collect());
    }
    if held_out == 0 || held_out >= n {
        return Err(Error::usage(format!("cannot hold out {held_out} of {n} images")).at("data.held_out"));
    }
    let all = match order {
        SplitOrder::Shuffled => permutation(n, 0, 0),
        SplitOrder::File => (0..n).collect(),
    };
    let (train, test) = all.split_at(n - held_out);
    let mut part = if split == Split::Train { train.to_vec() } else { test.to_vec() };
    part.sort_unstable();
    Ok(part)
}

impl Dataset for Subset {
    fn stamp(&self) -> Option<String> {
        // Names may be numbers within the part.
        Some(format!("{} {:?}", self.of.stamp()?, self.indices))
    }
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn shape(&self) -> [usize; 3] {
        self.of.shape()
    }
    fn classes(&self) -> usize {
        self.of.classes()
    }
    fn get(&self, i: usize) -> Result<Item> {
        let at = self.indices.get(i).ok_or_else(|| Error::run(format!("image {i} of {}", self.len())))?;
        self.of.get(*at)
    }
    fn label(&self, i: usize) -> Option<i64> {
        self.of.label(*self.indices.get(i)?)
    }
    fn name(&self, i: usize) -> String {
        self.indices.get(i).map_or_else(String::new, |&at| self.of.name(at))
    }
    fn notes(&self) -> Vec<String> {
        self.of.notes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_complete() {
        for order in [SplitOrder::Shuffled, SplitOrder::File] {
            let train = split_indices(1797, 397, Split::Train, order).unwrap();
            let test = split_indices(1797, 397, Split::Test, order).unwrap();
            assert_eq!((train.len(), test.len()), (1400, 397));
            let mut all = [train, test].concat();
            all.sort_unstable();
            assert_eq!(all, split_indices(1797, 397, Split::All, order).unwrap());
        }
        assert_eq!(split_indices(4, 1, Split::Test, SplitOrder::File).unwrap(), [3]);
        assert!(split_indices(4, 4, Split::Test, SplitOrder::File).is_err());
        assert!(split_indices(4, 0, Split::Train, SplitOrder::File).is_err());
    }
}
