//! `gen bench`: how fast a network computes here, over the product of list-valued options.

mod text;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::cli::ui::Ui;
use crate::cli::{Globals, peak_mib};
use crate::denoiser::network::Compute;
use crate::error::{Error, Result};
use crate::model::language;
use crate::net::store::{Store, channels_last};
use crate::net::{Cond, Mode, Network};
use crate::optim::{OptimSpec, Optimizer};
use crate::recipe::Recipe;
use crate::torch::device::device_name;
use crate::torch::runtime::Dtype;
use crate::torch::shim::Autocast;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// One network evaluation without gradients.
    Forward,
    /// One training step: forward, mean squared error, backward, fused AdamW.
    Train,
}

/// The form of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A Markdown table.
    Md,
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// Time a recipe's network, or a language model, on this machine
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen bench models/cifar10-edm --shape 3,32,32\n  \
    gen bench models/cifar10-edm --shape 3,32,32 --what forward,train --batch 1,16,64 --formats f32,bf16\n  \
    gen bench models/digits-edm --shape 1,8,8 --batch 128 -r 10 --output jsonl >> results.jsonl\n  \
    gen bench gpt2 --batch 1,16 --formats f32,bf16 --prompt-tokens 128 --new-tokens 64\n\n\
    Random weights and inputs; the first calls are not counted; the median of the repetitions is the figure.\n\
    Of a language model (a folder of Hugging Face): tokens a second of prompts and of greedy steps,\n\
    the best repetition, and which share of a copy's bandwidth the weights are that a step reads.")]
pub struct BenchArgs {
    /// The recipe whose network is timed, or the folder of a language model
    #[arg(value_name = "RECIPE|FOLDER")]
    recipe: PathBuf,
    /// Shape of one sample [default: that of the recipe's data]
    #[arg(long, value_name = "C,H,W", value_delimiter = ',')]
    shape: Vec<i64>,
    /// What is timed
    #[arg(long, value_enum, value_delimiter = ',', default_value = "forward", value_name = "LIST")]
    what: Vec<What>,
    /// Batch sizes
    #[arg(long, value_delimiter = ',', default_value = "16", value_name = "LIST", value_parser = clap::value_parser!(i64).range(1..))]
    batch: Vec<i64>,
    /// Number formats
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32", value_name = "LIST")]
    formats: Vec<Dtype>,
    /// Memory format of images and weights: channels-last or not
    #[arg(long, value_delimiter = ',', default_value = "false", value_name = "LIST")]
    channels_last: Vec<bool>,
    /// Repetitions
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Calls before the counted ones
    #[arg(long, default_value_t = 1, value_name = "N")]
    warmup: u32,
    /// Tokens of each prompt (language models) [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    prompt_tokens: Option<i64>,
    /// Tokens decoded after it (language models) [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    new_tokens: Option<i64>,
    /// Form of the table
    #[arg(long, value_enum, default_value = "md", value_name = "FORM")]
    output: Form,
    /// Override a key of the recipe; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

struct Case {
    what: What,
    batch: i64,
    dtype: Dtype,
    channels_last: bool,
}

struct Timing {
    seconds: Vec<f64>,
    parameters: usize,
}

impl Timing {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n % 2 == 1 { sorted[n / 2] } else { 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]) }
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let device = globals.start()?;
    if language::is_one(&args.recipe) {
        return text::run(args, device, ui);
    }
    let of_text =
        [("--prompt-tokens", args.prompt_tokens.is_some()), ("--new-tokens", args.new_tokens.is_some())];
    if let Some((flag, _)) = of_text.iter().find(|(_, given)| *given) {
        return Err(Error::usage("the network is no language model").at(*flag).hint("leave it out").into());
    }
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let shape = if args.shape.is_empty() {
        let data =
            recipe.data.open(None).map_err(|e| e.hint("give the shape of a sample with --shape C,H,W"))?;
        data.shape().iter().map(|n| *n as i64).collect()
    } else {
        args.shape.clone()
    };
    let mut rows = Vec::new();
    header(args.output, COLUMNS, ui)?;
    for &what in &args.what {
        for &batch in &args.batch {
            for &dtype in &args.formats {
                for &channels_last in &args.channels_last {
                    let case = Case { what, batch, dtype, channels_last };
                    let timing = time(&recipe, &shape, &case, args, device)?;
                    let row = describe(&case, &timing, device);
                    print(args.output, COLUMNS, &row, ui)?;
                    rows.push(row);
                }
            }
        }
    }
    ui.result(&json!({ "rows": rows }))?;
    Ok(())
}

