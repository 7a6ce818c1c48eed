//! The flags of `gen sample`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::search_args::SearchArgs;
use super::sound::SoundArgs;
use super::text_args::TextArgs;
use crate::cli::raw::RawArgs;
use crate::cli::values::{bound, finite};
use crate::denoiser::ThresholdSpec;
use crate::model::seeds::{Seeds, Shard};
use crate::noise::streams::Rng;
use crate::recipe::SampleSpec;
use crate::solver::{
    Budget, Churn, Compat, Control, Form, GridSpec, LowerOrderFinal, Method, SolverName, SolverSpec,
    SolverType, Start, Tableau, Terminal, Variance, Variant, Warmup,
};
use crate::torch::runtime::MemoryFormat;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One PNG per sample, named by its seed.
    Png,
    /// One numpy archive: `arr_0` u8 [N, H, W, C] (and `arr_1` classes), as ADM's evaluator reads it.
    Npz,
    /// One safetensors file: `samples` f32 [N, C, H, W], not quantised.
    Safetensors,
    /// One WAV per sample, named by its seed.
    Wav,
}

/// Draw samples from a model
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen sample --model runs/digits --solver dpm --steps 10 --out out\n  \
    gen sample --model runs/cifar --solver edm --steps 18 --seeds 0-49999 --subdirs --out fid50k\n  \
    gen sample --model runs/cifar --seeds 0-99 --class 3 --guidance 2 --format npz --out cats.npz\n  \
    gen sample --model runs/cifar --seeds 0-49999 --shard 1/4 --out fid50k --resume\n  \
    gen sample --model runs/cifar --seeds 7 --out - > seven.png\n  \
    gen sample --model runs/speech --seconds 2 --temperature 0.9 --out spoken\n  \
    gen sample --model gpt2 --prompt 'It was a dark night' --typical-p 0.2 --out -\n  \
    gen sample --model net.pt --process vp --prediction eps --time scaled:999 --shape 3,32,32 --out out\n\n\
    `gen help sample` lists all options: those here, and the finer ones of grids, solvers and output.\n\
    A sample depends on its seed alone: not on --batch, --shard, order or device (up to float\n\
    rounding, below one grey level; with --deterministic batches of any size agree to the last bit).")]
pub struct SampleArgs {
    /// A run folder, a snapshot, a model folder, a TorchScript module or an AOTInductor package
    #[arg(short, long, visible_alias = "network", alias = "net", value_name = "PATH")]
    pub model: PathBuf,
    /// Where to write: a folder (png, wav), a file (npz, safetensors), or - for one sample on stdout
    #[arg(short, long, aliases = ["outdir", "output_dir"], value_name = "PATH")]
    pub out: PathBuf,

    /// Which samples, such as 0-63 (the default; 0 for text) or 1,2,5-10
    #[arg(long, value_name = "LIST", help_heading = "Which samples")]
    pub seeds: Option<Seeds>,
    /// Samples computed at once
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Which samples")]
    pub batch: u64,
    /// Only the i-th of n equal parts of the seeds
    #[arg(long, value_name = "I/N", help_heading = "Which samples")]
    pub shard: Option<Shard>,
    /// Class of the samples: a number, a list taken in turn, or `random` (default where the model knows classes)
    #[arg(long, value_name = "CLASS", help_heading = "Which samples")]
    pub class: Option<String>,
    /// Unit-normal latents [N, C, H, W] from an .npz or .safetensors file instead of the seeds' own
    #[arg(long, value_name = "FILE", help_heading = "Which samples", hide_short_help = true)]
    pub init_noise: Option<PathBuf>,
    /// Generator of the noise: PyTorch's on the CPU, or CUDA's (on any device)
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "NAME",
        help_heading = "Which samples",
        hide_short_help = true
    )]
    pub rng: Rng,
    /// Which of the run's averaged weights, or variant of a folder's such as fp16 [default: the first]
    #[arg(long, value_name = "NAME", help_heading = "Which samples")]
    pub weights: Option<String>,

    /// Solver, grid and length of the run
    #[command(flatten)]
    pub how: HowArgs,

    /// What a bare module is
    #[command(flatten)]
    pub raw: RawArgs,

    /// Sound, and models that draw one value after another
    #[command(flatten)]
    pub sound: SoundArgs,

    /// Text
    #[command(flatten)]
    pub text: TextArgs,
    /// Search in texts
    #[command(flatten)]
    pub search: SearchArgs,

    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Output")]
    pub format: Option<Format>,
    /// Also write all samples as one picture
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub grid_image: Option<PathBuf>,
    /// Put every thousand images into a folder of their own
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    pub subdirs: bool,
    /// Do not write the parameters into the PNG files
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    pub no_metadata: bool,
    /// Go on in a folder that is not empty: skip finished seeds, if the settings are equal
    #[arg(long, help_heading = "Output")]
    pub resume: bool,
    /// Write into a folder that is not empty
    #[arg(long, conflicts_with = "resume", help_heading = "Output")]
    pub overwrite: bool,
    /// How the network's images and weights lie in memory
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        value_name = "FORMAT",
        help_heading = "Output",
        hide_short_help = true
    )]
    pub memory_format: MemoryFormat,
}

