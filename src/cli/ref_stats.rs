//! `gen ref-stats`: statistics of real images, to measure against later.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::Globals;
use super::eval_fid::{Count, FeatureArgs};
use super::ui::{Bar, Ui};
use crate::data::{DataOptions, Dataset, Split};
use crate::error::Error;
use crate::io::atomic;
use crate::metric::evaluate::{EvalOptions, SubsetRule, choose, collect};
use crate::metric::features::Wanted;

/// Write the statistics of real images to a file
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen ref-stats --data cifar-10-batches-bin --split train --weights inception.pth --out cifar10.npz\n  \
    gen ref-stats --data images.zip --weights inception.pth --sfid --with-features --out ref.safetensors\n  \
    gen ref-stats --data data/digits --features pixel8 --out digits.npz\n\n\
    .npz holds `mu` and `sigma` (f64), as EDM, TTUR and pytorch-fid read them. Any other name makes a \
    safetensors file that also says how it was made (extractor, weights, protocol, number of images), which \
    `gen eval-fid` checks, and can hold the features for KID, precision and recall.")]
pub struct RefStatsArgs {
    /// Real images
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Where to write
    #[arg(long, short, value_name = "FILE", alias = "dest")]
    pub out: PathBuf,
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
    /// Also the statistics of the spatial features (sFID)
    #[arg(long)]
    pub sfid: bool,
    /// Also the features themselves
    #[arg(long)]
    pub with_features: bool,
}

/// Runs the command.
pub fn run(args: &RefStatsArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let npz = args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    if npz && args.with_features {
        return Err(Error::usage("features do not go into an npz of statistics")
            .at("--with-features")
            .hint("give --out a name that ends in .safetensors")
            .into());
    }
    // A place that cannot be written is found before the long work.
    atomic::check(&args.out)?;
    let device = globals.start()?;
    let options =
        DataOptions { any_size: true, classes: Some(false), split: args.split, ..DataOptions::default() };
    let data: Arc<dyn Dataset> = Arc::from(crate::data::open(&args.data, &options)?);
    let extractor = args.features.open(device)?;
    if args.sfid && !extractor.can().spatial {
        return Err(Error::usage(format!("`{}` has no spatial features", extractor.name()))
            .at("--sfid")
            .hint("sFID needs --features inception")
            .into());
    }
    let indices = choose(data.len(), args.num.0, args.subset, args.seed)?;
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
    let stats = pass.into_stats(&*extractor, &args.data.display().to_string());
    stats.write(&args.out)?;
    ui.result(&json!({
        "out": args.out.display().to_string(), "n": indices.len(), "dim": stats.gaussian.dim(),
        "rank_deficient": deficient, "origin": stats.origin,
    }))?;
    ui.line(format!("{}  ({} images, {})", args.out.display(), indices.len(), extractor.name()))?;
    Ok(())
}