fn describe(case: &Case, timing: &Timing, device: Device) -> Value {
    let median = timing.median();
    json!({
        "who": "gen", "what": case.what.to_possible_value().map(|v| v.get_name().to_owned()), "batch": case.batch,
        "dtype": case.dtype.name(), "channels_last": case.channels_last, "device": device_name(device),
        "threads": tch::get_num_threads(), "parameters": timing.parameters, "median_s": median,
        "images_per_s": case.batch as f64 / median, "seconds": timing.seconds, "peak_mib": peak_mib(),
    })
}

const COLUMNS: &[&str] =
    &["what", "batch", "dtype", "channels_last", "device", "threads", "median_s", "images_per_s"];

fn header(form: Form, columns: &[&str], ui: Ui) -> Result<()> {
    match form {
        Form::Md => {
            ui.line(format!("| {} |", columns.join(" | ")))?;
            ui.line(format!("|{}", "---|".repeat(columns.len())))
        }
        Form::Csv => ui.line(columns.join(",")),
        Form::Jsonl => Ok(()),
    }
}

fn print(form: Form, columns: &[&str], row: &Value, ui: Ui) -> Result<()> {
    if form == Form::Jsonl {
        return ui.line(row);
    }
    let cells: Vec<String> = columns
        .iter()
        .map(|column| match &row[column] {
            Value::String(text) => text.clone(),
            Value::Number(n) if n.is_f64() => format!("{:.4}", n.as_f64().unwrap_or(0.0)),
            other => other.to_string(),
        })
        .collect();
    if form == Form::Md { ui.line(format!("| {} |", cells.join(" | "))) } else { ui.line(cells.join(",")) }
}

fn time(recipe: &Recipe, shape: &[i64], case: &Case, args: &BenchArgs, device: Device) -> Result<Timing> {
    let store = Store::new(device, case.dtype.storage(), 0);
    let net = recipe.model.build(&store.root(), shape, 0)?;
    let size: Vec<i64> = std::iter::once(case.batch).chain(shape.iter().copied()).collect();
    let mut x = Tensor::f_randn(&size, (case.dtype.storage(), device))?;
    if case.channels_last {
        x = channels_last(&x)?;
    }
    let t = Tensor::f_linspace(0.01, 0.99, case.batch, (Kind::Float, device))?;
    let target = x.f_randn_like()?;
    let compute = Compute {
        kind: case.dtype.storage(),
        autocast: case.dtype.autocast(),
        channels_last: case.channels_last,
    };
    let mut optimizer = match case.what {
        What::Forward => {
            compute.prepare(&store)?;
            None
        }
        What::Train => {
            if case.channels_last {
                store.channels_last()?;
            }
            Some(OptimSpec::default().build(store.trainable())?)
        }
    };
    let mut seconds = Vec::new();
    for i in 0..args.warmup + args.repeat {
        let start = Instant::now();
        if let Some(optimizer) = &mut optimizer {
            train_step(net.as_ref(), &x, &t, &target, &compute, optimizer.as_mut())?;
        } else {
            let _no_grad = tch::no_grad_guard();
            let _ = compute.run(net.as_ref(), &x, &t, &Cond::default(), Mode::Eval)?;
        }
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
        if i >= args.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    if seconds.iter().any(|s| !s.is_finite()) {
        return Err(Error::run("the clock stood still"));
    }
    Ok(Timing { seconds, parameters: store.parameters() })
}

fn train_step(
    net: &dyn Network,
    x: &Tensor,
    t: &Tensor,
    target: &Tensor,
    compute: &Compute,
    optimizer: &mut dyn Optimizer,
) -> Result<()> {
    let loss = {
        let cuda = matches!(x.device(), Device::Cuda(_));
        let _autocast = compute.autocast.map(|kind| Autocast::to(kind, cuda)).transpose()?;
        let out = net.forward(x, t, &Cond::default(), Mode::Train)?;
        out.f_to_kind(target.kind())?.f_mse_loss(target, tch::Reduction::Mean)?
    };
    loss.f_backward()?;
    optimizer.step(1e-5, None)?;
    optimizer.zero_grad()
}
