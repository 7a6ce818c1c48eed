//! The command line: one file per subcommand; the only place that prints.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use tch::Device;

use crate::error::{Error, Kind};
use crate::torch::device::DeviceChoice;
use crate::torch::interrupt;
use crate::torch::runtime::{Dtype, Runtime};
use ui::{Color, LogFormat, Ui};

pub mod audio;
pub mod bench;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod eval_audio;
pub mod eval_fid;
pub mod eval_nll;
pub mod eval_text;
pub mod inspect;
pub mod plot;
pub mod raw;
pub mod ref_stats;
pub mod sample;
pub mod selftest;
pub mod surface;
pub mod train;
pub mod ui;
pub mod usage;
pub mod values;

/// What `gen --version` says.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GEN_COMMIT"), "), for libtorch 2.11.0");

/// Train, sample and evaluate generative models driven by stochastic dynamics.
#[derive(Debug, Parser)]
#[command(
    name = "gen",
    about,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(version, long_version = VERSION, subcommand_help_heading = "Commands")]
#[command(after_help = "Examples:\n  \
    gen train models/digits-edm --out runs/digits\n  \
    gen sample --model runs/digits --solver dpm --steps 10 --seeds 0-63 --out out\n  \
    gen eval-fid --images out --ref data/digits --features digits\n\n\
    `gen COMMAND -h` lists the options of a command, `gen help COMMAND` explains all of them.\n\
    Every long option can be given by the environment, too: --batch 8 is GEN_BATCH=8.\n\
    `gen doctor` says what this machine can do.")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, global = true, env = "GEN_DEVICE", default_value_t = DeviceChoice::Auto, value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Number format of the network
    #[arg(long, global = true, env = "GEN_DTYPE", value_enum, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    /// CPU threads [default: all cores]
    #[arg(long, global = true, env = "GEN_THREADS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    /// Print the result as one JSON object on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More detail on stderr (-vv: with the libraries' own words)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Form of what goes to stderr
    #[arg(long, global = true, env = "GEN_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Colours on stderr
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
    /// Deterministic algorithms only, TF32 off
    #[arg(long, global = true, env = "GEN_DETERMINISTIC")]
    pub deterministic: bool,
}

impl Globals {
    fn ui(&self) -> Ui {
        let color = self.color.on();
        Ui { json: self.json, quiet: self.quiet, verbose: self.verbose, log: self.log_format, color }
    }

    /// Sets libtorch up and gives the device.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn start(&self) -> crate::error::Result<Device> {
        let runtime = Runtime {
            device: self.device,
            threads: self.threads.map(|n| n as usize),
            deterministic: self.deterministic,
        };
        runtime.start()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainArgs>),
    Sample(Box<sample::SampleArgs>),
    EvalFid(Box<eval_fid::EvalFidArgs>),
    EvalNll(eval_nll::EvalNllArgs),
    EvalAudio(Box<eval_audio::EvalAudioArgs>),
    EvalText(Box<eval_text::EvalTextArgs>),
    RefStats(Box<ref_stats::RefStatsArgs>),
    Convert(Box<convert::ConvertArgs>),
    Audio(Box<audio::AudioArgs>),
    Plot(plot::PlotArgs),
    Inspect(inspect::InspectArgs),
    Selftest(selftest::SelftestArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Command::Train(_) => "train",
            Command::Sample(_) => "sample",
            Command::EvalFid(_) => "eval-fid",
            Command::EvalNll(_) => "eval-nll",
            Command::EvalAudio(_) => "eval-audio",
            Command::EvalText(_) => "eval-text",
            Command::RefStats(_) => "ref-stats",
            Command::Convert(_) => "convert",
            Command::Audio(_) => "audio",
            Command::Plot(_) => "plot",
            Command::Inspect(_) => "inspect",
            Command::Selftest(_) => "selftest",
            Command::Bench(_) => "bench",
            Command::Doctor(_) => "doctor",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }
}

