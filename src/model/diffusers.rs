//! Folders of diffusers whose network is a `UNet2DModel`.
//!
//! A pipeline: `model_index.json`, with `unet/` and `scheduler/` below it or their files beside it. A bare
//! network: its `config.json` and weights, perhaps with a scheduler.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Tensor;

use super::card::{ModelCard, Range, Trained};
use super::scheduler::Scheduler;
use crate::denoiser::precond::TimeInput;
use crate::error::{Error, Result};
use crate::io::hub::{Weights, read_json};
use crate::net::spec::NetSpec;
use crate::net::unet2d::current_name;
use crate::net::unet2d_config::UNet2DConfig;
use crate::objective::ObjectiveSpec;
use crate::objective::spec::Plain;
use crate::process::ProcessSpec;
use crate::recipe::SampleSpec;
use crate::solver::{Churn, Compat, GridKind, GridSpec, SolverName, SolverSpec, Terminal};

/// The class of networks that are opened.
const CLASS: &str = "UNet2DModel";
/// The scheduler of KarrasVePipeline.
const KARRAS_VE: &str = "KarrasVeScheduler";
/// Stem of the weights that diffusers writes.
const STEM: &str = "diffusion_pytorch_model";

const OPTIONS: &str =
    "gen builds what UNet2DModel of diffusers 0.42 builds; `gen inspect` shows the whole config";

const SUPPORTED: &str = "gen runs a UNet2DModel, by itself or as the `unet` of a pipeline such as DDPMPipeline, \
                         DDIMPipeline, PNDMPipeline, ScoreSdeVePipeline or KarrasVePipeline";

