//! Batches for training: endless, in an order that (seed, position) fixes, for any number of workers.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::order::Order;
use super::prefetch::{Plan, Prefetch};
use super::{Dataset, Item};
use crate::error::{Error, Result};
use crate::io::bytes::tensor_from_bytes;

/// How a loader goes through a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Images per batch.
    pub batch: usize,
    /// Seed of the order.
    pub seed: u64,
    /// A new permutation every epoch, or always the order of the files.
    pub shuffle: bool,
    /// Images already gone through since the start of training.
    pub position: u64,
    /// Threads that decode; sources in memory need none.
    pub workers: usize,
    /// Where batches are made.
    pub device: Device,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        LoaderOptions { batch: 64, seed: 0, shuffle: true, position: 0, workers: 2, device: Device::Cpu }
    }
}

/// One batch.
#[derive(Debug)]
pub struct Batch {
    /// Images `[B, C, H, W]` f32 in [-1, 1]: `byte / 127.5 - 1`.
    pub images: Tensor,
    /// Class indices `[B]` i64, where there are labels.
    pub labels: Option<Tensor>,
    /// Which images of the dataset they are.
    pub indices: Vec<usize>,
}

/// An endless stream of batches.
#[derive(Debug)]
pub struct Loader {
    dataset: Arc<dyn Dataset>,
    order: Arc<Order>,
    options: LoaderOptions,
    position: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// All images as one u8 tensor `[N, C, H, W]` on the device.
    Tensor(Tensor),
    /// Decoded by threads.
    Threads(Prefetch),
}

/// Datasets in memory up to this size are kept on the device as one tensor.
const ON_DEVICE: usize = 1 << 30;

impl Loader {
    /// Starts at `options.position`.
    ///
    /// # Errors
    /// Where the batch is empty, or a thread or tensor cannot be made.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        if options.batch == 0 {
            return Err(Error::usage("batch of 0 images").at("train.batch"));
        }
        let order = Arc::new(Order::new(dataset.len(), options.seed, options.shuffle));
        let shape = dataset.shape();
        let whole = match dataset.dense() {
            Some(bytes) if bytes.len() <= ON_DEVICE => Some(u8_tensor(bytes, dataset.len(), shape)?),
            // A part of a small dataset is small too, and is gathered once.
            None if dataset.len() * shape.iter().product::<usize>() <= 1 << 26
                && dataset.len() <= 1 << 14 =>
            {
                Some(gather(&*dataset, shape)?)
            }
            _ => None,
        };
        let source = match whole {
            Some(tensor) => Source::Tensor(tensor.f_to_device(options.device)?),
            None => {
                let (plan_order, start, batch) = (Arc::clone(&order), options.position, options.batch);
                let plan: Arc<Plan> =
                    Arc::new(move |k| Some(plan_order.indices(start + k * batch as u64, batch)));
                Source::Threads(Prefetch::start(&dataset, &plan, options.workers, 2)?)
            }
        };
        Ok(Loader { position: options.position, dataset, order, options, source })
    }

    /// Images gone through since the start of training: a loader started here goes on with the next batch.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Full passes through the dataset, as a fraction.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn epochs(&self) -> f64 {
        self.position as f64 / self.dataset.len() as f64
    }

    /// The next batch.
    ///
    /// # Errors
    /// Where an image cannot be decoded (the error names it), or libtorch fails.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let n = self.options.batch;
        let indices = self.order.indices(self.position, n);
        let (bytes, labels) = match &mut self.source {
            Source::Tensor(all) => {
                let index: Vec<i64> = indices.iter().map(|&i| i as i64).collect();
                let index = Tensor::f_from_slice(&index)?.f_to_device(self.options.device)?;
                let labels = indices.iter().map(|&i| self.dataset.label(i)).collect();
                (all.f_index_select(0, &index)?, labels)
            }
            Source::Threads(queue) => {
                let items = queue.next().ok_or_else(|| Error::run("a data thread ended early"))??;
                let labels = items.iter().map(|item| item.label).collect();
                (batch_tensor(&items)?.f_to_device(self.options.device)?, labels)
            }
        };
        let labels: Option<Vec<i64>> = labels;
        let labels =
            labels.map(|l| Tensor::f_from_slice(&l)?.f_to_device(self.options.device)).transpose()?;
        self.position += n as u64;
        Ok(Batch { images: normalize(&bytes)?, labels, indices })
    }
}

/// `byte / 127.5 - 1` as f32.
///
/// # Errors
/// Where libtorch fails.
pub fn normalize(bytes: &Tensor) -> Result<Tensor> {
    Ok(bytes.f_to_kind(Kind::Float)?.f_div_scalar_(127.5)?.f_sub_scalar_(1.0)?)
}

fn u8_tensor(bytes: &[u8], n: usize, [c, h, w]: [usize; 3]) -> Result<Tensor> {
    tensor_from_bytes(bytes, &[n, c, h, w].map(|v| v as i64), Kind::Uint8)
}

fn gather(dataset: &dyn Dataset, shape: [usize; 3]) -> Result<Tensor> {
    let mut bytes = Vec::with_capacity(dataset.len() * shape.iter().product::<usize>());
    for i in 0..dataset.len() {
        bytes.extend(dataset.get(i)?.image);
    }
    u8_tensor(&bytes, dataset.len(), shape)
}