/// How to get from noise to samples.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "How")]
pub struct HowArgs {
    /// The sampler [default: the model's own, else dpm++]
    #[arg(long, value_enum, value_name = "NAME")]
    pub solver: Option<SolverName>,
    /// Steps, in the solver's own count (dpm: network evaluations)
    #[arg(long, aliases = ["n-steps", "num_inference_steps"], value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// At most so many network evaluations, instead of steps
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..))]
    pub nfe: Option<u32>,
    /// Order of the solver
    #[arg(long, value_name = "N")]
    pub order: Option<usize>,
    /// Grid of times: uniform, logsnr, quadratic, karras, beta, power=P, a file, or a list such as "14.6,7.8,0"
    #[arg(long, alias = "sigmas", value_name = "GRID")]
    pub grid: Option<String>,
    /// Last time
    #[arg(long, alias = "t-end", value_name = "T", value_parser = finite, hide_short_help = true)]
    pub t_min: Option<f64>,
    /// First time
    #[arg(long, value_name = "T", value_parser = finite, hide_short_help = true)]
    pub t_max: Option<f64>,
    /// Last noise level sigma/alpha
    #[arg(long, alias = "sigma_min", value_name = "SIGMA", value_parser = finite, hide_short_help = true)]
    pub sigma_min: Option<f64>,
    /// First noise level sigma/alpha
    #[arg(long, alias = "sigma_max", value_name = "SIGMA", value_parser = finite, hide_short_help = true)]
    pub sigma_max: Option<f64>,
    /// Exponent of the karras grid
    #[arg(long, value_name = "RHO", value_parser = finite, hide_short_help = true)]
    pub rho: Option<f64>,
    /// Where the run ends: at the last time, or on clean data
    #[arg(long, value_enum, value_name = "WHERE", hide_short_help = true)]
    pub terminal: Option<Terminal>,
    /// What the run starts from: noise alone, or data of unit variance with it
    #[arg(long, value_enum, value_name = "WHAT", hide_short_help = true)]
    pub start: Option<Start>,
    /// Moves the times of a flow towards noise, as in t -> S t/(1 + (S - 1) t)
    #[arg(long, value_name = "S", value_parser = finite, hide_short_help = true)]
    pub shift: Option<f64>,
    /// Strength of classifier-free guidance; 1 is none
    #[arg(long, aliases = ["cfg-scale", "guidance_scale", "guidance-scale"], value_name = "W", value_parser = finite)]
    pub guidance: Option<f64>,
    /// Share of the noise (ddim, kdpm2, euler-maruyama, dpm++-sde)
    #[arg(long, value_name = "ETA", value_parser = finite)]
    pub eta: Option<f64>,
    /// How a DPM solver reaches its order (dpm, dpm++)
    #[arg(long, value_enum, value_name = "METHOD", hide_short_help = true)]
    pub method: Option<Method>,
    /// Second-order coefficients (dpm, dpm++, sde-dpm++), or B(h) of unipc
    #[arg(long, value_enum, value_name = "TYPE", hide_short_help = true)]
    pub solver_type: Option<SolverType>,
    /// Noise or data form (sde-dpm++, unipc, kdpm2, dpm-adaptive)
    #[arg(long, value_enum, value_name = "FORM", hide_short_help = true)]
    pub form: Option<Form>,
    /// Member of the DEIS family
    #[arg(long, alias = "deis-variant", value_enum, value_name = "NAME", hide_short_help = true)]
    pub variant: Option<Variant>,
    /// Runge-Kutta tableau (deis, variant rhork)
    #[arg(long, alias = "rk", value_enum, value_name = "NAME", hide_short_help = true)]
    pub tableau: Option<Tableau>,
    /// How the first steps are made (pndm)
    #[arg(long, value_enum, value_name = "NAME", hide_short_help = true)]
    pub warmup: Option<Warmup>,
    /// Variance of the noise (ddpm)
    #[arg(long, value_enum, value_name = "NAME", hide_short_help = true)]
    pub variance: Option<Variance>,
    /// Noise put back in over the run (edm)
    #[arg(long, alias = "S_churn", value_name = "S", value_parser = finite, hide_short_help = true)]
    pub s_churn: Option<f64>,
    /// Betas of a fast schedule from data to noise, such as 1e-4,1e-3,0.01,0.05,0.2,0.5 (models of a DDPM table)
    #[arg(long, value_name = "BETAS", conflicts_with = "grid", hide_short_help = true)]
    pub fast_schedule: Option<String>,
    /// Lowest noise level with churn (edm)
    #[arg(long, alias = "S_min", value_name = "S", value_parser = finite, hide_short_help = true)]
    pub s_min: Option<f64>,
    /// Highest noise level with churn (edm)
    #[arg(long, alias = "S_max", value_name = "S", value_parser = bound, hide_short_help = true)]
    pub s_max: Option<f64>,
    /// Factor of the noise put back in (edm)
    #[arg(long, alias = "S_noise", value_name = "S", value_parser = finite, hide_short_help = true)]
    pub s_noise: Option<f64>,
    /// Lower the order in the last steps (multistep solvers)
    #[arg(long, value_enum, value_name = "WHEN", hide_short_help = true)]
    pub lower_order_final: Option<LowerOrderFinal>,
    /// Keep known defects of published code, to reproduce its numbers
    #[arg(long, value_enum, value_name = "WHAT", hide_short_help = true)]
    pub compat: Option<Compat>,
    /// Relative tolerance (rk45, dpm-adaptive)
    #[arg(long, value_name = "TOL", value_parser = finite, hide_short_help = true)]
    pub rtol: Option<f64>,
    /// Absolute tolerance (rk45, dpm-adaptive)
    #[arg(long, value_name = "TOL", value_parser = finite, hide_short_help = true)]
    pub atol: Option<f64>,
    /// Error control: every sample by itself, or the batch as published code has it (rk45, dpm-adaptive)
    #[arg(long, value_enum, value_name = "RULE", hide_short_help = true)]
    pub control: Option<Control>,
    /// Dynamic thresholding of the predicted data at this quantile, such as 0.995
    #[arg(long, alias = "threshold-ratio", value_name = "Q", value_parser = finite, hide_short_help = true)]
    pub threshold: Option<f64>,
    /// Clamp the predicted data to [-M, M]; with --threshold, its smallest threshold
    #[arg(long, alias = "clip", value_name = "M", value_parser = finite, hide_short_help = true)]
    pub threshold_max: Option<f64>,
    /// One more evaluation at the end that returns the predicted clean data
    #[arg(long, alias = "denoise-to-zero", hide_short_help = true)]
    pub denoise: bool,
    /// Number format of the state between evaluations
    #[arg(long, value_enum, default_value_t = Latent::F32, value_name = "DTYPE", hide_short_help = true)]
    pub latent_dtype: Latent,
}

