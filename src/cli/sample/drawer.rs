//! What draws the samples: a solver of a process, or an autoregressive model.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::SampleArgs;
use super::output::hex;
use crate::cli::Globals;
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;
use crate::model::card::ModelCard;
use crate::model::sampler::{Classes, Drawn, Job, Sampler, Settings};
use crate::model::tokens::TokenSampler;

/// Draws batches of samples.
pub enum Drawer<'a> {
    /// Along the grid of a solver.
    Solver(Box<Sampler<'a>>, Settings),
    /// One value after another.
    Tokens(TokenSampler<'a>),
}

impl Drawer<'_> {
    /// Draws the samples of `jobs`; `watch` is told the share that is done.
    ///
    /// # Errors
    /// Where the model fails, a sample is not finite, or `watch` stops the run.
    pub fn draw(
        &mut self,
        jobs: &[Job],
        classes: &Classes,
        init: Option<&Tensor>,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Drawn> {
        match self {
            Drawer::Solver(sampler, _) => sampler.draw(jobs, classes, init, &mut |p| watch(p.fraction)),
            Drawer::Tokens(sampler) => sampler.draw(jobs, classes, watch),
        }
    }

    /// Whether two samples can be of one batch.
    pub fn fit_together(&self, a: &Job, b: &Job) -> bool {
        match self {
            Drawer::Solver(sampler, _) => sampler.fit_together(a, b),
            Drawer::Tokens(_) => true,
        }
    }

    /// Network evaluations of a sample, where the settings alone decide them.
    pub fn nfe(&self) -> Option<u64> {
        match self {
            Drawer::Solver(sampler, _) => sampler.plan().nfe(),
            Drawer::Tokens(sampler) => Some(sampler.nfe()),
        }
    }

    /// Steps of the grid, or of the sequence.
    pub fn steps(&self) -> usize {
        match self {
            Drawer::Solver(sampler, _) => sampler.plan().points().len() - 1,
            Drawer::Tokens(sampler) => usize::try_from(sampler.nfe()).unwrap_or(usize::MAX),
        }
    }

    /// The solver's name, or what it is that draws.
    pub fn name(&self) -> &'static str {
        match self {
            Drawer::Solver(_, settings) => settings.solver.name.as_str(),
            Drawer::Tokens(_) => "autoregressive",
        }
    }

    /// What the samples depend on, by the drawer.
    fn settings(&self) -> Result<Map<String, Value>> {
        let value = match self {
            Drawer::Solver(sampler, settings) => {
                let points = sampler.plan().points();
                let rho = |r: f64| if r.is_finite() { json!(r) } else { Value::Null };
                json!({
                    "solver": json_of(&settings.solver)?,
                    "nfe": sampler.plan().nfe(),
                    "t": points.iter().map(|p| p.t).collect::<Vec<_>>(),
                    "sigma": points.iter().map(|p| rho(p.rho())).collect::<Vec<_>>(),
                    "guidance": settings.guidance,
                    "rng": json_of(&settings.rng)?,
                    "latent_dtype": if settings.latent == Kind::Double { "f64" } else { "f32" },
                })
            }
            Drawer::Tokens(sampler) => {
                let settings = sampler.settings();
                json!({
                    "sampler": json_of(&settings.sampler)?,
                    "length": settings.length,
                    "prefixes": settings.prefixes.len(),
                    "rng": json_of(&settings.rng)?,
                })
            }
        };
        Ok(value.as_object().cloned().unwrap_or_default())
    }

    /// Everything the samples depend on beside their seeds, as JSON.
    ///
    /// # Errors
    /// Where a file of the model cannot be read again.
    pub fn describe(
        &self,
        args: &SampleArgs,
        card: &ModelCard,
        (path, files): (&Path, &[PathBuf]),
        (globals, device): (&Globals, Device),
    ) -> Result<Value> {
        let mut hash = Sha256::new();
        for file in files {
            hash.update(&*Bytes::map(file)?);
        }
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
        put("gen", json!(env!("CARGO_PKG_VERSION")));
        put("model", json!(path.file_name().map(|name| name.to_string_lossy())));
        put("model_sha256", json!(hex(&hash.finalize())));
        put("trained", json_of(&card.trained)?);
        put("process", json_of(&card.process)?);
        all.extend(self.settings()?);
        let mut put = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
        put("class", json!(args.class));
        if let Some(mel) = &args.sound.mel {
            put("mel", json!(mel.display().to_string()));
        }
        put("init_noise", json!(args.init_noise.as_ref().map(|p| p.display().to_string())));
        put("dtype", json!(globals.dtype.unwrap_or_default().name()));
        put("deterministic", json!(globals.deterministic));
        put("device", json!(if matches!(device, Device::Cpu) { "cpu" } else { "cuda" }));
        if let Some(rate) = card.rate {
            put("rate", json!(rate));
        }
        Ok(Value::Object(all))
    }
}

fn json_of(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::run("cannot write the settings").why(e.to_string()))
}
