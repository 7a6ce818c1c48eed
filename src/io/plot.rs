//! Pictures of sound: the waveform above its spectrogram, with axes, as PNG or SVG.

use std::fmt::Write as _;

use tch::Kind;

use super::bytes::tensor_to_f64;
use super::picture::Picture;
use super::plot_font::{GLYPH_HEIGHT, text_width, write_text};
use super::png;
use super::sound::Sound;
use crate::error::{Error, Result};
use crate::torch::spectrum::{Edge, Stft};

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlotOptions {
    /// Width of both panels in pixels.
    pub width: usize,
    /// Decibels below the loudest point that are black.
    pub range: f64,
    /// Size of the transform; nothing chooses 512 up to 12 kHz and 1024 above.
    pub n_fft: Option<usize>,
}

impl Default for PlotOptions {
    fn default() -> Self {
        PlotOptions { width: 800, range: 80.0, n_fft: None }
    }
}

const WAVE: usize = 120;
const SPECTRUM: usize = 256;
const GAP: usize = 14;
const LEFT: usize = 58;
const RIGHT: usize = 18;
const TOP: usize = 12;
const BOTTOM: usize = 34;
const INK: [u8; 3] = [40, 40, 48];
const LINE: [u8; 3] = [20, 70, 150];

/// Corners of matplotlib's colour map magma.
const MAGMA: [[u8; 3]; 9] = [
    [0, 0, 4],
    [28, 16, 68],
    [79, 18, 123],
    [129, 37, 129],
    [181, 54, 122],
    [229, 80, 100],
    [251, 135, 97],
    [254, 194, 135],
    [252, 253, 191],
];

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn colour(share: f64) -> [u8; 3] {
    let at = share.clamp(0.0, 1.0) * (MAGMA.len() - 1) as f64;
    let low = (at as usize).min(MAGMA.len() - 2);
    let rest = at - low as f64;
    let mix = |c: usize| f64::from(MAGMA[low][c]) * (1.0 - rest) + f64::from(MAGMA[low + 1][c]) * rest;
    [0, 1, 2].map(|c| mix(c).round() as u8)
}

/// What is drawn, found once for both forms.
struct Figure {
    width: usize,
    seconds: f64,
    nyquist: f64,
    /// Largest magnitude, at least a little above 0.
    peak: f64,
    /// Lowest and highest sample of every column.
    wave: Vec<[f64; 2]>,
    spectrogram: Picture,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
impl Figure {
    fn of(sound: &Sound, options: &PlotOptions) -> Result<Self> {
        let mono = sound.mono();
        let (x, width) = (mono.channel(0), options.width);
        if x.is_empty() {
            return Err(Error::data("nothing to draw").why("the sound has no samples"));
        }
        let wave = (0..width)
            .map(|column| {
                let from = (column * x.len() / width).min(x.len() - 1);
                let to = ((column + 1) * x.len() / width).clamp(from + 1, x.len());
                let part = x[from..to].iter().map(|v| f64::from(*v));
                part.fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], v| [a.min(v), b.max(v)])
            })
            .collect();
        Ok(Figure {
            width,
            seconds: x.len() as f64 / f64::from(sound.rate),
            nyquist: f64::from(sound.rate) / 2.0,
            peak: x.iter().fold(1e-3, |m: f64, v| m.max(f64::from(v.abs()))),
            wave,
            spectrogram: spectrogram(&mono, options)?,
        })
    }

    /// The row of an amplitude.
    fn wave_y(&self, v: f64) -> f64 {
        TOP as f64 + (1.0 - v / self.peak) / 2.0 * (WAVE - 1) as f64
    }

    /// Ticks of time: place and text.
    fn times(&self) -> Vec<(f64, String)> {
        ticks(self.seconds, 8.0)
            .into_iter()
            .map(|(t, text)| (LEFT as f64 + t / self.seconds * (self.width - 1) as f64, text))
            .collect()
    }

    /// Ticks of frequency in kHz.
    fn frequencies(&self) -> Vec<(f64, String)> {
        let bottom = (TOP + WAVE + GAP + SPECTRUM - 1) as f64;
        let khz = self.nyquist / 1000.0;
        ticks(khz, 5.0)
            .into_iter()
            .map(|(f, text)| (bottom - f / khz * (SPECTRUM - 1) as f64, text))
            .collect()
    }
}

