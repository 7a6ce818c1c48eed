//! Where samples go: PNG or WAV files with a manifest, one array file, or stdout.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::args::{Format, SampleArgs};
use crate::error::{Error, Result};
use crate::io::npy::Dtype;
use crate::io::picture::{Picture, quantize};
use crate::io::sound::Sound;
use crate::io::wav::{self, Normalize, WavFormat, Written};
use crate::io::{atomic, bytes, npz, png, safetensors, sheet};
use crate::math::resample::Quality;
use crate::model::sampler::{Drawn, Job};

/// Images on a contact sheet at most.
const SHEET: usize = 1024;

/// Takes finished batches.
pub struct Output {
    place: Place,
    sheet: Option<(PathBuf, Vec<Tensor>)>,
    encoder: Encoder,
    /// What happened to sound on its way into files, all together.
    written: Written,
}

/// How one sample becomes a file.
#[derive(Debug, Clone, Copy)]
enum Encoder {
    Picture,
    Sound { rate: u32, to: u32, format: WavFormat, normalize: Normalize },
}

enum Place {
    Folder { root: PathBuf, subdirs: bool, manifest: File, manifest_path: PathBuf, text: Option<Value> },
    Arrays { path: PathBuf, format: Format, images: Vec<Tensor>, classes: Vec<i64> },
    Stdout { image: Option<Vec<u8>>, images: Vec<Tensor> },
}

/// The format that the flags ask for.
pub fn format_of(args: &SampleArgs, rate: Option<u32>) -> Format {
    args.format.unwrap_or_else(|| match args.out.extension().and_then(|e| e.to_str()) {
        Some("npz") => Format::Npz,
        Some("safetensors") => Format::Safetensors,
        _ if rate.is_some() => Format::Wav,
        _ => Format::Png,
    })
}

impl Output {
    /// Prepares the place before any work is done. Gives the seeds that are finished already.
    ///
    /// # Errors
    /// Where the place cannot be written, is not empty, or holds samples of other settings.
    pub fn open(args: &SampleArgs, rate: Option<u32>, settings: &Value) -> Result<(Self, BTreeSet<u64>)> {
        if let Some(path) = &args.grid_image {
            atomic::check(path)?;
        }
        let sheet = args.grid_image.clone().map(|path| (path, Vec::new()));
        let encoder = rate.map_or(Encoder::Picture, |rate| Encoder::Sound {
            rate,
            to: args.sound.rate.unwrap_or(rate),
            format: args.sound.bit_depth,
            normalize: args.sound.normalize,
        });
        let format = format_of(args, rate);
        let output = |place| Output { place, sheet, encoder, written: Written::default() };
        if args.out == Path::new("-") {
            if !matches!(format, Format::Png | Format::Wav) {
                return Err(Error::usage("only PNG and WAV go to stdout")
                    .at("--out -")
                    .hint("leave --format out, or name a file with --out"));
            }
            return Ok((output(Place::Stdout { image: None, images: Vec::new() }), BTreeSet::new()));
        }
        if !matches!(format, Format::Png | Format::Wav) {
            if args.out.exists() && !args.overwrite {
                return Err(Error::usage("file exists")
                    .at(args.out.display())
                    .hint("--overwrite replaces it"));
            }
            if let Some(folder) = args.out.parent().filter(|f| !f.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
            }
            atomic::check(&args.out)?;
            let place =
                Place::Arrays { path: args.out.clone(), format, images: Vec::new(), classes: Vec::new() };
            return Ok((output(place), BTreeSet::new()));
        }
        let (place, done) = open_folder(args, settings)?;
        Ok((output(place), done))
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn take(&mut self, jobs: &[Job], drawn: &Drawn, millis: f64) -> Result<()> {
        let host = drawn.x.f_to_device(tch::Device::Cpu)?;
        let picture = matches!(self.encoder, Encoder::Picture);
        let bytes = if picture { quantize(&host)? } else { host.shallow_clone() };
        if let Some((_, kept)) = &mut self.sheet {
            kept.push(bytes.shallow_clone());
        }
        let encoder = self.encoder;
        match &mut self.place {
            Place::Arrays { format, images, classes, .. } => {
                // Latents of an autoencoder are no pictures: they stay unquantised.
                let exact = *format == Format::Safetensors || !is_picture(&host.size()[1..]);
                images.push(if exact { host } else { bytes });
                classes.extend(drawn.classes.iter().flatten());
            }
            Place::Stdout { image, images } => {
                if jobs.len() == 1 && image.is_none() {
                    *image = Some(encoder.file(&bytes.f_get(0)?, None)?.0);
                }
                images.push(bytes);
            }
            Place::Folder { root, subdirs, manifest, manifest_path, text } => {
                for (i, job) in jobs.iter().enumerate() {
                    let class = drawn.classes.as_ref().map(|c| c[i]);
                    let file = format!("{:06}.{}", job.seed, encoder.extension());
                    let name =
                        if *subdirs { format!("{:06}/{file}", job.seed - job.seed % 1000) } else { file };
                    let path = root.join(&name);
                    if let Some(folder) = path.parent() {
                        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
                    }
                    let parameters = text.as_ref().map(|settings| {
                        let mut own = settings.clone();
                        own["seed"] = json!(job.seed);
                        own["class"] = json!(class);
                        own.to_string()
                    });
                    let (file, written) = encoder.file(&bytes.f_get(i as i64)?, parameters.as_deref())?;
                    atomic::write_bytes(&path, &file)?;
                    let mut line = json!({
                        "seed": job.seed, "file": name, "class": class, "nfe": drawn.nfe,
                        "sha256": hex(&Sha256::digest(&file)), "ms": (millis * 100.0).round() / 100.0,
                    });
                    let own = line.as_object_mut();
                    if let (Some(own), Some(written)) = (own, written) {
                        own.insert("clipped".into(), json!(written.clipped));
                        own.insert("peak".into(), json!(written.peak));
                        self.written.samples += written.samples;
                        self.written.clipped += written.clipped;
                        self.written.peak = self.written.peak.max(written.peak);
                        if let Some(extra) = drawn.extra.get(i) {
                            own.extend(extra.clone());
                        }
                    }
                    manifest
                        .write_all(format!("{line}\n").as_bytes())
                        .map_err(|e| Error::write(manifest_path, &e))?;
                }
                manifest.flush().map_err(|e| Error::write(manifest_path, &e))?;
            }
        }
        Ok(())
    }

    /// What a person should know about what was written.
    pub fn warning(&self) -> Option<String> {
        self.written.warning()
    }

    /// Writes what could only be written at the end; the bytes for stdout, if that is the place.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(self, settings: &Value) -> Result<Option<Vec<u8>>> {
        if let Some((path, images)) = self.sheet {
            png::write(&path, &contact_sheet(&images)?, &[("gen:parameters", &settings.to_string())])?;
        }
        match self.place {
            Place::Folder { .. } => Ok(None),
            Place::Stdout { image: Some(image), images } if images.len() == 1 => Ok(Some(image)),
            Place::Stdout { images, .. } if matches!(self.encoder, Encoder::Picture) => {
                Ok(Some(png::encode(&contact_sheet(&images)?, &[])?))
            }
            Place::Stdout { .. } => Err(Error::usage("one WAV goes to stdout")
                .at("--out -")
                .hint("name one seed with --seeds, or a folder with --out")),
            Place::Arrays { path, format, images, classes } => {
                let all = Tensor::f_cat(&images, 0)?;
                if format == Format::Npz {
                    write_npz(&path, &all, &classes)?;
                } else {
                    let mut tensors = vec![("samples", all)];
                    if !classes.is_empty() {
                        tensors.push(("classes", Tensor::f_from_slice(&classes)?));
                    }
                    let metadata = BTreeMap::from([("gen:parameters".to_owned(), settings.to_string())]);
                    safetensors::write(&path, tensors, &metadata)?;
                }
                Ok(None)
            }
        }
    }
}