/// A folder of diffusers, read but for its tensors.
#[derive(Debug)]
pub struct Folder {
    /// What the model is.
    pub card: ModelCard,
    /// Its weights.
    pub weights: Weights,
    /// All files it depends on.
    pub files: Vec<PathBuf>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Where the parts of a folder are.
struct Parts {
    /// Class of the pipeline.
    pipeline: Option<String>,
    /// The pipeline's other components.
    others: Vec<String>,
    unet: PathBuf,
    scheduler: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl Folder {
    /// Reads the folder `path`; `variant` (such as fp16) chooses among its weights.
    ///
    /// # Errors
    /// A model error where a part is missing or damaged, or of a class or with an option that cannot be run.
    pub fn read(path: &Path, variant: Option<&str>, compat: Compat) -> Result<Self> {
        let parts = Parts::of(path)?;
        let place = parts.unet.join("config.json");
        let config = read_json(&place)?;
        check_class(&config, &place)?;
        let (config, shape, classes) =
            UNet2DConfig::from_diffusers(&config).map_err(|e| e.at(place.display()).hint(OPTIONS))?;
        let weights = Weights::find(&parts.unet, STEM, variant)?;

        let mut notes = Vec::new();
        let scheduler = match &parts.scheduler {
            Some(path) => {
                let json = read_json(path)?;
                if json["_class_name"] == KARRAS_VE {
                    notes.push(format!(
                        "{KARRAS_VE} is run as EDM's stochastic sampler from its sigma_max to its sigma_min; \
                         diffusers steps through their squares"
                    ));
                    karras_ve(&json)
                } else {
                    Scheduler::read(&json, &path.display().to_string(), compat)
                        .map_err(|e| e.hint("`gen inspect` shows the whole config of the scheduler"))?
                }
            }
            None => {
                let (json, text) = usual_scheduler(&config);
                notes.push(format!("no scheduler_config.json in {}: {text} is assumed", path.display()));
                Scheduler::read(&json, &place.display().to_string(), compat)?
            }
        };
        if let Some(steps) = scheduler.process.build()?.table_len()
            && let Some(rows) = config.num_train_timesteps
            && i64::try_from(steps).is_ok_and(|steps| steps > rows)
        {
            return Err(Error::model("config key `num_train_timesteps`")
                .at(place.display())
                .why(format!("the network knows {rows} times, its scheduler {steps}"))
                .hint("the scheduler is of another model"));
        }
        if config.out_channels.is_some_and(|out| out == 2 * shape[0]) {
            notes.push("the variances that the network learned are not used, only its mean".to_owned());
        }
        if let Some(decoder) = parts.others.iter().find(|name| ["vqvae", "vae"].contains(&name.as_str())) {
            notes.push(format!("samples are latents: they are not decoded by the pipeline's `{decoder}`"));
        }
        if let (None, Some(found)) = (variant, weights.variant()) {
            notes.push(format!("there are no full weights, {found} ones are used"));
        }
        let mut files = parts.files;
        files.push(place);
        files.extend(parts.scheduler);
        files.extend(weights.files());
        let sample = sample(scheduler.sample, parts.pipeline.as_deref(), &scheduler.class);
        let card = ModelCard {
            format: ModelCard::FORMAT,
            tokenizer: None,
            model: NetSpec::UNet2D(config),
            process: scheduler.process,
            objective: scheduler.objective,
            precond: None,
            shape: shape.to_vec(),
            classes,
            // These networks are of data in [0, 1], and so is what ScoreSdeVePipeline gives.
            range: match scheduler.class.as_str() {
                "ScoreSdeVeScheduler" | KARRAS_VE => Range::Unit,
                _ => Range::Centred,
            },
            rate: None,
            sample,
            trained: Trained::default(),
        };
        Ok(Folder { card, weights, files, notes })
    }

    /// The tensors by the names and in the shapes that the network has them; what does not belong to the
    /// network is left as it is.
    ///
    /// # Errors
    /// A model error where a file is damaged or tensors are missing.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.weights.tensors()?.into_iter().map(|(name, tensor)| current(&name, tensor)).collect()
    }
}

/// Brings a tensor of an older file to today's form: attention by `to_q` instead of `query` and so on, and by
/// matrices `[C, C]` instead of convolutions `[C, C, 1, 1]`.
fn current(name: &str, tensor: Tensor) -> Result<(String, Tensor)> {
    let name = current_name(name);
    let projection = name.contains("attentions.") && name.contains(".to_") && name.ends_with(".weight");
    let tensor = match tensor.size().as_slice() {
        [_, _, 1, 1] if projection => tensor.f_flatten(1, 3)?,
        _ => tensor,
    };
    Ok((name, tensor))
}

impl Parts {
    fn of(path: &Path) -> Result<Self> {
        let existing = |path: PathBuf| path.exists().then_some(path);
        let index = path.join("model_index.json");
        if !index.exists() {
            // A network by itself; as part of a pipeline it has a scheduler there.
            let above = path.join("../model_index.json");
            let scheduler = existing(path.join("scheduler_config.json"))
                .or_else(|| existing(path.join("scheduler/scheduler_config.json")))
                .or_else(|| {
                    existing(above).and_then(|_| existing(path.join("../scheduler/scheduler_config.json")))
                });
            let unet = path.to_owned();
            return Ok(Parts { pipeline: None, others: Vec::new(), unet, scheduler, files: Vec::new() });
        }
        let json = read_json(&index)?;
        let pipeline = json["_class_name"].as_str().unwrap_or("a pipeline without a class").to_owned();
        let refuse = |why: String| {
            Err(Error::model(format!("cannot run {pipeline}")).at(index.display()).why(why).hint(SUPPORTED))
        };
        match json["unet"][1].as_str() {
            Some(CLASS) => {}
            Some(class) => return refuse(format!("its `unet` is {class}")),
            None => return refuse("it has no `unet`".to_owned()),
        }
        let others = match &json {
            Value::Object(all) => {
                let there = |(_, part): &(&String, &Value)| part[1].is_string();
                all.iter().filter(there).map(|(name, _)| name.clone()).collect()
            }
            _ => Vec::new(),
        };
        // The files of a part lie in its folder, or at the root where there is no such folder.
        let part = |name: &str| existing(path.join(name)).unwrap_or_else(|| path.to_owned());
        let (unet, scheduler) = (part("unet"), part("scheduler").join("scheduler_config.json"));
        let scheduler = if json["scheduler"][1].is_string() { Some(scheduler) } else { existing(scheduler) };
        Ok(Parts { pipeline: Some(pipeline), others, unet, scheduler, files: vec![index] })
    }
}

fn check_class(config: &Value, place: &Path) -> Result<()> {
    let refuse =
        |what: String, why: &str| Err(Error::model(what).at(place.display()).why(why).hint(SUPPORTED));
    let other = config["architectures"][0].as_str().or(config["model_type"].as_str());
    match (config["_class_name"].as_str(), other) {
        (Some(CLASS), _) => Ok(()),
        (Some(class), _) | (None, Some(class)) => {
            refuse(format!("cannot run {class}"), "the folder holds a network of another class")
        }
        (None, None) => refuse("not a model of diffusers".to_owned(), "the config has no `_class_name`"),
    }
}

/// The scheduler of a network that comes without one, and its name.
fn usual_scheduler(config: &UNet2DConfig) -> (Value, &'static str) {
    if config.gives_score() {
        return (json!({"_class_name": "ScoreSdeVeScheduler"}), "the usual VE process");
    }
    (json!({"_class_name": "DDPMScheduler"}), "the DDPM table of 1000 linear betas")
}

/// Stochastic sampling of VE networks (Karras et al. 2022, algorithm 2), a class that diffusers gave up.
///
/// Its levels are of data in [-1, 1]; the network is of data in [0, 1], where they are half as high.
fn karras_ve(json: &Value) -> Scheduler {
    let number = |key: &str, usual: f64| json[key].as_f64().unwrap_or(usual);
    let half = |key: &str, usual: f64| 0.5 * number(key, usual);
    let churn = Churn {
        s_churn: number("s_churn", 80.0),
        s_min: half("s_min", 0.05),
        s_max: half("s_max", 50.0),
        s_noise: number("s_noise", 1.007),
    };
    let (sigma_min, sigma_max) = (half("sigma_min", 0.02), half("sigma_max", 100.0));
    let solver = SolverSpec { churn: Some(churn), ..SolverSpec::new(SolverName::Edm) };
    let grid = GridSpec { terminal: Some(Terminal::Zero), ..GridSpec::from(GridKind::Logsnr) };
    Scheduler {
        class: KARRAS_VE.to_owned(),
        process: ProcessSpec::Edm { sigma_min, sigma_max, sigma_data: 0.5 },
        objective: ObjectiveSpec::Score(Plain {
            time: Some(TimeInput::Sigma),
            raw: true,
            ..Plain::default()
        }),
        sample: SampleSpec { solver: Some(solver), grid: Some(grid), ..SampleSpec::default() },
    }
}

/// The scheduler's defaults with the number of steps that the pipeline has by itself.
fn sample(own: SampleSpec, pipeline: Option<&str>, scheduler: &str) -> SampleSpec {
    if own.steps.is_some() || own.nfe.is_some() {
        return own;
    }
    let steps = match pipeline.unwrap_or(scheduler) {
        "DDPMPipeline" | "DDPMScheduler" => 1000,
        "ScoreSdeVePipeline" | "ScoreSdeVeScheduler" => 2000,
        _ => 50,
    };
    SampleSpec { steps: Some(steps), ..own }
}