/// Round numbers from 0 to `top`, about `count` of them, with their texts.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ticks(top: f64, count: f64) -> Vec<(f64, String)> {
    let rough = (top / count).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let digits = (-step.log10()).ceil().max(0.0) as usize;
    (0..100)
        .map(|i| f64::from(i) * step)
        .take_while(|v| *v <= top * 1.000_001)
        .map(|v| (v, format!("{v:.digits$}")))
        .collect()
}

/// The spectrogram alone, RGB, 256 pixels high: time to the right, frequency upwards to half the rate, decibels below
/// the loudest point as colour.
///
/// # Errors
/// Where there are no samples, or libtorch fails.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn spectrogram(sound: &Sound, options: &PlotOptions) -> Result<Picture> {
    let mono = sound.mono();
    let (length, width) = (mono.frames(), options.width);
    if length == 0 {
        return Err(Error::data("nothing to draw").why("the sound has no samples"));
    }
    let n_fft = options.n_fft.unwrap_or(if sound.rate <= 12_000 { 512 } else { 1024 });
    let hop = (length / width).max(1);
    let stft = Stft { n_fft, hop, window: n_fft, edge: Edge::Zero };
    let power = stft.power(&mono.to_tensor()?.f_to_kind(Kind::Float)?)?;
    let (_, bins, frames) = power.size3()?;
    let (bins, frames) = (bins as usize, frames as usize);
    let power = tensor_to_f64(&power)?;
    let top = power.iter().copied().fold(1e-20, f64::max);
    let mut data = vec![0u8; width * SPECTRUM * 3];
    for y in 0..SPECTRUM {
        // The loudest bin of those that share a row.
        let from = (SPECTRUM - 1 - y) * bins / SPECTRUM;
        let to = ((SPECTRUM - y) * bins / SPECTRUM).max(from + 1);
        for x in 0..width {
            let frame = (x * length / width / hop).min(frames - 1);
            let loud = (from..to).map(|k| power[k * frames + frame]).fold(0.0, f64::max);
            let share = 1.0 + 10.0 * (loud.max(1e-20) / top).log10() / options.range;
            data[(y * width + x) * 3..][..3].copy_from_slice(&colour(share));
        }
    }
    Picture::new(width, SPECTRUM, 3, data)
}

/// A picture with axes: waveform and spectrogram of `sound` (of several channels their mean).
///
/// # Errors
/// Where there are no samples, or libtorch fails.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn picture(sound: &Sound, options: &PlotOptions) -> Result<Picture> {
    let figure = Figure::of(sound, options)?;
    let (width, height) = size(figure.width);
    let mut data = vec![255u8; width * height * 3];
    let mut dot = |x: usize, y: usize, ink: [u8; 3]| {
        if x < width && y < height {
            data[(y * width + x) * 3..][..3].copy_from_slice(&ink);
        }
    };
    for x in LEFT..LEFT + figure.width {
        dot(x, figure.wave_y(0.0).round() as usize, [200, 205, 215]);
    }
    for (column, [low, high]) in figure.wave.iter().enumerate() {
        for y in figure.wave_y(*high).round() as usize..=figure.wave_y(*low).round() as usize {
            dot(LEFT + column, y, LINE);
        }
    }
    let top = TOP + WAVE + GAP;
    for (i, ink) in figure.spectrogram.data.chunks_exact(3).enumerate() {
        dot(LEFT + i % figure.width, top + i / figure.width, [ink[0], ink[1], ink[2]]);
    }
    let bottom = top + SPECTRUM;
    let mut word = |text: &str, x: usize, y: usize| write_text(text, x, y, &mut |x, y| dot(x, y, INK));
    for (x, text) in figure.times() {
        let x = x.round() as usize;
        word(&text, (x + 1).saturating_sub(text_width(&text) / 2), bottom + 8);
    }
    word("s", LEFT + figure.width / 2, bottom + 20);
    for (y, text) in figure.frequencies() {
        let y = (y.round() as usize).saturating_sub(GLYPH_HEIGHT / 2);
        word(&text, (LEFT - 8).saturating_sub(text_width(&text)), y);
    }
    word("kHz", 4, top);
    for (v, text) in [(figure.peak, format!("{:.2}", figure.peak)), (0.0, "0".to_owned())] {
        let y = (figure.wave_y(v).round() as usize).max(GLYPH_HEIGHT / 2) - GLYPH_HEIGHT / 2;
        word(&text, (LEFT - 8).saturating_sub(text_width(&text)), y);
    }
    for (x, _) in figure.times() {
        (1..5).for_each(|d| dot(x.round() as usize, bottom + d, INK));
    }
    for (y, _) in figure.frequencies() {
        (1..5).for_each(|d| dot(LEFT - d, y.round() as usize, INK));
    }
    Picture::new(width, height, 3, data)
}