impl Encoder {
    fn extension(self) -> &'static str {
        match self {
            Encoder::Picture => "png",
            Encoder::Sound { .. } => "wav",
        }
    }

    /// The file of a sample with its parameters; of sound also what happened to it on the way.
    fn file(self, sample: &Tensor, parameters: Option<&str>) -> Result<(Vec<u8>, Option<Written>)> {
        match self {
            Encoder::Picture => {
                let chunks: Vec<(&str, &str)> =
                    parameters.iter().map(|text| ("gen:parameters", *text)).collect();
                Ok((png::encode(&Picture::from_tensor(sample)?, &chunks)?, None))
            }
            Encoder::Sound { rate, to, format, normalize } => {
                let mut sound = Sound::from_tensor(sample, rate)?.resampled(to, Quality::default())?;
                normalize.apply(&mut sound);
                let (bytes, written) = wav::encode(&sound, format)?;
                Ok((bytes, Some(written)))
            }
        }
    }
}

/// Whether samples of this shape are pictures: grey, or of three colours.
fn is_picture(shape: &[i64]) -> bool {
    matches!(shape, [1 | 3, _, _])
}

/// Fails where samples of `shape` cannot be written as the flags ask.
///
/// # Errors
/// A usage error for pictures of samples that are none.
pub fn check_shape(args: &SampleArgs, shape: &[i64], rate: Option<u32>) -> Result<()> {
    let place = match (format_of(args, rate), &args.grid_image) {
        (Format::Wav, _) if rate.is_none() => {
            return Err(Error::usage("the model makes no sound").at("--format wav"));
        }
        (Format::Png, _) if rate.is_some() => {
            return Err(Error::usage("the model makes sound")
                .at("--format png")
                .hint("`gen plot` draws the spectrogram of a WAV file"));
        }
        (_, None) if rate.is_some() => return Ok(()),
        _ if is_picture(shape) => return Ok(()),
        (Format::Png, _) => "--format png",
        (_, Some(_)) => "--grid-image",
        _ => return Ok(()),
    };
    let what = match shape {
        [channels, _, _] => format!("samples of {channels} channels are no pictures"),
        _ => format!("samples of shape {shape:?} are no pictures"),
    };
    Err(Error::usage(what)
        .at(place)
        .why("they are latents of an autoencoder, which gen does not decode")
        .hint("--format npz or --format safetensors writes them as they are"))
}

