//! One pass of images through an extractor.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::features::{Extractor, Features, Wanted};
use super::frechet::{Gaussian, Moments};
use super::inception_weights::hex;
use super::numpy_rng::RandomState;
use super::settings::{EvalOptions, SubsetRule};
use super::stats_file::{Origin, Stats};
use crate::data::loader::batch_tensor;
use crate::data::prefetch::{Plan, Prefetch};
use crate::data::{Dataset, Item};
use crate::error::{Error, Result};

/// What one pass over a set of images gave.
#[derive(Debug)]
pub struct Collected {
    /// Gaussian of the features.
    pub gaussian: Gaussian,
    /// Gaussian of the spatial features.
    pub spatial: Option<Gaussian>,
    /// The features, where they were kept.
    pub features: Option<Tensor>,
    /// The features where there are no more images than features: the Frechet distance is then found from them.
    pub few: Option<Tensor>,
    /// Class logits.
    pub logits: Option<Tensor>,
    /// Classes of the images, where all have one.
    pub labels: Option<Vec<i64>>,
    /// SHA-256 of the list of images.
    pub list_sha256: String,
    /// What a user should know about the images.
    pub notes: Vec<String>,
}

/// Told of images done and images in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// The images to take of `have`.
///
/// # Errors
/// Where there are fewer than `num`, or more under [`SubsetRule::Error`].
pub fn choose(have: usize, num: Option<usize>, rule: SubsetRule, seed: u32) -> Result<Vec<usize>> {
    let num = num.unwrap_or(have);
    if have < num {
        return Err(Error::data(format!("found {have} images, {num} are wanted"))
            .hint("give --num all to take what is there; the number is part of the result"));
    }
    if have == num {
        return Ok((0..have).collect());
    }
    match rule {
        SubsetRule::First => Ok((0..num).collect()),
        SubsetRule::Random => {
            let mut chosen = RandomState::new(seed).choice(have, num);
            chosen.sort_unstable();
            Ok(chosen)
        }
        SubsetRule::Error => Err(Error::data(format!("found {have} images, {num} are wanted"))
            .hint("--subset random or --subset first chooses among them")),
    }
}

/// What a pass gathers on its way.
struct Sink<'a> {
    options: &'a EvalOptions,
    keep: bool,
    moments: Moments,
    spatial: Moments,
    /// Features not yet in the moments: adding to a covariance costs as much for one row as for a hundred.
    pending: Vec<Tensor>,
    rows: i64,
    n: i64,
    features: Vec<Tensor>,
    logits: Vec<Tensor>,
}

impl Sink<'_> {
    /// Rows that go into the moments at once.
    const ROWS: i64 = 256;

    fn take(&mut self, out: Features) -> Result<()> {
        if let Some(map) = &out.spatial {
            self.spatial.update(map)?;
        }
        let (n, width) = out.pool.size2()?;
        self.n += n;
        if self.keep || self.n <= width {
            self.features.push(out.pool.f_to_device(self.options.device)?);
        } else {
            self.features.clear();
        }
        self.logits.extend(out.logits.map(|l| l.f_to_device(Device::Cpu)).transpose()?);
        self.rows += n;
        self.pending.push(out.pool);
        if self.rows >= Self::ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.moments.update(&Tensor::f_cat(&self.pending, 0)?)?;
            self.pending.clear();
            self.rows = 0;
        }
        Ok(())
    }
}

