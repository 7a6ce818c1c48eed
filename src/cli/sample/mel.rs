//! `--mel`: the spectrograms that a vocoder makes sound of.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::data::audio::{AudioSpec, Clips, Part};
use crate::error::{Error, Result};
use crate::io::npy::Array;
use crate::io::npz::Npz;
use crate::io::safetensors;
use crate::model::card::ModelCard;
use crate::model::sampler::Mel;
use crate::torch::spectrum::MelSpectrogram;

/// What `path` holds for a vocoder of `card` that is conditioned on `spectrum`: spectrograms of the sounds of a file or
/// folder, or an array `[bands, frames]` (or `[N, bands, frames]`) of a .npy, .npz or .safetensors file. `length` cuts
/// what is longer.
///
/// # Errors
/// Where it cannot be read, or has another number of bands.
pub fn read(
    path: &Path,
    spectrum: &MelSpectrogram,
    card: &ModelCard,
    length: Option<i64>,
    device: Device,
) -> Result<Vec<Mel>> {
    let hop = i64::try_from(spectrum.stft.hop).unwrap_or(1);
    let mut out = match path.extension().and_then(|e| e.to_str()) {
        Some("npy" | "npz" | "safetensors") => {
            let bands = i64::try_from(spectrum.bank.bands).unwrap_or(0);
            arrays(path, bands)?.into_iter().map(|(name, frames)| (name, frames, None)).collect()
        }
        _ => of_sounds(path, spectrum, card)?,
    };
    out.iter_mut()
        .map(|(name, frames, own)| {
            let covered = own.unwrap_or(frames.size()[1] * hop);
            if let Some(wanted) = length.filter(|wanted| *wanted > covered) {
                return Err(Error::usage(format!("{wanted} samples of {covered}"))
                    .at("--seconds")
                    .why(format!("{name} is not that long")));
            }
            let length = length.unwrap_or(covered);
            Ok(Mel { name: std::mem::take(name), frames: frames.f_to_device(device)?, length })
        })
        .collect()
}

/// Name, spectrogram `[bands, frames]` and, where it is known, length in samples.
type Found = (String, Tensor, Option<i64>);

fn of_sounds(path: &Path, spectrum: &MelSpectrogram, card: &ModelCard) -> Result<Vec<Found>> {
    let spec = AudioSpec { rate: card.rate, channels: Some(1), ..AudioSpec::default() };
    let clips = Clips::open(path, Part::All, &spec)?;
    (0..clips.len())
        .map(|i| {
            let clip = clips.get(i)?;
            let wave = Tensor::f_from_slice(&clip.wave[..clip.frames])?.f_unsqueeze(0)?;
            let frames = spectrum.run(&wave).map_err(|e| e.at(clips.name(i)))?.f_squeeze_dim(0)?;
            Ok((clips.name(i), frames, i64::try_from(clip.frames).ok()))
        })
        .collect()
}

fn arrays(path: &Path, bands: i64) -> Result<Vec<(String, Tensor)>> {
    let place = path.display().to_string();
    let tensor = match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => {
            let file = safetensors::File::open(path)?;
            let name = file.entries().keys().next().cloned();
            file.tensor(&name.ok_or_else(|| Error::data("no tensor in the file").at(&place))?)?
        }
        Some("npz") => {
            let mut file = Npz::open(path)?;
            let name = file.names().first().cloned();
            file.array(&name.ok_or_else(|| Error::data("no array in the file").at(&place))?)?.to_tensor()?
        }
        _ => {
            let file = File::open(path).map_err(|e| Error::read(path, &e))?;
            Array::read(&mut BufReader::new(file)).map_err(|e| e.at(&place))?.to_tensor()?
        }
    };
    let size = tensor.size();
    let all = match size[..] {
        [b, _] if b == bands => tensor.f_unsqueeze(0)?,
        [_, b, _] if b == bands => tensor,
        _ => {
            return Err(Error::data("the spectrogram does not fit")
                .at(&place)
                .why(format!("expected [{bands}, frames], the file has {size:?}"))
                .hint("this vocoder was trained on other spectrograms; a WAV file fits in any case"));
        }
    };
    if size.contains(&0) {
        return Err(Error::data("the spectrogram is empty").at(&place));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let list = all.f_to_kind(Kind::Float)?.f_unbind(0)?;
    Ok(list.into_iter().map(|frames| (name.clone(), frames)).collect())
}
