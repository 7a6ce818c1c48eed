//! Durations of training: optimiser steps or images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};

/// A duration: a plain integer is a number of optimiser steps, a string such as `"500Ki img"`, `"10Mi img"` or
/// `"200k img"` a number of images (samples). Ki and Mi are powers of 1024, k and M of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Optimiser steps.
    Steps(u64),
    /// Images, over all devices.
    Images(u64),
}

/// How far training has come: steps done and images seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
}

impl Count {
    /// Whether the duration has passed.
    #[must_use]
    pub fn reached(self, at: Progress) -> bool {
        match self {
            Count::Steps(n) => at.step >= n,
            Count::Images(n) => at.images >= n,
        }
    }

    /// `at` as a multiple of this duration; infinite for a duration of zero.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn fraction(self, at: Progress) -> f64 {
        let (done, n) = match self {
            Count::Steps(n) => (at.step, n),
            Count::Images(n) => (at.images, n),
        };
        if n == 0 { f64::INFINITY } else { done as f64 / n as f64 }
    }

    /// The duration in steps of `batch` images, rounded up.
    #[must_use]
    pub fn steps(self, batch: u64) -> u64 {
        match self {
            Count::Steps(n) => n,
            Count::Images(n) => n.div_ceil(batch.max(1)),
        }
    }

    /// The duration in images, at `batch` images a step.
    #[must_use]
    pub fn images(self, batch: u64) -> u64 {
        match self {
            Count::Steps(n) => n.saturating_mul(batch),
            Count::Images(n) => n,
        }
    }

    /// Whether a multiple of the duration lies in (`before`, `after`]: what "every `self`" means.
    #[must_use]
    pub fn due(self, before: Progress, after: Progress) -> bool {
        let (before, after, n) = match self {
            Count::Steps(n) => (before.step, after.step, n),
            Count::Images(n) => (before.images, after.images, n),
        };
        n > 0 && before / n != after / n
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = match self {
            Count::Steps(n) => return write!(f, "{n}"),
            Count::Images(n) => *n,
        };
        for (unit, size) in [("Mi", 1 << 20), ("M", 1_000_000), ("Ki", 1 << 10), ("k", 1000)] {
            if n > 0 && n % size == 0 {
                return write!(f, "{}{unit} img", n / size);
            }
        }
        write!(f, "{n} img")
    }
}

impl FromStr for Count {
    type Err = Error;

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("`{text}` is no duration"))
                .hint("give steps as an integer, or images such as \"200k img\" or \"10Mi img\"")
        };
        let trimmed = text.trim();
        let end =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(trimmed.len());
        let number: f64 = trimmed[..end].replace('_', "").parse().map_err(|_| wrong())?;
        let rest = trimmed[end..].trim_start();
        let (scale, unit) = [
            ("Ki", 1u64 << 10),
            ("Mi", 1 << 20),
            ("Gi", 1 << 30),
            ("k", 1000),
            ("K", 1000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
        ]
        .iter()
        .find_map(|(name, scale)| rest.strip_prefix(name).map(|unit| (*scale, unit)))
        .unwrap_or((1, rest));
        let value = number * scale as f64;
        if !(0.0..9e15).contains(&value) || value.fract() != 0.0 {
            return Err(wrong());
        }
        match unit.trim() {
            // A bare number is steps; with a multiplier it is how training lengths in images are written.
            "" if scale == 1 => Ok(Count::Steps(value as u64)),
            "" | "img" | "image" | "images" | "imgs" | "sample" | "samples" => {
                Ok(Count::Images(value as u64))
            }
            "step" | "steps" => Ok(Count::Steps(value as u64)),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Count::Steps(n) => n.serialize(to),
            Count::Images(_) => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an integer (steps) or a string such as \"200k img\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> std::result::Result<Count, E> {
                Ok(Count::Steps(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> std::result::Result<Count, E> {
                u64::try_from(n).map(Count::Steps).map_err(|_| E::custom(format!("{n} is negative")))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Count, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, want) in [
            ("500Ki img", Count::Images(512_000)),
            ("10Mi img", Count::Images(10 << 20)),
            ("200k img", Count::Images(200_000)),
            ("1.5M images", Count::Images(1_500_000)),
            ("200k", Count::Images(200_000)),
            ("128 img", Count::Images(128)),
            ("5k steps", Count::Steps(5000)),
            ("40", Count::Steps(40)),
        ] {
            assert_eq!(text.parse::<Count>().unwrap(), want, "{text}");
            assert_eq!(want.to_string().parse::<Count>().unwrap(), want, "{want}");
        }
        for text in ["", "k", "-3", "1.5 img", "3 miles", "1e3", "Ki img"] {
            assert_eq!(text.parse::<Count>().unwrap_err().kind().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn toml_integers_are_steps() {
        #[derive(Deserialize, Serialize)]
        struct T {
            a: Count,
            b: Count,
        }
        let t: T = toml::from_str("a = 300\nb = \"500Ki img\"").unwrap();
        assert_eq!((t.a, t.b), (Count::Steps(300), Count::Images(512_000)));
        assert_eq!(toml::to_string(&t).unwrap(), "a = 300\nb = \"500Ki img\"\n");
        assert!(toml::from_str::<T>("a = -1\nb = 1").is_err());
    }

    #[test]
    fn arithmetic() {
        let at = Progress { step: 10, images: 1280 };
        assert!(Count::Steps(10).reached(at) && !Count::Images(1281).reached(at));
        assert_eq!((Count::Images(1000).steps(128), Count::Steps(3).images(128)), (8, 384));
        assert_eq!((Count::Images(2560).fraction(at), Count::Steps(0).fraction(at)), (0.5, f64::INFINITY));
        let before = Progress { step: 9, images: 1152 };
        assert!(Count::Steps(5).due(before, at) && !Count::Images(1281).due(before, at));
        assert!(Count::Images(1200).due(before, at) && !Count::Steps(0).due(before, at));
    }
}
