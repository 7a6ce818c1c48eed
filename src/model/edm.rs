//! Pickles of NVlabs/edm (`network-snapshot-*.pkl`, `training-state-*.pt`, and the published networks).
//!
//! They hold objects with their source text. The text is never run: the options are those that were recorded
//! when the objects were made (`_init_kwargs`), the weights are their parameters and buffers. The outer object
//! says which preconditioning it is (Karras et al. 2022, Table 1), the inner one (`model`) is the network.

use super::foreign::{card, no_such_weights};
use super::load::Loaded;
use super::open::OpenOptions;
use super::source::Source;
use crate::denoiser::precond::Precond;
use crate::error::{Error, Result};
use crate::io::pth::{CLASS, Scalar};
use crate::net::adm::AdmConfig;
use crate::net::song_unet::{Decoder, Embedding, Encoder, SongUNetConfig};
use crate::net::spec::NetSpec;
use crate::objective::ObjectiveSpec;
use crate::objective::spec::Edm as EdmOptions;
use crate::process::ProcessSpec;
use crate::recipe::SampleSpec;
use crate::solver::{SolverName, SolverSpec};

/// The classes of the outer object.
const OUTER: [&str; 4] = ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"];
/// Where it may be, the averaged weights first.
const PLACES: [&str; 3] = ["ema", "net", ""];

fn under(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

/// Where in `source` the network is; `wanted` is one of its places.
pub(super) fn place(source: &Source, wanted: Option<&str>) -> Option<&'static str> {
    PLACES
        .into_iter()
        .filter(|place| wanted.is_none_or(|wanted| wanted == *place))
        .find(|place| source.text(&under(place, CLASS)).is_some_and(|class| OUTER.contains(&class)))
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let wanted = match options.weights.as_deref() {
        Some("raw") => Some("net"),
        other => other,
    };
    let place = place(source, wanted)
        .ok_or_else(|| no_such_weights(wanted.unwrap_or_default(), &["ema", "raw (of a training state)"]))?;
    let (net, shape, classes) = network(&Facts { source, place: under(place, "model") })?;
    let precond = precond(source, place)?;
    let limits = ["sigma_min", "sigma_max"].map(|key| source.number(&under(place, key)));
    let sigma_data = if let Precond::Edm { sigma_data } = precond { sigma_data } else { 0.5 };
    // As EDM's sampler chooses its range.
    let process = ProcessSpec::Edm {
        sigma_min: limits[0].unwrap_or(0.0).max(0.002),
        sigma_max: limits[1].unwrap_or(f64::INFINITY).min(80.0),
        sigma_data,
    };
    let average = (place == "ema").then_some("ema");
    let mut card = card(net, process, precond.into(), (shape, classes), average);
    if let Precond::Edm { sigma_data } = precond {
        card.objective = ObjectiveSpec::Edm(EdmOptions { sigma_data, ..EdmOptions::default() });
    }
    card.sample = SampleSpec {
        solver: Some(SolverSpec::new(SolverName::Edm)),
        steps: Some(18),
        ..SampleSpec::default()
    };
    let tensors = source.below(&format!("{}.", under(place, "model")))?;
    Ok(Loaded::of_file(source.path(), card, tensors, Vec::new()))
}

fn precond(source: &Source, place: &str) -> Result<Precond> {
    let number = |key: &str| {
        let name = under(place, key);
        source.number(&name).ok_or_else(|| Error::model(format!("the network has no number `{name}`")))
    };
    let fixed = |key: &str, value: f64| -> Result<()> {
        let got = number(key)?;
        if (got - value).abs() < 1e-9 {
            return Ok(());
        }
        Err(Error::model(format!("`{}` is {got}", under(place, key)))
            .why(format!("only {value} is supported")))
    };
    match source.text(&under(place, CLASS)).unwrap_or_default() {
        "EDMPrecond" => Ok(Precond::Edm { sigma_data: number("sigma_data")? }),
        "VPPrecond" => {
            fixed("M", 1000.0)?;
            let beta_0 = number("beta_min")?;
            Ok(Precond::Vp { beta_0, beta_1: beta_0 + number("beta_d")? })
        }
        "VEPrecond" => Ok(Precond::Ve),
        _ => {
            fixed("M", 1000.0)?;
            fixed("C_1", 0.001)?;
            fixed("C_2", 0.008)?;
            Ok(Precond::Iddpm)
        }
    }
}

