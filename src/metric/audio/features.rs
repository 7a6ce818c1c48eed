//! Waveforms to embeddings and class probabilities.

use std::path::Path;

use tch::{CModule, Device, IValue, Kind, Tensor};

use crate::data::audio::{Clips, stack};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::metric::inception_weights::sha256_of;
use crate::net::mel_cnn::MelCnn;
use crate::net::resnext::ResNext;
use crate::net::store::Store;

/// Embeddings and logits of a batch of sounds.
#[derive(Debug)]
pub struct Embedded {
    /// `[B, F, d]`, one or more frames a sound.
    pub frames: Tensor,
    /// Class logits `[B, K]`.
    pub logits: Option<Tensor>,
}

/// From waveforms `[B, T]` f32 to embeddings.
type Run = dyn Fn(&Tensor) -> Result<Embedded>;

/// Turns sounds into embeddings.
pub struct SoundExtractor {
    /// Name, as it goes into reports.
    pub name: String,
    /// Samples a second that it takes; nothing where the user must know.
    pub rate: Option<u32>,
    /// Samples it takes; shorter sounds are padded with silence, longer ones cut. Nothing where any number will do.
    pub length: Option<usize>,
    /// SHA-256 of the weight file.
    pub weights_sha256: Option<String>,
    device: Device,
    run: Box<Run>,
}

impl std::fmt::Debug for SoundExtractor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoundExtractor").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SoundExtractor {
    /// A TorchScript module that takes `[B, T]` f32 in [-1, 1] and gives embeddings `[B, d]` or `[B, F, d]`, or a pair
    /// of embeddings and class logits `[B, K]`.
    ///
    /// # Errors
    /// A model error where it is missing or no TorchScript.
    pub fn torchscript(path: &Path, device: Device) -> Result<Self> {
        let sha256 = sha256_of(path).map_err(|e| e.kinded(ErrorKind::Model))?;
        let module = CModule::load_on_device(path, device).map_err(|e| {
            Error::model("not a TorchScript module")
                .at(path.display())
                .why(Error::from(e).to_string())
                .hint("such a module is made by torch.jit.save")
        })?;
        let place = path.display().to_string();
        let run = move |x: &Tensor| -> Result<Embedded> {
            let bad = |why: String| Error::model("module").at(&place).why(why);
            let hint = "it takes B x T and returns B x d or B x F x d, or a pair of that and logits B x K";
            let out = module
                .forward_is(&[IValue::Tensor(x.shallow_clone())])
                .map_err(|e| bad(Error::from(e).to_string()).hint(hint))?;
            let (frames, logits) = match out {
                IValue::Tensor(frames) => (frames, None),
                IValue::Tuple(parts) => match <[IValue; 2]>::try_from(parts) {
                    Ok([IValue::Tensor(frames), IValue::Tensor(logits)]) => (frames, Some(logits)),
                    _ => return Err(bad("it returns a tuple of another kind".into()).hint(hint)),
                },
                _ => return Err(bad("it returns no tensor".into()).hint(hint)),
            };
            let n = x.size()[0];
            let frames = match frames.size()[..] {
                [b, _] if b == n => frames.f_unsqueeze(1)?,
                [b, _, _] if b == n => frames,
                ref size => return Err(bad(format!("it returns shape {size:?} for {n} sounds")).hint(hint)),
            };
            if logits.as_ref().is_some_and(|l| l.size().len() != 2 || l.size()[0] != n) {
                return Err(bad(format!("its logits for {n} sounds have another shape")).hint(hint));
            }
            Ok(Embedded { frames, logits })
        };
        let name = format!("torchscript:{}", path.file_name().unwrap_or_default().to_string_lossy());
        Ok(SoundExtractor {
            name,
            rate: None,
            length: None,
            weights_sha256: Some(sha256),
            device,
            run: Box::new(run),
        })
    }

    /// The classifier of SC09 with the weights at `path`, a state dict of the published network (`.pth` or
    /// `.safetensors`).
    ///
    /// # Errors
    /// A model error where it is missing or holds other tensors.
    pub fn resnext(path: &Path, device: Device) -> Result<Self> {
        let sha256 = sha256_of(path).map_err(|e| e.kinded(ErrorKind::Model))?;
        let (store, net) = ResNext::open(path, device)?;
        let run = move |x: &Tensor| -> Result<Embedded> {
            // The store keeps the weights alive.
            let _ = &store;
            let (features, logits) = net.of_waves(x)?;
            Ok(Embedded { frames: features.f_unsqueeze(1)?, logits: Some(logits) })
        };
        Ok(SoundExtractor {
            name: "resnext".into(),
            rate: Some(16_000),
            length: Some(16_000),
            weights_sha256: Some(sha256),
            device,
            run: Box::new(run),
        })
    }

    /// A classifier of gen's own.
    #[must_use]
    pub fn mel_cnn(name: &str, net: MelCnn, store: Store, length: usize, sha256: String) -> Self {
        let (device, rate) = (store.device(), net.rate());
        let run = move |x: &Tensor| -> Result<Embedded> {
            let _ = &store;
            let (features, logits) = net.features(&x.f_unsqueeze(1)?)?;
            Ok(Embedded { frames: features.f_unsqueeze(1)?, logits: Some(logits) })
        };
        SoundExtractor {
            name: name.to_owned(),
            rate: Some(rate),
            length: Some(length),
            weights_sha256: Some(sha256),
            device,
            run: Box::new(run),
        }
    }

    /// Embeddings of waveforms `[B, T]`.
    ///
    /// # Errors
    /// Where they have a wrong length, the module fails, or values are not finite.
    pub fn embed(&self, waves: &Tensor) -> Result<Embedded> {
        let _no_grad = tch::no_grad_guard();
        let out = (self.run)(&waves.f_to_device(self.device)?.f_to_kind(Kind::Float)?)?;
        if out.frames.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::run("embeddings are not finite")
                .at(&self.name)
                .hint("the sounds or the weights are damaged"));
        }
        Ok(out)
    }
}

