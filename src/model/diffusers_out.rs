//! A model as a folder of diffusers: `model_index.json`, `unet/`, `scheduler/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Tensor;

use super::card::ModelCard;
use crate::denoiser::Prediction;
use crate::denoiser::precond::{Precond, TimeInput};
use crate::error::{Error, Result};
use crate::io::{atomic, safetensors};
use crate::net::spec::NetSpec;
use crate::process::{BetaSchedule, ProcessSpec};
use crate::solver::{SolverName, Variance};

/// Steps of a continuous process, as score_sde discretises it.
const STEPS: usize = 1000;

/// Writes the folder; gives its files.
pub(super) fn write(
    folder: &Path,
    card: &ModelCard,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<Vec<PathBuf>> {
    let NetSpec::UNet2D(config) = &card.model else {
        return Err(Error::model("diffusers has no such network")
            .why("only a UNet2DModel (`unet2d`) can be written as its folder")
            .hint("--to snapshot and --to safetensors take any network"));
    };
    let unet = config.to_diffusers(&card.shape, card.classes)?;
    let (scheduler, class) = scheduler(card)?;
    let index = json!({
        "_class_name": if class == "DDIMScheduler" { "DDIMPipeline" } else { "DDPMPipeline" },
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", class],
    });
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let files = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ];
    atomic::write_folder(folder, |place| {
        for part in ["unet", "scheduler"] {
            let part = place.join(part);
            std::fs::create_dir(&part).map_err(|e| Error::write(&part, &e))?;
        }
        for (file, value) in [(files[0], &index), (files[1], &unet), (files[3], &scheduler)] {
            atomic::write_bytes(&place.join(file), format!("{value:#}\n").as_bytes())?;
        }
        safetensors::write(&place.join(files[2]), tensors, &metadata)
    })?;
    Ok(files.iter().map(|file| folder.join(file)).collect())
}

/// `scheduler_config.json` for the process of the card, and the scheduler's class.
fn scheduler(card: &ModelCard) -> Result<(Value, &'static str)> {
    let refuse = |why: &str| {
        Err(Error::model("diffusers has no pipeline that samples this model")
            .why(why.to_owned())
            .hint("--to snapshot and --to safetensors take any model"))
    };
    let (steps, schedule, start, end, rescaled) = match &card.process {
        ProcessSpec::Ddpm { betas: Some(_), .. } => return refuse("its table follows no schedule"),
        ProcessSpec::Ddpm { steps, schedule, beta_start, beta_end, betas: None, terminal_alpha_bar } => {
            (*steps, *schedule, *beta_start, *beta_end, terminal_alpha_bar.is_some())
        }
        #[allow(clippy::cast_precision_loss)]
        ProcessSpec::Vp { beta_min, beta_max } => {
            let n = STEPS as f64;
            (STEPS, BetaSchedule::Linear, beta_min / n, beta_max / n, false)
        }
        _ => return refuse("its process is neither a DDPM table nor vp"),
    };
    let beta_schedule = match schedule {
        BetaSchedule::Linear => "linear",
        BetaSchedule::ScaledLinear => "scaled_linear",
        BetaSchedule::Cosine => "squaredcos_cap_v2",
        _ => return refuse("its table follows a schedule that not every scheduler has"),
    };
    let Some(Precond::Plain { prediction, time, factor: 1.0 }) = card.objective.precond() else {
        return refuse("its network is preconditioned");
    };
    let prediction = match prediction {
        Prediction::Eps => "epsilon",
        Prediction::X0 => "sample",
        Prediction::V => "v_prediction",
        _ => return refuse("its network predicts neither noise, data nor v"),
    };
    // A table's entry i is the network's time i.
    #[allow(clippy::cast_precision_loss)]
    let told = match card.process {
        ProcessSpec::Ddpm { .. } => TimeInput::Linear { scale: steps as f64, shift: -1.0 },
        _ => TimeInput::Linear { scale: STEPS as f64 - 1.0, shift: 0.0 },
    };
    if time != told {
        return refuse("its network is not told the time as the index of a table");
    }
    let solver = card.sample.solver.as_ref();
    let class = match solver.map(|solver| solver.name) {
        Some(SolverName::Ddim) => "DDIMScheduler",
        _ => "DDPMScheduler",
    };
    let clip = solver.and_then(|solver| solver.threshold);
    let mut json = json!({
        "_class_name": class,
        "num_train_timesteps": steps,
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": beta_schedule,
        "rescale_betas_zero_snr": rescaled,
        "prediction_type": prediction,
        "clip_sample": clip.is_some_and(|clip| clip.quantile.is_none()),
        "clip_sample_range": clip.map_or(1.0, |clip| clip.max),
        "timestep_spacing": "leading",
        "steps_offset": 0,
    });
    if class == "DDPMScheduler" {
        let large = solver.and_then(|solver| solver.variance) == Some(Variance::Large);
        json["variance_type"] = json!(if large { "fixed_large" } else { "fixed_small" });
    }
    Ok((json, class))
}
