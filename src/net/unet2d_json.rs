//! The options of [`UNet2D`](super::unet2d::UNet2D) as the `config.json` of diffusers' `UNet2DModel`.

use serde_json::{Map, Value, json};

use super::unet2d_config::{ClassEmbed, MidBlock, TimeEmbedding, UNet2DConfig, UpBlock};
use crate::error::{Error, Result};

/// Keys whose null is a choice of its own, with the word this crate has for it.
const NULLS: &[(&str, &str)] = &[
    ("class_embed_type", "table"),
    ("mid_block_type", "none"),
    // The class builds convolutions where the file says nothing.
    ("downsample_type", "conv"),
    ("upsample_type", "conv"),
];

/// Labels of a network that embeds them as times and does not say how many there are.
const LABELS: i64 = 1000;

fn wrong(key: &str, why: impl Into<String>) -> Error {
    Error::model(format!("config key `{key}`")).why(why)
}

/// A whole number, also one written as a float.
#[allow(clippy::cast_possible_truncation)]
fn integer(key: &str, value: &Value) -> Result<i64> {
    let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64);
    value
        .as_i64()
        .or_else(|| value.as_f64().and_then(whole))
        .ok_or_else(|| wrong(key, format!("{value} is not a whole number")))
}

/// `sample_size`: one number for a square, two for height and width, nothing if it is left open.
fn size(value: &Value) -> Result<Option<[i64; 2]>> {
    let key = "sample_size";
    match value {
        Value::Null => Ok(None),
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => Ok(Some([integer(key, height)?, integer(key, width)?])),
            _ => Err(wrong(key, format!("{value} is not a height and a width"))),
        },
        side => integer(key, side).map(|n| Some([n, n])),
    }
}

impl UNet2DConfig {
    /// The options in a diffusers `config.json`, with the shape `[C, H, W]` of a sample and the number of
    /// classes. Keys that the file lacks have the defaults of the diffusers class. A network that embeds
    /// labels as times has `num_class_embeds` classes, else as many as `num_train_timesteps`, else 1000.
    ///
    /// # Errors
    /// Where the file describes another class, or an option this network does not have; the key is named.
    pub fn from_diffusers(json: &Value) -> Result<(Self, [i64; 3], i64)> {
        let Value::Object(all) = json else {
            return Err(Error::model("the model's config is not a JSON object"));
        };
        if let Some(class) = all.get("_class_name").filter(|class| *class != "UNet2DModel") {
            return Err(wrong("_class_name", format!("{class} is not supported, only \"UNet2DModel\"")));
        }
        let mut own = Map::new();
        let (mut channels, mut out, mut sides, mut classes) = (3, 3, None, None);
        for (key, value) in all {
            let name = key.as_str();
            match name {
                "in_channels" => channels = integer(key, value)?,
                "out_channels" => out = integer(key, value)?,
                "sample_size" => sides = size(value)?,
                "num_class_embeds" if value.is_null() => {}
                "num_class_embeds" => classes = Some(integer(key, value)?),
                "act_fn" => {
                    let lower = value.as_str().map_or_else(|| value.clone(), |v| v.to_lowercase().into());
                    own.insert(key.clone(), lower);
                }
                "mid_block_scale_factor" | "freq_shift" | "norm_eps" | "dropout" => {
                    let number = value.as_f64().filter(|x| x.is_finite());
                    let number = number.ok_or_else(|| wrong(key, format!("{value} is not a number")))?;
                    own.insert(key.clone(), number.into());
                }
                _ if name.starts_with('_') => {}
                // An option that a release did not have, left off.
                _ if !known(name) && (value.is_null() || *value == false) => {}
                _ => {
                    let word = NULLS.iter().find(|(null, _)| value.is_null() && name == *null);
                    own.insert(key.clone(), word.map_or_else(|| value.clone(), |(_, word)| (*word).into()));
                }
            }
        }
        if out != channels {
            own.insert("out_channels".into(), out.into());
        }
        let Some([height, width]) = sides else {
            return Err(Error::model("the model's config has no sample_size")
                .hint("write the size of the images into config.json, such as \"sample_size\": 32"));
        };
        let config = parse(own)?;
        let classes = match config.class_embed_type {
            ClassEmbed::Identity => 0,
            ClassEmbed::Table => classes.unwrap_or(0),
            ClassEmbed::Timestep => classes.or(config.num_train_timesteps).unwrap_or(LABELS),
        };
        config.check(&[channels, height, width])?;
        if classes < 0 {
            return Err(wrong("num_class_embeds", format!("{classes} is negative")));
        }
        Ok((config, [channels, height, width], classes))
    }