/// Images of equal shape as one u8 tensor `[B, C, H, W]`.
///
/// # Errors
/// Where shapes differ.
pub fn batch_tensor(items: &[Item]) -> Result<Tensor> {
    let shape = items.first().map_or([0; 3], |item| item.shape);
    if items.iter().any(|item| item.shape != shape) {
        return Err(Error::run("images of different shapes in one batch"));
    }
    let bytes: Vec<u8> = items.iter().flat_map(|item| item.image.iter().copied()).collect();
    u8_tensor(&bytes, items.len(), shape)
}

/// All images `indices` of a dataset as one u8 tensor `[N, C, H, W]`.
///
/// # Errors
/// Where one cannot be decoded, or shapes differ.
pub fn to_tensor(dataset: &dyn Dataset, indices: impl IntoIterator<Item = usize>) -> Result<Tensor> {
    let items: Vec<Item> = indices.into_iter().map(|i| dataset.get(i)).collect::<Result<_>>()?;
    batch_tensor(&items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::array::{ArrayDataset, Layout};
    use crate::io::bytes::tensor_to_f64;

    /// Image i is constant i; `dense` decides the route.
    fn set(n: u8, dense: bool) -> Arc<dyn Dataset> {
        let layout = if dense { Layout::Chw } else { Layout::Hwc };
        let data: Vec<u8> = (0..n).flat_map(|i| [i; 12]).collect();
        let labels = Some((0..n).map(i64::from).collect());
        let array = ArrayDataset::new(data, layout, [3, 2, 2], labels).unwrap();
        if dense { Arc::new(array) } else { Arc::new(Big(array)) }
    }

    /// Claims to be too large for memory, so that threads are used.
    #[derive(Debug)]
    struct Big(ArrayDataset);
    impl Dataset for Big {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn shape(&self) -> [usize; 3] {
            [3, 1 << 13, 1 << 13]
        }
        fn get(&self, i: usize) -> Result<Item> {
            self.0.get(i)
        }
        fn label(&self, i: usize) -> Option<i64> {
            self.0.label(i)
        }
    }

    fn labels(loader: &mut Loader, batches: usize) -> Vec<f64> {
        (0..batches)
            .flat_map(|_| {
                let batch = loader.next_batch().unwrap();
                let labels = tensor_to_f64(batch.labels.as_ref().unwrap()).unwrap();
                let pixels = tensor_to_f64(&batch.images.select(1, 2).select(1, 1).select(1, 0)).unwrap();
                for (label, pixel) in labels.iter().zip(pixels) {
                    assert!((pixel - (label / 127.5 - 1.0)).abs() < 1e-6);
                }
                labels
            })
            .collect()
    }

    #[test]
    fn any_number_of_workers_gives_the_same_batches() {
        let options = LoaderOptions { batch: 4, seed: 3, ..LoaderOptions::default() };
        let want = labels(&mut Loader::new(set(10, true), options).unwrap(), 8);
        let mut first = want[..10].to_vec();
        first.sort_by(f64::total_cmp);
        assert_eq!(first, (0..10).map(f64::from).collect::<Vec<_>>());
        for workers in [1, 2, 5] {
            let mut loader = Loader::new(set(10, false), LoaderOptions { workers, ..options }).unwrap();
            assert!(matches!(loader.source, Source::Threads(_)));
            assert_eq!(labels(&mut loader, 8), want, "{workers} workers");
        }
    }

    #[test]
    fn a_run_goes_on_where_it_stopped() {
        for dense in [true, false] {
            let options = LoaderOptions { batch: 3, seed: 1, ..LoaderOptions::default() };
            let mut whole = Loader::new(set(7, dense), options).unwrap();
            let want = labels(&mut whole, 6);
            let mut part = Loader::new(set(7, dense), options).unwrap();
            labels(&mut part, 2);
            let position = part.position();
            let mut rest = Loader::new(set(7, dense), LoaderOptions { position, ..options }).unwrap();
            assert_eq!(labels(&mut rest, 4), want[6..]);
            assert!((rest.epochs() - 18.0 / 7.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_bad_image_is_an_error_of_the_loader() {
        #[derive(Debug)]
        struct Broken;
        impl Dataset for Broken {
            fn len(&self) -> usize {
                5
            }
            fn shape(&self) -> [usize; 3] {
                [3, 1 << 13, 1 << 13]
            }
            fn get(&self, i: usize) -> Result<Item> {
                if i == 3 {
                    return Err(Error::data("cannot decode image").at("bad.png"));
                }
                Ok(Item { image: vec![0; 3], shape: [3, 1, 1], label: None })
            }
            fn label(&self, _: usize) -> Option<i64> {
                None
            }
        }
        let options = LoaderOptions { batch: 1, shuffle: false, ..LoaderOptions::default() };
        let mut loader = Loader::new(Arc::new(Broken), options).unwrap();
        (0..3).for_each(|_| assert!(loader.next_batch().unwrap().labels.is_none()));
        assert!(loader.next_batch().unwrap_err().to_string().contains("bad.png"));
        assert!(Loader::new(Arc::new(Broken), LoaderOptions { batch: 0, ..options }).is_err());
    }
}
