//! `gen ref-stats`: statistics of real images, to measure against later.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Globals;
use super::eval_fid::{Count, FeatureArgs};
use super::ui::{Bar, Ui};
use crate::data::{DataOptions, Dataset, Split};
use crate::error::Error;
use crate::io::atomic;
use crate::metric::evaluate::{EvalOptions, SubsetRule, choose, collect};
use crate::metric::features::Wanted;
use crate::metric::merge::merge;
use crate::metric::stats_file::Stats;
use crate::metric::suite::Conventions;
use crate::model::seeds::Shard;

/// Write the statistics of real images to a file
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  \
    gen ref-stats --data cifar-10-batches-bin --split train --weights inception.pth --out cifar10.npz\n  \
    gen ref-stats --data images.zip --weights inception.pth --sfid --with-features --out ref.safetensors\n  \
    gen ref-stats --data data/digits --features pixel8 --out digits.npz\n  \
    gen ref-stats --data images --weights inception.pth --shard 0/2 --out part0.safetensors\n  \
    gen ref-stats merge part0.safetensors part1.safetensors --out ref.safetensors\n\n\
    .npz holds `mu` and `sigma` (f64), as EDM, TTUR and pytorch-fid read them. Any other name makes a \
    safetensors file that also says how it was made (extractor, weights, protocol, number of images), which \
    `gen eval-fid` checks, and can hold the features for KID, precision and recall.")]
pub struct RefStatsArgs {
    /// What to do instead
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Real images
    #[arg(long, value_name = "PATH", required = true)]
    pub data: Option<PathBuf>,
    /// Where to write
    #[arg(long, short, value_name = "FILE", alias = "dest", required = true)]
    pub out: Option<PathBuf>,
    /// Part of the data
    #[arg(long, value_enum, default_value_t, value_name = "PART")]
    pub split: Split,
    /// How images become features
    #[command(flatten)]
    pub features: FeatureArgs,
    /// Number of images, or `all`
    #[arg(long, default_value = "all", value_name = "N")]
    pub num: Count,
    /// Which images, where there are more
    #[arg(long, value_enum, default_value_t, value_name = "RULE")]
    pub subset: SubsetRule,
    /// Seed of the random subset
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub seed: u32,
    /// Only the i-th of n parts of the images, i from 0; `ref-stats merge` puts them together
    #[arg(long, value_name = "i/n")]
    pub shard: Option<Shard>,
    /// Also the statistics of the spatial features (sFID)
    #[arg(long)]
    pub sfid: bool,
    /// Also the features themselves
    #[arg(long)]
    pub with_features: bool,
}

/// What else there is to do with statistics.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Put the statistics of parts together
    Merge(MergeArgs),
}

/// Arguments of `gen ref-stats merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Files of `gen ref-stats --shard`
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    pub parts: Vec<PathBuf>,
    /// Where to write
    #[arg(long, short, value_name = "FILE", alias = "dest")]
    pub out: PathBuf,
}

fn merge_parts(args: &MergeArgs, ui: Ui) -> anyhow::Result<()> {
    atomic::check(&args.out)?;
    let parts = args.parts.iter().map(|path| Stats::read(path)).collect::<Result<Vec<_>, Error>>()?;
    let whole = merge(parts)?;
    whole.write(&args.out)?;
    let n = whole.gaussian.n.unwrap_or(0);
    ui.result(&json!({
        "out": args.out.display().to_string(), "n": n, "dim": whole.gaussian.dim(),
        "rank_deficient": whole.gaussian.rank_deficient(), "origin": whole.origin,
    }))?;
    Ok(ui.line(format!("{}  ({n} images in {} parts)", args.out.display(), args.parts.len()))?)
}

/// Runs the command.
pub fn run(args: &RefStatsArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    if let Some(Action::Merge(parts)) = &args.action {
        return merge_parts(parts, ui);
    }
    let (Some(source), Some(out)) = (&args.data, &args.out) else {
        return Err(Error::usage("ref-stats needs --data and --out").into());
    };
    let npz = out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    if npz && args.with_features {
        return Err(Error::usage("features do not go into an npz of statistics")
            .at("--with-features")
            .hint("give --out a name that ends in .safetensors")
            .into());
    }
    // A place that cannot be written is found before the long work.
    atomic::check(out)?;
    let device = globals.start()?;
    let options =
        DataOptions { any_size: true, classes: Some(false), split: args.split, ..DataOptions::default() };
    let data: Arc<dyn Dataset> = Arc::from(crate::data::open(source, &options)?);
    let extractor = args.features.open(&Conventions::default(), device)?;
    if args.sfid && !extractor.can().spatial {
        return Err(Error::usage(format!("`{}` has no spatial features", extractor.name()))
            .at("--sfid")
            .hint("sFID needs --features inception")
            .into());
    }
    let mut indices = choose(data.len(), args.num.0, args.subset, args.seed)?;
    if let Some(Shard { index, count }) = args.shard {
        indices = indices.into_iter().skip(index as usize).step_by(count as usize).collect();
    }
    let settings = EvalOptions {
        batch: args.features.batch as usize,
        workers: args.features.workers as usize,
        device: tch::Device::Cpu,
        ..EvalOptions::default()
    };
    let wanted = Wanted { logits: false, spatial: args.sfid };
    let mut bar: Option<Bar> = None;
    let mut progress = |done: usize, total: usize| {
        bar.get_or_insert_with(|| ui.bar("features", total as u64, "img")).set(done as u64);
    };
    let pass = collect(&data, &indices, &*extractor, wanted, args.with_features, &settings, &mut progress)?;
    if let Some(bar) = &bar {
        bar.finish();
    }
    for note in &pass.notes {
        ui.warn(note);
    }
    let deficient = pass.gaussian.rank_deficient();
    if deficient {
        ui.warn(format!(
            "{} images for {} features: the covariance lacks rank",
            indices.len(),
            pass.gaussian.dim()
        ));
    }
    let stats = pass.into_stats(&*extractor, &source.display().to_string());
    stats.write(out)?;
    ui.result(&json!({
        "out": out.display().to_string(), "n": indices.len(), "dim": stats.gaussian.dim(),
        "rank_deficient": deficient, "origin": stats.origin,
    }))?;
    ui.line(format!("{}  ({} images, {})", out.display(), indices.len(), extractor.name()))?;
    Ok(())
}