/// Number format of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Latent {
    /// 32 bits.
    F32,
    /// 64 bits, as EDM's sampler keeps it.
    F64,
}

impl HowArgs {
    /// The solver: the flags over the model's defaults. Another solver than the model's starts afresh.
    #[must_use]
    pub fn solver(&self, defaults: &SampleSpec) -> SolverSpec {
        let mut spec = match (self.solver, &defaults.solver) {
            (Some(name), Some(own)) if own.name == name => own.clone(),
            (Some(name), _) => SolverSpec::new(name),
            (None, Some(own)) => own.clone(),
            (None, None) => SolverSpec::new(SolverName::DpmPp),
        };
        spec.order = self.order.or(spec.order);
        spec.method = self.method.or(spec.method);
        spec.solver_type = self.solver_type.or(spec.solver_type);
        spec.form = self.form.or(spec.form);
        spec.variant = self.variant.or(spec.variant);
        spec.tableau = self.tableau.or(spec.tableau);
        spec.eta = self.eta.or(spec.eta);
        spec.warmup = self.warmup.or(spec.warmup);
        spec.variance = self.variance.or(spec.variance);
        spec.lower_order_final = self.lower_order_final.unwrap_or(spec.lower_order_final);
        spec.compat = self.compat.unwrap_or(spec.compat);
        spec.rtol = self.rtol.or(spec.rtol);
        spec.atol = self.atol.or(spec.atol);
        spec.control = self.control.unwrap_or(spec.control);
        spec.denoise |= self.denoise;
        if self.s_churn.is_some() || self.s_min.is_some() || self.s_max.is_some() || self.s_noise.is_some() {
            let own = spec.churn.unwrap_or_default();
            spec.churn = Some(Churn {
                s_churn: self.s_churn.unwrap_or(own.s_churn),
                s_min: self.s_min.unwrap_or(own.s_min),
                s_max: self.s_max.unwrap_or(own.s_max),
                s_noise: self.s_noise.unwrap_or(own.s_noise),
            });
        }
        if self.threshold.is_some() || self.threshold_max.is_some() {
            spec.threshold = Some(ThresholdSpec {
                quantile: self.threshold,
                max: self.threshold_max.unwrap_or(1.0),
                ceiling: None,
            });
        }
        spec
    }