/// Runs the program with the arguments `args` (the first is the program's name).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let parsed = surface::command().try_get_matches_from(&args).and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args),
    };
    let ui = cli.globals.ui();
    interrupt::install();
    // Whatever goes wrong below, people see one line. A panic is ours or tch's; its text goes into that line.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(&cli, ui)));
    let error = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => to_error(error),
        Err(payload) => from_panic(payload.as_ref()),
    };
    let error = match (error.kind(), error.detail()) {
        (Kind::Usage, _) if matches!(cli.command, Command::Train(_)) => {
            error.hint("`gen train RECIPE --dry-run` prints a recipe with all its values")
        }
        (Kind::Usage | Kind::Data | Kind::Model, _) => {
            error.hint(format!("`gen help {}` tells more", cli.command.name()))
        }
        (Kind::Run, Some(_)) => error.hint("-vv shows all that libtorch says about it"),
        _ => error,
    };
    ui.error(&error);
    ExitCode::from(error.kind().exit_code())
}

/// Help and version as clap prints them; a usage error as one line and a hint.
fn refuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    if error.exit_code() == 0
        || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    if error.kind() == clap::error::ErrorKind::MissingSubcommand {
        // Values from the environment make the parser think that something was given.
        ui::usage_help(&surface::command().render_help().to_string());
        return ExitCode::from(2);
    }
    // The options that say how to talk were not read; those that can be seen are followed.
    let words: Vec<&str> = args.iter().skip(1).filter_map(|arg| arg.to_str()).collect();
    let given = |name: &str, value: &str| {
        words.iter().any(|word| *word == format!("{name}={value}"))
            || words.windows(2).any(|pair| pair == [name, value])
    };
    let json = given("--log-format", "json") || given("--log_format", "json");
    let json = json || std::env::var("GEN_LOG_FORMAT").is_ok_and(|value| value == "json");
    let log = if json { LogFormat::Json } else { LogFormat::Text };
    let color =
        if given("--color", "always") { true } else { !given("--color", "never") && Color::Auto.on() };
    let command = surface::command();
    let named =
        words.iter().find(|word| command.find_subcommand(word).is_some_and(|c| c.get_name() != "help"));
    let help = named.map_or_else(|| "gen -h".to_owned(), |name| format!("gen {name} -h"));
    let ui = Ui { json: false, quiet: false, verbose: 0, log, color };
    ui.error(&usage::explain(error, &help));
    ExitCode::from(2)
}

fn dispatch(cli: &Cli, ui: Ui) -> anyhow::Result<()> {
    match &cli.command {
        Command::Train(args) => train::run(args, &cli.globals, ui),
        Command::Sample(args) => sample::run(args, &cli.globals, ui),
        Command::EvalFid(args) => eval_fid::run(args, &cli.globals, ui),
        Command::EvalNll(args) => eval_nll::run(args, &cli.globals, ui),
        Command::EvalAudio(args) => eval_audio::run(args, &cli.globals, ui),
        Command::EvalText(args) => eval_text::run(args, &cli.globals, ui),
        Command::RefStats(args) => ref_stats::run(args, &cli.globals, ui),
        Command::Convert(args) => convert::run(args, &cli.globals, ui),
        Command::Audio(args) => audio::run(args, &cli.globals, ui),
        Command::Plot(args) => plot::run(args, &cli.globals, ui),
        Command::Inspect(args) => inspect::run(args, ui),
        Command::Selftest(args) => selftest::run(args, &cli.globals, ui),
        Command::Bench(args) => bench::run(args, &cli.globals, ui),
        Command::Doctor(args) => doctor::run(args, &cli.globals, ui),
        Command::Completions(args) => completions::completions(args, ui),
        Command::Man(args) => completions::man(args, ui),
    }
}

/// The largest resident memory of this process so far, in MiB.
#[must_use]
pub fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// The library's error within an application error, with the application's words before it.
fn to_error(error: anyhow::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(other) => Error::new(Kind::Run, format!("{other:#}")),
    }
}

fn from_panic(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    // tch's panics quote the libtorch error in Rust's debug form.
    match text.split_once("Torch(\"") {
        Some((_, message)) => Error::torch(&message.trim_end_matches("\")").replace("\\n", "\n")),
        None => Error::run("internal error")
            .why(text.lines().next().unwrap_or("unknown").to_owned())
            .hint("this is a defect of gen: please report the command that led here"),
    }
}