/// Runs the images `indices` of `dataset` through the extractor once. Images may differ in size: each is
/// resized for itself, then they share batches (where the network has a size of its own; otherwise neighbours
/// of one size do). Results do not depend on the batch size beyond rounding, nor on the number of workers.
///
/// # Errors
/// Where an image cannot be decoded (it is named) or the extractor fails.
pub fn collect(
    dataset: &Arc<dyn Dataset>,
    indices: &[usize],
    extractor: &dyn Extractor,
    wanted: Wanted,
    keep_features: bool,
    options: &EvalOptions,
    progress: Progress<'_>,
) -> Result<Collected> {
    if indices.len() < 2 {
        return Err(Error::data(format!("{} images", indices.len()))
            .why("at least 2 are needed")
            .hint("a distance of distributions takes thousands of images to mean something"));
    }
    let batch = options.batch.max(1);
    let jobs: Vec<Vec<usize>> = indices.chunks(batch).map(<[usize]>::to_vec).collect();
    let plan: Arc<Plan> = Arc::new(move |k| jobs.get(usize::try_from(k).ok()?).cloned());
    let queue = Prefetch::start(dataset, &plan, options.workers, 2)?;
    let mut sink = Sink {
        options,
        keep: keep_features,
        moments: Moments::new(),
        spatial: Moments::new(),
        pending: Vec::new(),
        rows: 0,
        n: 0,
        features: Vec::new(),
        logits: Vec::new(),
    };
    let mut done = 0;
    for items in queue {
        let items = items?;
        let mut inputs = Vec::new();
        for group in items.chunk_by(|a, b| a.shape == b.shape) {
            let input = extractor.prepare(&batch_tensor(&grouped(group, extractor)?)?)?;
            if extractor.any_size() {
                inputs.push(input);
            } else {
                sink.take(extractor.forward(&input, wanted)?)?;
            }
        }
        match inputs.as_slice() {
            [] => {}
            [one] => sink.take(extractor.forward(one, wanted)?)?,
            many => sink.take(extractor.forward(&Tensor::f_cat(many, 0)?, wanted)?)?,
        }
        done += items.len();
        progress(done, indices.len());
    }
    sink.flush()?;
    if done != indices.len() {
        return Err(Error::run(format!("{done} of {} images were read", indices.len())));
    }
    let cat = |list: Vec<Tensor>| -> Result<Option<Tensor>> {
        if list.is_empty() { Ok(None) } else { Ok(Some(Tensor::f_cat(&list, 0)?)) }
    };
    let all = cat(sink.features)?;
    let few = all.as_ref().filter(|f| f.size().first() <= f.size().get(1)).map(Tensor::shallow_clone);
    Ok(Collected {
        gaussian: sink.moments.finish()?,
        spatial: if wanted.spatial { Some(sink.spatial.finish()?) } else { None },
        features: all.filter(|_| keep_features),
        few,
        logits: cat(sink.logits)?,
        labels: indices.iter().map(|&i| dataset.label(i)).collect(),
        list_sha256: list_hash(&**dataset, indices),
        notes: dataset.notes(),
    })
}

/// SHA-256 of the names of the images `indices`, one a line.
pub(super) fn list_hash(dataset: &dyn Dataset, indices: &[usize]) -> String {
    let mut hash = Sha256::new();
    for &i in indices {
        hash.update(dataset.name(i).as_bytes());
        hash.update(b"\n");
    }
    hex(&hash.finalize())
}

/// The items with the channels the extractor wants.
fn grouped(group: &[Item], extractor: &dyn Extractor) -> Result<Vec<Item>> {
    let Some(channels) = extractor.channels() else { return Ok(group.to_vec()) };
    group
        .iter()
        .map(|item| match (item.shape[0], channels) {
            (have, want) if have == want => Ok(item.clone()),
            (1, want) => {
                let [_, h, w] = item.shape;
                Ok(Item { image: item.image.repeat(want), shape: [want, h, w], label: item.label })
            }
            (have, want) => {
                Err(Error::data(format!("image has {have} channels")).why(format!("{want} are wanted")))
            }
        })
        .collect()
}

impl Collected {
    /// The pass as statistics that can be written to a file.
    #[must_use]
    pub fn into_stats(self, extractor: &dyn Extractor, source: &str) -> Stats {
        let origin = Origin {
            extractor: Some(extractor.name()),
            weights_sha256: extractor.weights_sha256(),
            protocol: extractor.protocol(),
            resize: extractor.resize(),
            n: self.gaussian.n,
            source: Some(source.to_owned()),
            list_sha256: Some(self.list_sha256),
            gen_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        Stats {
            gaussian: self.gaussian,
            spatial: self.spatial,
            features: self.features,
            origin,
            notes: self.notes,
        }
    }
}
