//! What a set of sounds looks like: figures to read before a model is trained on it.

use serde::Serialize;

/// Figures of one sound or of many.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SoundStats {
    /// Number of sounds.
    pub sounds: usize,
    /// Samples a second.
    pub rate: u32,
    /// Channels.
    pub channels: usize,
    /// Length of all in seconds.
    pub seconds: f64,
    /// Length of the shortest and of the longest in seconds.
    pub shortest: f64,
    /// See `shortest`.
    pub longest: f64,
    /// Largest magnitude.
    pub peak: f64,
    /// Root mean square of all samples.
    pub rms: f64,
    /// Mean of all samples (the offset).
    pub dc: f64,
    /// Standard deviation of all samples.
    pub std: f64,
    /// Share of samples at or beyond full scale.
    pub clipped: f64,
    /// Number of sounds that are silent (all samples equal).
    pub silent: usize,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_silent: Option<String>,
    #[serde(skip)]
    samples: f64,
    #[serde(skip)]
    sum: f64,
    #[serde(skip)]
    squares: f64,
    #[serde(skip)]
    full: f64,
}

/// Magnitudes from here on are full scale: the largest code of 16 bits.
const FULL: f32 = 32_767.0 / 32_768.0;

#[allow(clippy::cast_precision_loss)]
impl SoundStats {
    /// Figures of one sound, whose channels lie one after another in `data`.
    #[must_use]
    pub fn of(data: &[f32], name: &str, rate: u32, channels: usize) -> Self {
        let seconds = data.len() as f64 / channels.max(1) as f64 / f64::from(rate.max(1));
        let silent = data.windows(2).all(|pair| pair[0] == pair[1]);
        let fold = |f: &dyn Fn(f64) -> f64| data.iter().map(|v| f(f64::from(*v))).sum::<f64>();
        let one = SoundStats {
            sounds: 1,
            rate,
            channels,
            seconds,
            shortest: seconds,
            longest: seconds,
            peak: data.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs()))),
            silent: usize::from(silent),
            first_silent: silent.then(|| name.to_owned()),
            samples: data.len() as f64,
            sum: fold(&|v| v),
            squares: fold(&|v| v * v),
            full: data.iter().filter(|v| v.abs() >= FULL).count() as f64,
            ..SoundStats::default()
        };
        one.finished()
    }

    /// Figures of many sounds, of those of each.
    #[must_use]
    pub fn merge(each: impl IntoIterator<Item = SoundStats>) -> Self {
        let mut each = each.into_iter();
        let Some(mut all) = each.next() else { return SoundStats::default() };
        for one in each {
            all.sounds += one.sounds;
            all.seconds += one.seconds;
            all.shortest = all.shortest.min(one.shortest);
            all.longest = all.longest.max(one.longest);
            all.peak = all.peak.max(one.peak);
            all.silent += one.silent;
            all.first_silent = all.first_silent.or(one.first_silent);
            all.samples += one.samples;
            all.sum += one.sum;
            all.squares += one.squares;
            all.full += one.full;
        }
        all.finished()
    }

    fn finished(mut self) -> Self {
        let n = self.samples.max(1.0);
        self.dc = self.sum / n;
        self.rms = (self.squares / n).sqrt();
        self.std = (self.squares / n - self.dc * self.dc).max(0.0).sqrt();
        self.clipped = self.full / n;
        self
    }

    /// What may spoil training on these sounds.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(name) = &self.first_silent {
            out.push(format!("{} of {} sounds are silent, the first is {name}", self.silent, self.sounds));
        }
        if self.clipped > 1e-3 {
            out.push(format!(
                "{:.2}% of the samples are at full scale: clipped recordings",
                100.0 * self.clipped
            ));
        }
        if self.dc.abs() > 0.05 * self.std {
            out.push(format!(
                "the samples have an offset of {:.4} (their deviation is {:.4})",
                self.dc, self.std
            ));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_parts_are_those_of_the_whole() {
        let (a, b) = ([0.5f32, -1.0, 0.25], [0.0f32, 0.0, 0.0, 0.0, 0.0]);
        let merged = SoundStats::merge([SoundStats::of(&a, "a", 10, 1), SoundStats::of(&b, "b", 10, 1)]);
        assert!((merged.dc - (-0.25 / 8.0)).abs() < 1e-12);
        assert!((merged.rms - (1.3125f64 / 8.0).sqrt()).abs() < 1e-12);
        assert_eq!((merged.peak, merged.clipped, merged.silent), (1.0, 1.0 / 8.0, 1));
        assert_eq!((merged.seconds, merged.shortest, merged.longest), (0.8, 0.3, 0.5));
        assert_eq!(merged.first_silent.as_deref(), Some("b"));
        assert_eq!(merged.warnings().len(), 3);
    }
}
