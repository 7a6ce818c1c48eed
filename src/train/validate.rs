//! The loss on held-out data, with the weights that would be written.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use super::resume::mix;
use super::sums::Sums;
use crate::data::feed::Source;
use crate::data::loader::LoaderOptions;
use crate::denoiser::network::Compute;
use crate::error::Result;
use crate::math::rng::SplitMix64;
use crate::net::Mode;
use crate::net::store::Store;
use crate::objective::{Batch, Objective};
use crate::process::Process;
use crate::recipe::Recipe;
use crate::torch::shim::Autocast;

/// Held-out data of a run.
#[derive(Debug)]
pub struct Validation {
    source: Source,
}

impl Validation {
    /// The validation on `source`.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Validation { source }
    }

    /// Mean loss and parts over the first `train.validate_count` examples, under names that begin with `val_`. The
    /// examples and all noise are the same every time.
    ///
    /// # Errors
    /// Where the network fails.
    pub fn run(
        &self,
        recipe: &Recipe,
        weights: Vec<(String, Tensor)>,
        (objective, process): (&dyn Objective, &dyn Process),
        (compute, device): (Compute, Device),
    ) -> Result<BTreeMap<String, f64>> {
        let _no_grad = tch::no_grad_guard();
        let store = Store::empty(device, compute.kind);
        let net = recipe.model.build(&store.root(), &self.source.shape(), self.source.classes())?;
        store.load(&weights.into_iter().collect::<BTreeMap<_, _>>(), "the run's weights")?;
        compute.prepare(&store)?;
        let batch = recipe.train.micro_batch();
        let mut feed = self.source.feed(LoaderOptions {
            batch: batch as usize,
            shuffle: false,
            device,
            ..LoaderOptions::default()
        })?;
        let mut sums = Sums::resume(&BTreeMap::new(), 0, device)?;
        for i in 0..recipe.train.validate_count.div_ceil(batch) {
            let mut keys = SplitMix64::new(mix(!recipe.train.seed, i, 0));
            tch::manual_seed((keys.next_u64() >> 1) as i64);
            let fed = feed.next_batch()?;
            let batch = Batch {
                x: if fed.x.is_floating_point() { fed.x.f_to_kind(compute.kind)? } else { fed.x },
                class: fed.class,
                augment: None,
                mel: None,
                frames: fed.frames,
                draw_seed: keys.next_u64(),
                mode: Mode::Eval,
            };
            let cuda = matches!(device, Device::Cuda(_));
            let _autocast = compute.autocast.map(|kind| Autocast::to(kind, cuda)).transpose()?;
            let losses = objective.loss(net.as_ref(), process, &batch)?;
            sums.add("val_loss", &losses.total)?;
            for (name, value) in &losses.parts {
                sums.add(&format!("val_{name}"), value)?;
            }
            sums.next();
        }
        let mut values = sums.take()?;
        // Bits are those of a token; what tokenizers share is the byte.
        if let (Source::Text(text), Some(bits)) = (&self.source, values.get("val_bits").copied())
            && !text.tokenizer().is_bytes()
        {
            values.insert("val_bits_per_byte".to_owned(), bits / text.bytes_per_token());
        }
        Ok(values)
    }
}