    /// What is said of the grid itself.
    fn grid_text(&self) -> Option<String> {
        self.fast_schedule.as_ref().map(|betas| format!("betas:{betas}")).or_else(|| self.grid.clone())
    }

    /// The grid: the flags over the model's defaults.
    ///
    /// # Errors
    /// Where the grid cannot be read.
    pub fn grid(&self, defaults: &SampleSpec) -> crate::error::Result<GridSpec> {
        let same_solver =
            self.solver.is_none_or(|name| defaults.solver.as_ref().is_some_and(|s| s.name == name));
        let own = defaults.grid.clone().unwrap_or_default();
        let mut grid = match &self.grid_text() {
            Some(text) => GridSpec { terminal: None, ..read_grid(text)? },
            // The kind of grid belongs to the solver, its ends to the model.
            None if same_solver => own.clone(),
            None => GridSpec {
                t_min: own.t_min,
                t_max: own.t_max,
                sigma_min: own.sigma_min,
                sigma_max: own.sigma_max,
                shift: own.shift,
                ..GridSpec::default()
            },
        };
        if self.grid_text().is_some() && grid.explicit.is_none() {
            grid.t_min = own.t_min;
            grid.t_max = own.t_max;
            grid.sigma_min = own.sigma_min;
            grid.sigma_max = own.sigma_max;
            grid.shift = own.shift;
        }
        if self.t_min.is_some() || self.sigma_min.is_some() {
            (grid.t_min, grid.sigma_min) = (self.t_min, self.sigma_min);
        }
        if self.t_max.is_some() || self.sigma_max.is_some() {
            (grid.t_max, grid.sigma_max) = (self.t_max, self.sigma_max);
        }
        let ends = [self.t_min, self.t_max, self.sigma_min, self.sigma_max];
        if let Some(table) = grid.table.as_mut()
            && ends.iter().any(Option::is_some)
        {
            table.ends = None;
        }
        grid.rho = self.rho.or(grid.rho);
        grid.terminal = self.terminal.or(grid.terminal);
        grid.start = self.start.or(grid.start);
        grid.shift = self.shift.or(grid.shift);
        Ok(grid)
    }

    /// How long the run may be.
    #[must_use]
    pub fn budget(&self, defaults: &SampleSpec) -> Budget {
        match (self.nfe, self.steps) {
            (Some(nfe), _) => Budget::Nfe(nfe as usize),
            (None, Some(steps)) => Budget::Steps(steps as usize),
            (None, None) if self.grid_text().is_some() => Budget::Auto,
            (None, None) => defaults.budget().unwrap_or(Budget::Auto),
        }
    }
}

/// A grid by name or list, or from a file that holds one.
fn read_grid(text: &str) -> crate::error::Result<GridSpec> {
    let path = std::path::Path::new(text);
    if !path.is_file() {
        return text.parse();
    }
    let content = std::fs::read_to_string(path).map_err(|e| crate::error::Error::read(path, &e))?;
    content.trim().parse().map_err(|e: crate::error::Error| e.at(path.display()))
}

/// The name of a format on the command line.
#[must_use]
pub fn format_of_name(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Npz => "npz",
        Format::Safetensors => "safetensors",
        Format::Wav => "wav",
    }
}