    /// The `config.json` from which `UNet2DModel` builds this network for samples of `shape` `[C, H, W]`
    /// and `classes` classes (0 for none).
    ///
    /// # Errors
    /// Where the options do not make a network for this shape.
    pub fn to_diffusers(&self, shape: &[i64], classes: i64) -> Result<Value> {
        let channels = self.check(shape)?;
        if self.up_block_types.contains(&UpBlock::LastAttnUpBlock2D) {
            return Err(Error::model("diffusers has no such network")
                .why("one of its blocks is a LastAttnUpBlock2D, which only gen has"));
        }
        let (height, width) = (shape[1], shape[2]);
        let failed = |e: serde_json::Error| Error::run("cannot write the model's config").why(e.to_string());
        let mut all = Map::new();
        all.insert("_class_name".into(), "UNet2DModel".into());
        // The release whose class these keys are of.
        all.insert("_diffusers_version".into(), "0.42.0".into());
        all.insert(
            "sample_size".into(),
            if height == width { json!(height) } else { json!([height, width]) },
        );
        all.insert("in_channels".into(), channels.into());
        let Value::Object(own) = serde_json::to_value(self).map_err(failed)? else {
            return Err(Error::run("cannot write the model's config"));
        };
        all.extend(own);
        // What is none here is null there; serde writes it as 0 for recipes.
        let optional = |n: Option<i64>| n.map_or(Value::Null, Value::from);
        for (key, value) in [
            ("out_channels", Some(self.out_channels.unwrap_or(channels))),
            ("attention_head_dim", self.attention_head_dim),
            ("norm_num_groups", self.norm_num_groups),
            ("attn_norm_num_groups", self.attn_norm_num_groups),
            ("time_embedding_dim", self.time_embedding_dim),
            ("num_train_timesteps", self.num_train_timesteps),
            ("num_class_embeds", (classes > 0).then_some(classes)),
        ] {
            all.insert(key.into(), optional(value));
        }
        if self.mid_block_type == MidBlock::Nothing {
            all.insert("mid_block_type".into(), Value::Null);
        }
        if self.class_embed_type == ClassEmbed::Table {
            all.insert("class_embed_type".into(), Value::Null);
        }
        Ok(Value::Object(all))
    }

    /// Whether the network takes the noise level as its time and gives the score.
    #[must_use]
    pub fn gives_score(&self) -> bool {
        self.time_embedding_type == TimeEmbedding::Fourier
    }
}

/// Whether the class has an option of this name.
fn known(key: &str) -> bool {
    let defaults = serde_json::to_value(UNet2DConfig::default()).unwrap_or_default();
    let absent = ["attn_norm_num_groups", "time_embedding_dim", "num_train_timesteps"];
    defaults.get(key).is_some() || absent.contains(&key)
}