/// What a pass over a set of sounds gave.
#[derive(Debug)]
pub struct Collected {
    /// Frames `[n, d]` of each sound, f32 on the CPU.
    pub files: Vec<Tensor>,
    /// Class logits `[N, K]`.
    pub logits: Option<Tensor>,
}

impl Collected {
    /// Frames of all sounds, `[n, d]`.
    ///
    /// # Errors
    /// Where there are no sounds.
    pub fn frames(&self) -> Result<Tensor> {
        Ok(Tensor::f_cat(&self.files, 0)?)
    }

    /// One row a sound: the mean of its frames.
    ///
    /// # Errors
    /// Where there are no sounds.
    pub fn means(&self) -> Result<Tensor> {
        let rows = self
            .files
            .iter()
            .map(|f| Ok(f.f_mean_dim(0i64, true, Kind::Float)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&rows, 0)?)
    }
}

/// Embeds the clips `indices`. Where the extractor takes any number of samples, clips go in without their padding, each
/// length for itself.
///
/// # Errors
/// Where there are fewer than two, one cannot be read (it is named), or the extractor fails.
pub fn collect(
    clips: &Clips,
    indices: &[usize],
    extractor: &SoundExtractor,
    batch: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Collected> {
    if indices.len() < 2 {
        return Err(Error::data(format!("{} sounds", indices.len()))
            .why("at least 2 are needed")
            .hint("a distance of distributions takes hundreds of sounds to mean something"));
    }
    let (mut files, mut logits, mut done) = (Vec::new(), Vec::new(), 0);
    for part in indices.chunks(batch.max(1)) {
        use rayon::prelude::*;
        let read = part.par_iter().map(|&i| clips.get(i)).collect::<Result<Vec<_>>>()?;
        let any = extractor.length.is_none();
        for group in read.chunk_by(|a, b| !any || a.frames == b.frames) {
            let (wave, _, _) = stack(group, 1)?;
            let wave = wave.f_squeeze_dim(1)?;
            let length =
                i64::try_from(if any { group[0].frames } else { clips.shape()[1].unsigned_abs() as usize });
            let wave = wave.f_narrow(1, 0, length.unwrap_or(0))?;
            let out = extractor.embed(&wave)?;
            let frames = out.frames.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
            files.extend(frames.f_unbind(0)?);
            logits.extend(out.logits.map(|l| l.f_to_device(Device::Cpu)).transpose()?);
        }
        done += part.len();
        progress(done);
    }
    let logits = if logits.is_empty() { None } else { Some(Tensor::f_cat(&logits, 0)?) };
    Ok(Collected { files, logits })
}