/// What an option that is a size may be: more is damage, and would only cost memory.
const SIZES: std::ops::RangeInclusive<i64> = 0..=1 << 20;

/// The recorded options of an object.
struct Facts<'a> {
    source: &'a Source,
    place: String,
}

impl Facts<'_> {
    fn name(&self, key: &str) -> String {
        under(&self.place, &format!("_init_kwargs.{key}"))
    }

    /// `read` of the option `key`, or `default` where it was not given.
    fn get<T>(&self, key: &str, default: T, read: impl Fn(&Source, &str) -> Option<T>) -> Result<T> {
        let name = self.name(key);
        if self.source.value(&name).is_none() && self.source.value(&format!("{name}.0")).is_none() {
            return Ok(default);
        }
        read(self.source, &name).ok_or_else(|| {
            Error::model(format!("option `{name}` cannot be used"))
                .why("it is not of the type or size it must have")
        })
    }

    fn int(&self, key: &str, default: i64) -> Result<i64> {
        self.get(key, default, |source, name| source.int(name).filter(|n| SIZES.contains(n)))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key, default, Source::number)
    }

    fn ints(&self, key: &str, default: &[i64]) -> Result<Vec<i64>> {
        let sizes = |source: &Source, name: &str| {
            source.ints(name).filter(|list| list.len() <= 16 && list.iter().all(|n| SIZES.contains(n)))
        };
        self.get(key, default.to_vec(), sizes)
    }

    fn needed(&self, key: &str) -> Result<i64> {
        let found = self.source.int(&self.name(key)).filter(|n| SIZES.contains(n));
        found.ok_or_else(|| Error::model(format!("the network has no usable option `{}`", self.name(key))))
    }

    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let name = self.name(key);
        let text = match self.source.value(&name) {
            None => return Ok(choices[0].1),
            Some(Scalar::Str(text)) => text.as_str(),
            Some(_) => "",
        };
        choices.iter().find(|(known, _)| *known == text).map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
            Error::model(format!("option `{name}` is `{text}`"))
                .why(format!("known are {}", known.join(", ")))
        })
    }

    /// Fails where an option was given that is none of `known`.
    fn only(&self, known: &[&str]) -> Result<()> {
        let place = under(&self.place, "_init_kwargs");
        match self.source.keys(&place).iter().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::model(format!("option `{}` is unknown", self.name(key)))
                .hint("gen knows the options of the release of EDM that its paper describes")),
            None => Ok(()),
        }
    }
}

/// What both networks take.
const COMMON: [&str; 13] = [
    "img_resolution",
    "in_channels",
    "out_channels",
    "label_dim",
    "augment_dim",
    "model_channels",
    "channel_mult",
    "channel_mult_emb",
    "num_blocks",
    "attn_resolutions",
    "dropout",
    "label_dropout",
    "use_fp16",
];

