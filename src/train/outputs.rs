//! What a run writes beside its checkpoints: held-out losses, sample grids, snapshots.

use std::path::PathBuf;

use super::preview;
use super::trainer::{Event, Trainer};
use crate::denoiser::network::Compute;
use crate::error::{Error, Result};
use crate::io::png;
use crate::io::wav::{self, WavFormat};
use crate::model::card::ModelCard;
use crate::optim::ema::Ema;

impl Trainer {
    /// Measures the loss on the held-out data, if there are any, and says it.
    pub(super) fn validate(
        &mut self,
        watch: &mut dyn FnMut(&Event<'_>) -> Result<()>,
    ) -> Result<Option<f64>> {
        let Some(validation) = &self.validation else { return Ok(None) };
        let weights = self.emas.first().map_or_else(|| self.store.named(), |(_, ema)| ema.named());
        let loss = (self.objective.as_ref(), self.process.as_ref());
        let values = validation.run(&self.recipe, weights, loss, (self.compute(), self.device))?;
        self.log.validation(self.at.step, &values)?;
        watch(&Event::Validated(self.at.step, &values))?;
        Ok(values.get("val_loss").copied())
    }

    pub(super) fn draw_samples(&mut self, watch: &mut dyn FnMut(&Event<'_>) -> Result<()>) -> Result<()> {
        let card = self.card(self.emas.first());
        let weights = self.emas.first().map_or_else(|| self.store.named(), |(_, ema)| ema.named());
        let compute = self.compute();
        let Some(drawn) =
            preview::draw(&card, weights, compute, self.device, self.recipe.train.sample_count)?
        else {
            return Ok(());
        };
        let path = self.folder.samples(self.at.step);
        png::write(&path, &drawn.picture, &[])?;
        for (seed, sound) in drawn.sounds.iter().enumerate() {
            let folder = path.with_extension("");
            std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, &e))?;
            wav::write_sound(&folder.join(format!("{seed:06}.wav")), sound, WavFormat::default())?;
        }
        self.log.image(self.at.step, &drawn.picture)?;
        self.log.draw()?;
        watch(&Event::Wrote(&path))
    }

    fn card(&self, ema: Option<&(String, Ema)>) -> ModelCard {
        let card = preview::card(&self.recipe, &self.shape, (self.classes, self.rate), self.at, ema);
        ModelCard { tokenizer: self.tokenizer.clone(), ..card }
    }

    fn compute(&self) -> Compute {
        let precision = self.recipe.train.precision;
        Compute {
            kind: precision.storage(),
            autocast: precision.autocast(),
            channels_last: self.recipe.train.channels_last,
        }
    }

    /// Writes every average of the weights as a model file; gives the first.
    pub(super) fn save_snapshots(&self, watch: &mut dyn FnMut(&Event<'_>) -> Result<()>) -> Result<PathBuf> {
        let mut first = None;
        if self.emas.is_empty() {
            let card = self.card(None);
            let path = self.folder.snapshot(self.at.step, None);
            crate::io::safetensors::write(&path, self.store.named(), &card.metadata()?)?;
            watch(&Event::Wrote(&path))?;
            first = Some(path);
        }
        for (i, profile) in self.emas.iter().enumerate() {
            let card = self.card(Some(profile));
            let path = self.folder.snapshot(self.at.step, (i > 0).then_some(profile.0.as_str()));
            crate::io::safetensors::write(&path, profile.1.named(), &card.metadata()?)?;
            watch(&Event::Wrote(&path))?;
            first.get_or_insert(path);
        }
        first.ok_or_else(|| Error::run("no weights to write"))
    }
}