fn contact_sheet(images: &[Tensor]) -> Result<Picture> {
    let all = Tensor::f_cat(images, 0)?;
    let n = all.size()[0].min(SHEET as i64);
    sheet::contact_sheet(&all.f_narrow(0, 0, n)?, &sheet::Layout::default())
}

/// Pictures as u8 [N, H, W, C], other samples as f32 [N, C, H, W].
fn write_npz(path: &Path, images: &Tensor, classes: &[i64]) -> Result<()> {
    let exact = images.f_kind()? != Kind::Uint8;
    let nhwc = if exact { images.shallow_clone() } else { images.f_permute([0, 2, 3, 1])?.f_contiguous()? };
    let shape: Vec<usize> = nhwc.size().iter().map(|n| *n as usize).collect();
    npz::write(path, |out| {
        out.start("arr_0", if exact { Dtype::F32 } else { Dtype::U8 }, &shape)?;
        for i in 0..shape[0] {
            out.data(&bytes::tensor_to_bytes(&nhwc.f_get(i as i64)?)?)?;
        }
        if !classes.is_empty() {
            out.start("arr_1", Dtype::I64, &[classes.len()])?;
            let labels = Tensor::f_from_slice(classes)?.f_to_kind(Kind::Int64)?;
            out.data(&bytes::tensor_to_bytes(&labels)?)?;
        }
        Ok(())
    })
}

/// Opens the output folder: it must be empty, or resumed with equal settings, or overwritten.
fn open_folder(args: &SampleArgs, settings: &Value) -> Result<(Place, BTreeSet<u64>)> {
    let root = &args.out;
    std::fs::create_dir_all(root).map_err(|e| Error::write(root, &e))?;
    let manifest_path = root.join("manifest.jsonl");
    let config_path = root.join("sample.json");
    let occupied = std::fs::read_dir(root).map_err(|e| Error::read(root, &e))?.next().is_some();
    let mut done = BTreeSet::new();
    if occupied && args.resume {
        if let Ok(text) = std::fs::read_to_string(&config_path) {
            let old: Value = serde_json::from_str(&text).map_err(|e| {
                Error::data("damaged file")
                    .at(config_path.display())
                    .why(e.to_string())
                    .hint("--overwrite starts anew")
            })?;
            if let Some((key, was, is)) = first_difference(&old, settings) {
                let what = match key.as_str() {
                    "model_sha256" => "the model is not that".to_owned(),
                    _ => format!("`{key}` differs from that"),
                };
                let short = |value: &Value| value.to_string().chars().take(80).collect::<String>();
                return Err(Error::usage(format!("{what} of the samples already there"))
                    .at(root.display())
                    .why(format!("it was {}, now it is {}", short(&was), short(&is)))
                    .hint("write to another folder, or use --overwrite"));
            }
        }
        done = finished(root, &manifest_path);
    } else if occupied && !args.overwrite {
        return Err(Error::usage("the output folder is not empty")
            .at(root.display())
            .hint("--resume goes on with it, --overwrite writes over it"));
    } else if manifest_path.exists() {
        std::fs::remove_file(&manifest_path).map_err(|e| Error::write(&manifest_path, &e))?;
    }
    atomic::write_bytes(&config_path, format!("{settings:#}\n").as_bytes())?;
    let manifest = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&manifest_path)
        .map_err(|e| Error::write(&manifest_path, &e))?;
    let text = (!args.no_metadata).then(|| settings.clone());
    Ok((Place::Folder { root: root.clone(), subdirs: args.subdirs, manifest, manifest_path, text }, done))
}

/// The first setting of two that differs.
fn first_difference(old: &Value, new: &Value) -> Option<(String, Value, Value)> {
    let (a, b) = (old.as_object()?, new.as_object()?);
    // The model's content says more than its name.
    let first = ["model_sha256", "solver", "nfe"].map(str::to_owned);
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    first.iter().filter(|key| keys.contains(key)).chain(keys.iter().copied()).find_map(|key| {
        let (was, is) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
        if was == is {
            return None;
        }
        let inner = first_difference(was, is).map(|(rest, was, is)| (format!("{key}.{rest}"), was, is));
        inner.or_else(|| Some((key.clone(), was.clone(), is.clone())))
    })
}

/// The seeds whose manifest line is whole and whose file is there.
fn finished(root: &Path, manifest: &Path) -> BTreeSet<u64> {
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let value: Value = serde_json::from_str(line).ok()?;
            root.join(value["file"].as_str()?).exists().then(|| value["seed"].as_u64())?
        })
        .collect()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