/// The network, the shape of its samples and its number of classes.
fn network(facts: &Facts<'_>) -> Result<(NetSpec, Vec<i64>, i64)> {
    if facts.source.value(&under(&facts.place, "_init_args.0")).is_some() {
        return Err(Error::model("the options of the network were given by position")
            .at(under(&facts.place, "_init_args"))
            .why("only options by name are read"));
    }
    let class = facts.source.text(&under(&facts.place, CLASS)).unwrap_or_default();
    let (channels, out) = (facts.needed("in_channels")?, facts.needed("out_channels")?);
    let side = facts.needed("img_resolution")?;
    let classes = facts.int("label_dim", 0)?;
    let wrong_out = || {
        Err(Error::model(format!("option `{}` is {out}", facts.name("out_channels")))
            .why(format!("the network takes {channels} channels")))
    };
    let net = match class {
        "SongUNet" => {
            if out != channels {
                return wrong_out();
            }
            let own =
                ["embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter"];
            facts.only(&[&COMMON[..], &own].concat())?;
            NetSpec::SongUNet(song(facts)?.into())
        }
        "DhariwalUNet" => {
            if out != channels && out != 2 * channels {
                return wrong_out();
            }
            facts.only(&COMMON)?;
            let base = AdmConfig::default();
            NetSpec::Adm(AdmConfig {
                model_channels: facts.int("model_channels", base.model_channels)?,
                channel_mult: facts.ints("channel_mult", &base.channel_mult)?,
                channel_mult_emb: facts.int("channel_mult_emb", base.channel_mult_emb)?,
                num_blocks: facts.int("num_blocks", base.num_blocks)?,
                attn_resolutions: facts.ints("attn_resolutions", &base.attn_resolutions)?,
                head_channels: base.head_channels,
                dropout: facts.number("dropout", base.dropout)?,
                label_dropout: facts.number("label_dropout", base.label_dropout)?,
                augment_dim: facts.int("augment_dim", base.augment_dim)?,
                learn_sigma: out == 2 * channels,
            })
        }
        other => {
            return Err(Error::model(format!("the network is a `{other}`"))
                .at(under(&facts.place, CLASS))
                .why("only SongUNet and DhariwalUNet are known"));
        }
    };
    check_size(facts, &net)?;
    Ok((net, vec![channels, side, side], classes))
}

/// Options that a file's own tensors contradict would only cost memory: the first layer must have its shape, and
/// no more blocks can be asked for than there are tensors.
fn check_size(facts: &Facts<'_>, net: &NetSpec) -> Result<()> {
    let (base, emb, noise, blocks) = match (net, net.song()) {
        (NetSpec::Adm(c), _) => (c.model_channels, c.channel_mult_emb, 1, c.num_blocks),
        (_, Some(c)) => (c.model_channels, c.channel_mult_emb, c.channel_mult_noise, c.num_blocks),
        _ => return Ok(()),
    };
    let name = under(&facts.place, "map_layer0.weight");
    let want = [base.saturating_mul(emb), base.saturating_mul(noise)];
    if let Some(found) = facts.source.shape(&name)
        && found != want
    {
        return Err(Error::shape(&name, &want, found));
    }
    let tensors = i64::try_from(facts.source.names().len()).unwrap_or(i64::MAX);
    if blocks > tensors || base > 1 << 14 {
        return Err(Error::model(format!("option `{}` cannot be used", facts.name("num_blocks")))
            .why(format!("{blocks} blocks of {base} channels, but the file holds {tensors} tensors")));
    }
    Ok(())
}

fn song(facts: &Facts<'_>) -> Result<SongUNetConfig> {
    let base = SongUNetConfig::default();
    Ok(SongUNetConfig {
        model_channels: facts.int("model_channels", base.model_channels)?,
        channel_mult: facts.ints("channel_mult", &base.channel_mult)?,
        channel_mult_emb: facts.int("channel_mult_emb", base.channel_mult_emb)?,
        channel_mult_noise: facts.int("channel_mult_noise", base.channel_mult_noise)?,
        num_blocks: facts.int("num_blocks", base.num_blocks)?,
        attn_resolutions: facts.ints("attn_resolutions", &base.attn_resolutions)?,
        dropout: facts.number("dropout", base.dropout)?,
        label_dropout: facts.number("label_dropout", base.label_dropout)?,
        augment_dim: facts.int("augment_dim", base.augment_dim)?,
        embedding_type: facts.choice(
            "embedding_type",
            &[("positional", Embedding::Positional), ("fourier", Embedding::Fourier)],
        )?,
        encoder_type: facts.choice(
            "encoder_type",
            &[("standard", Encoder::Standard), ("skip", Encoder::Skip), ("residual", Encoder::Residual)],
        )?,
        decoder_type: facts
            .choice("decoder_type", &[("standard", Decoder::Standard), ("skip", Decoder::Skip)])?,
        resample_filter: facts.get("resample_filter", base.resample_filter.clone(), |source, name| {
            source.numbers(name).filter(|taps| taps.len() <= 16)
        })?,
        skip_scale: base.skip_scale,
    })
}