/// The options, with an error that names the key.
fn parse(own: Map<String, Value>) -> Result<UNet2DConfig> {
    serde_json::from_value(Value::Object(own.clone())).map_err(|whole| {
        // One key at a time shows which one it is.
        for (key, value) in own {
            let alone = Value::Object([(key.clone(), value)].into_iter().collect());
            if let Err(e) = serde_json::from_value::<UNet2DConfig>(alone) {
                let text = e.to_string();
                if text.starts_with("unknown field") {
                    return Error::model(format!("config key `{key}` is not known"))
                        .hint("gen builds UNet2DModel of diffusers 0.42 and before");
                }
                return wrong(&key, text);
            }
        }
        Error::model("the model's config").why(whole.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::unet2d_config::{Activation, DownBlock};

    fn cifar() -> Value {
        serde_json::from_str(
            r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu",
            "attention_head_dim": null, "block_out_channels": [128, 256, 256, 256],
            "center_input_sample": false, "down_block_types": ["DownBlock2D", "AttnDownBlock2D",
            "DownBlock2D", "DownBlock2D"], "downsample_padding": 0, "flip_sin_to_cos": false,
            "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
            "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
            "time_embedding_type": "positional", "up_block_types": ["UpBlock2D", "UpBlock2D",
            "AttnUpBlock2D", "UpBlock2D"]}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_published_config_is_the_preset() {
        let (config, shape, classes) = UNet2DConfig::from_diffusers(&cifar()).unwrap();
        assert_eq!(config, UNet2DConfig::ddpm_cifar10());
        assert_eq!((shape, classes), ([3, 32, 32], 0));
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_class() {
        let mut json = cifar();
        let keys = json.as_object_mut().unwrap();
        for key in ["attention_head_dim", "norm_eps", "flip_sin_to_cos", "freq_shift", "downsample_padding"] {
            keys.remove(key);
        }
        let (c, ..) = UNet2DConfig::from_diffusers(&json).unwrap();
        assert_eq!((c.attention_head_dim, c.norm_eps, c.downsample_padding), (Some(8), 1e-5, 1));
        assert!(c.flip_sin_to_cos && c.freq_shift == 0.0);
    }

    #[test]
    fn rare_values_are_understood() {
        let mut json = cifar();
        for (key, value) in [
            ("sample_size", json!([16, 32])),
            ("act_fn", json!("SWISH")),
            ("mid_block_type", Value::Null),
            ("class_embed_type", json!("timestep")),
            ("norm_num_groups", Value::Null),
            ("out_channels", json!(6)),
        ] {
            json[key] = value;
        }
        json["down_block_types"][0] = json!("UNetResDownBlock2D");
        let (c, shape, classes) = UNet2DConfig::from_diffusers(&json).unwrap();
        assert_eq!((shape, classes), ([3, 16, 32], 1000));
        assert_eq!((c.act_fn, c.mid_block_type), (Activation::Silu, MidBlock::Nothing));
        assert_eq!((c.norm_num_groups, c.out_channels), (None, Some(6)));
        assert_eq!(c.down_block_types[0], DownBlock::DownBlock2D);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut rare = cifar();
        for (key, value) in [
            ("sample_size", json!([8, 16])),
            ("mid_block_type", Value::Null),
            ("class_embed_type", json!("identity")),
            ("norm_num_groups", Value::Null),
            ("out_channels", json!(6)),
            ("time_embedding_type", json!("learned")),
            ("num_train_timesteps", json!(10)),
            ("attn_norm_num_groups", json!(4)),
        ] {
            rare[key] = value;
        }
        let mut classes = cifar();
        classes["num_class_embeds"] = json!(10);
        for json in [cifar(), rare, classes] {
            let (config, shape, classes) = UNet2DConfig::from_diffusers(&json).unwrap();
            let written = config.to_diffusers(&shape, classes).unwrap();
            for (key, value) in json.as_object().unwrap() {
                let same = match (value.as_f64(), written[key].as_f64()) {
                    (Some(a), Some(b)) => a.to_bits() == b.to_bits(),
                    _ => *value == written[key],
                };
                assert!(same || key == "_diffusers_version", "{key}: {value} {}", written[key]);
            }
            assert_eq!(UNet2DConfig::from_diffusers(&written).unwrap(), (config, shape, classes));
        }
    }

    #[test]
    fn what_the_network_lacks_is_refused_by_name() {
        for (key, value) in [
            ("_class_name", json!("UNet2DConditionModel")),
            ("act_fn", json!("tanh")),
            ("time_embedding_type", json!("random")),
            ("down_block_types", json!(["DownEncoderBlock2D"])),
            ("up_block_types", json!(["CrossAttnUpBlock2D"])),
            ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
            ("resnet_time_scale_shift", json!("spatial")),
            ("resnet_skip_time_act", json!(true)),
            ("sample_size", json!([1, 2, 3])),
            ("norm_eps", json!("small")),
            ("in_channels", json!(1.5)),
            ("num_class_embeds", json!(-1)),
        ] {
            let mut json = cifar();
            json[key] = value;
            let error = UNet2DConfig::from_diffusers(&json).unwrap_err();
            assert_eq!(error.kind().exit_code(), 4);
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