fn size(width: usize) -> (usize, usize) {
    (LEFT + width + RIGHT, TOP + WAVE + GAP + SPECTRUM + BOTTOM)
}

/// The same as SVG text.
///
/// # Errors
/// As [`picture`].
pub fn svg(sound: &Sound, title: &str, options: &PlotOptions) -> Result<String> {
    let figure = Figure::of(sound, options)?;
    let (width, height) = size(figure.width);
    let (top, bottom) = (TOP + WAVE + GAP, TOP + WAVE + GAP + SPECTRUM);
    let mut path = String::new();
    for (column, [low, high]) in figure.wave.iter().enumerate() {
        let x = LEFT + column;
        // Writing to a String cannot fail.
        let _ = write!(path, "M{x} {:.1}V{:.1}", figure.wave_y(*high), figure.wave_y(*low) + 0.5);
    }
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <path d=\"{path}\" stroke=\"rgb(20,70,150)\" fill=\"none\"/>\n\
         <image x=\"{LEFT}\" y=\"{top}\" width=\"{}\" height=\"{SPECTRUM}\" href=\"data:image/png;base64,{}\"/>\n",
        figure.width,
        base64(&png::encode(&figure.spectrogram, &[])?),
    );
    for (x, text) in figure.times() {
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {bottom}v4\" stroke=\"black\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 16
        );
    }
    for (y, text) in figure.frequencies() {
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}h-4\" stroke=\"black\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 7,
            y + 4.0
        );
    }
    let _ = write!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">seconds</text>\n<text x=\"4\" y=\"{}\">kHz</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.2}</text>\n</svg>\n",
        LEFT + figure.width / 2,
        bottom + 30,
        top + 10,
        LEFT - 7,
        TOP + 8,
        figure.peak
    );
    Ok(out)
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hz: f32) -> Sound {
        let data = (0..8000).map(|t| 0.5 * (std::f32::consts::TAU * hz * t as f32 / 8000.0).sin()).collect();
        Sound { channels: 1, rate: 8000, data }
    }

    #[test]
    fn a_tone_is_a_line_at_its_frequency() {
        let picture = spectrogram(&sine(1000.0), &PlotOptions::default()).unwrap();
        assert_eq!((picture.width, picture.height), (800, 256));
        let bright =
            |y: usize| picture.data[(y * 800 + 400) * 3..][..3].iter().map(|v| u32::from(*v)).sum::<u32>();
        let line = (0..256).max_by_key(|y| bright(*y)).unwrap();
        // 1000 of 4000 Hz is a quarter from below.
        assert!((189..=193).contains(&line), "{line}");
        assert!(bright(50) < 60);
    }

    #[test]
    fn both_forms_have_axes() {
        let whole = picture(&sine(440.0), &PlotOptions { width: 300, ..PlotOptions::default() }).unwrap();
        assert_eq!((whole.width, whole.height, whole.channels), (376, 436, 3));
        assert!(whole.data.chunks(3).any(|p| p == INK) && whole.data.chunks(3).any(|p| p == LINE));
        let text = svg(&sine(440.0), "a < b", &PlotOptions::default()).unwrap();
        assert!(
            text.contains("<title>a &lt; b</title>")
                && text.contains(">0.8</text>")
                && text.ends_with("</svg>\n")
        );
        let empty = Sound { channels: 1, rate: 8000, data: Vec::new() };
        assert!(picture(&empty, &PlotOptions::default()).is_err());
        let one = Sound { channels: 2, rate: 8000, data: vec![0.0; 2] };
        assert!(picture(&one, &PlotOptions::default()).is_ok());
    }

    #[test]
    fn texts_and_ticks() {
        assert_eq!([base64(b""), base64(b"f"), base64(b"fo"), base64(b"foo")], ["", "Zg==", "Zm8=", "Zm9v"]);
        let texts = |top, count| ticks(top, count).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(texts(1.0, 5.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(8.0, 5.0), ["0", "2", "4", "6", "8"]);
    }
}
