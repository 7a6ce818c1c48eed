//! The folder all transcripts are made in, and the transcripts themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use genlib::io::npy::Dtype;
use genlib::io::npz;
use serde_json::{Value, json};

use crate::common::{TINY, gen_command, root};

/// The current folder of every command: models whole and damaged, images, statistics.
pub fn world() -> &'static Path {
    static WORLD: OnceLock<PathBuf> = OnceLock::new();
    WORLD.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-world");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(place.join("empty")).unwrap();
        fs::create_dir_all(place.join("data")).unwrap();
        std::os::unix::fs::symlink(root().join("data/digits"), place.join("data/digits")).unwrap();
        fs::write(place.join("note.txt"), "hello\n").unwrap();
        models(&place);
        hub(&place);
        images(&place);
        statistics(&place);
        place
    })
}

/// A place in the world whose name no other test uses.
pub fn copy(from: &str, to: &str) {
    walk(&world().join(from), &world().join(to));
}

fn walk(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            walk(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A tiny autoregressive model of sound.
const SOUND: &str = r#"
[model]
type = "sashimi"
d_model = 4
n_layers = 1
[model.layer]
mode = "s4d"
d_state = 4
[objective]
type = "autoregressive"
[data]
path = "synthetic:tones"
[data.audio]
rate = 8000
length = 64
channels = 1
[train]
batch = 2
steps = 1
[optim]
lr = 1e-3
[ema]
type = "none"
"#;

/// A tiny model of text.
const TEXT: &str = r#"
[model]
type = "lm"
vocab = 256
context = 32
width = 8
depth = 1
heads = 2
start = 10
[objective]
type = "autoregressive"
[data]
path = "words.txt"
[data.text]
length = 16
[train]
batch = 2
steps = 1
[optim]
lr = 1e-3
[ema]
type = "none"
"#;

fn models(place: &Path) {
    fs::create_dir_all(place.join("models")).unwrap();
    for name in ["tensor.pt", "class.pt"] {
        fs::copy(root().join("tests/fixtures/modules").join(name), place.join("models").join(name)).unwrap();
    }
    fs::write(place.join("tiny.toml"), TINY.replace("steps = 20\n", "steps = 2\n")).unwrap();
    let vp = TINY.replace("type = \"edm\"\nsigma_min = 0.02\nsigma_max = 20.0", "type = \"vp\"");
    let vp = vp.replace("type = \"edm\"\nsigma_data = 0.75", "type = \"eps\"");
    fs::write(place.join("vp.toml"), vp.replace("steps = 20\n", "steps = 1\n")).unwrap();
    for (recipe, run, extra) in [
        ("tiny.toml", "runs/plain", ""),
        ("tiny.toml", "runs/classes", "data.classes=true"),
        ("vp.toml", "runs/vp", ""),
    ] {
        let mut command = gen_command(&["train", recipe, "--data", "data/digits", "--out", run, "-q"]);
        if !extra.is_empty() {
            command.args(["--set", extra]);
        }
        let output = command.current_dir(place).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fs::write(place.join("sound.toml"), SOUND).unwrap();
    fs::write(place.join("text.toml"), TEXT).unwrap();
    fs::write(place.join("words.txt"), "the quick brown fox jumps over the lazy dog. ".repeat(20)).unwrap();
    for (recipe, run) in [("sound.toml", "runs/sound"), ("text.toml", "runs/text")] {
        let output = gen_command(&["train", recipe, "--out", run, "-q"]).current_dir(place).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fs::create_dir_all(place.join("models/language")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let from = root().join("tests/fixtures/language/gpt2").join(name);
        fs::copy(from, place.join("models/language").join(name)).unwrap();
    }

    let snapshot = place.join("runs/plain/snapshots/00000002.safetensors");
    let bytes = fs::read(&snapshot).unwrap();
    fs::create_dir_all(place.join("models/hub")).unwrap();
    let model = |name: &str| place.join("models").join(name);
    fs::write(model("whole.safetensors"), &bytes).unwrap();
    fs::write(model("cut.safetensors"), &bytes[..bytes.len() - 1000]).unwrap();
    fs::write(model("header-cut.safetensors"), &bytes[..100]).unwrap();
    fs::write(model("nothing.safetensors"), "").unwrap();
    fs::write(model("hub/config.json"), "{}").unwrap();
    let edit = |name: &str, change: &dyn Fn(&mut Value)| {
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let text = header.to_string();
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out.extend(&bytes[8 + length..]);
        fs::write(model(name), out).unwrap();
    };
    let edit_card = |name: &str, change: &dyn Fn(&mut Value)| {
        edit(name, &|header| {
            let mut card: Value =
                serde_json::from_str(header["__metadata__"]["gen"].as_str().unwrap()).unwrap();
            change(&mut card);
            header["__metadata__"]["gen"] = json!(card.to_string());
        });
    };
    let first = "map_layer0.weight";
    edit("no-card.safetensors", &|h| h["__metadata__"] = json!({}));
    edit("extra.safetensors", &|h| {
        let end = h[first]["data_offsets"][0].clone();
        h["other.bias"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [end, end]});
    });
    edit("renamed.safetensors", &|h| {
        let entry = h.as_object_mut().unwrap().remove(first).unwrap();
        h["other.weight"] = entry;
    });
    edit_card("other-shape.safetensors", &|card| card["model"]["model_channels"] = json!(16));
    edit_card("newer.safetensors", &|card| card["format"] = json!(9));
    edit_card("other-network.safetensors", &|card| card["model"]["type"] = json!("hyper-net"));
}

/// Folders of diffusers, whole and damaged.
fn hub(place: &Path) {
    let folder = |name: &str| {
        let to = place.join("hub").join(name);
        walk(&root().join("tests/fixtures/diffusers/ddim"), &to);
        to
    };
    let stem = "unet/diffusion_pytorch_model";
    let (weights, index) = (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"));
    folder("whole");
    fs::remove_file(folder("no-weights").join(&weights)).unwrap();
    let part = folder("no-part");
    fs::remove_file(part.join(&weights)).unwrap();
    fs::write(part.join(&index), r#"{"weight_map": {"conv_in.weight": "part-1.safetensors"}}"#).unwrap();
    let cut = folder("cut").join(&weights);
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 1000]).unwrap();
    fs::write(folder("pointer").join(&weights), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let edit = |name: &str, file: &str, from: &str, to: &str| {
        let path = folder(name).join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    };
    edit("conditional", "model_index.json", "UNet2DModel", "UNet2DConditionModel");
    edit("activation", "unet/config.json", "\"silu\"", "\"tanh\"");
    edit("other-width", "unet/config.json", "\"time_embedding_dim\": 8", "\"time_embedding_dim\": 16");
    edit("scheduler", "scheduler/scheduler_config.json", "DDIMScheduler", "KarrasScheduler");
}

fn images(place: &Path) {
    let folder = |name: &str| {
        let path = place.join("images").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let picture = |path: PathBuf, width: u32, height: u32, seed: u8| {
        image::RgbImage::from_fn(width, height, |x, y| {
            let v = |k: u32| u8::try_from((x * 37 + y * 59 + k * 83 + u32::from(seed) * 101) % 256).unwrap();
            image::Rgb([v(0), v(1), v(2)])
        })
        .save(path)
        .unwrap();
    };
    let good = folder("good");
    for i in 0..6 {
        picture(good.join(format!("{i}.png")), 8, 8, i);
    }
    picture(folder("one").join("a.png"), 8, 8, 0);
    picture(folder("mixed").join("a.png"), 8, 8, 0);
    picture(folder("mixed").join("b.png"), 16, 16, 1);
    picture(folder("wide").join("a.png"), 16, 8, 0);
    picture(folder("bad").join("a.png"), 8, 8, 0);
    picture(folder("bad").join("b.png"), 8, 8, 1);
    fs::write(folder("bad").join("c.png"), "this is text").unwrap();
    let array = |name: &str, dtype: Dtype, shape: &[usize]| {
        let numbers = shape.iter().product::<usize>();
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => (0..numbers).flat_map(|i| (i as f32 / numbers as f32).to_le_bytes()).collect(),
            _ => (0..numbers).map(|i| u8::try_from(i * i % 251).unwrap()).collect(),
        };
        npz::write(&place.join("images").join(name), |out| {
            out.start("arr_0", dtype, shape)?;
            out.data(&bytes)
        })
        .unwrap();
    };
    array("real.npz", Dtype::U8, &[40, 8, 8, 3]);
    array("floats.npz", Dtype::F32, &[4, 8, 8, 3]);
    array("five-channels.npz", Dtype::U8, &[4, 8, 8, 5]);
    array("latents-of-3.npz", Dtype::F32, &[3, 1, 8, 8]);
}

fn statistics(place: &Path) {
    fs::create_dir_all(place.join("stats")).unwrap();
    let write = |name: &str, mean: usize, side: usize, change: &dyn Fn(&mut [f64])| {
        let mut cov = vec![0.0; side * side];
        for i in 0..side {
            cov[i * side + i] = 1.0;
        }
        change(&mut cov);
        let bytes = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        npz::write(&place.join("stats").join(name), |out| {
            out.start("mu", Dtype::F64, &[mean])?;
            out.data(&bytes(&vec![0.0; mean]))?;
            out.start("sigma", Dtype::F64, &[side, side])?;
            out.data(&bytes(&cov))
        })
        .unwrap();
    };
    write("whole.npz", 192, 192, &|_| ());
    write("nan.npz", 192, 192, &|cov| cov[0] = f64::NAN);
    write("not-symmetric.npz", 192, 192, &|cov| cov[1] = 0.5);
    write("negative.npz", 192, 192, &|cov| cov[193] = -1.0);
    write("other-size.npz", 192, 4, &|_| ());
    write("inception.npz", 2048, 2048, &|_| ());
    npz::write(&place.join("stats/other-keys.npz"), |out| {
        out.start("weights", Dtype::U8, &[2])?;
        out.data(&[0, 1])
    })
    .unwrap();
}

/// What is never shown to a person.
const FORBIDDEN: &[&str] = &[
    "panicked",
    "Exception raised",
    "os error",
    "RUST_BACKTRACE",
    "internal error",
    "frame #",
    "TchError",
    "Some(",
    "invalid type",
    "f64:",
    "u64",
];

/// The commands of one topic with what they answered.
#[derive(Default)]
pub struct Transcript {
    text: String,
    env: Vec<(&'static str, String)>,
}

impl Transcript {
    pub fn new() -> Self {
        Self::default()
    }

    /// A variable of the environment of the commands that follow; an empty value removes it.
    pub fn env(&mut self, key: &'static str, value: &str) {
        self.env.retain(|(k, _)| *k != key);
        if !value.is_empty() {
            self.env.push((key, value.to_owned()));
        }
    }

    /// The command of a line: words between spaces, or between single quotes.
    pub fn command(&self, line: &str) -> Command {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
        let mut command = gen_command(&words);
        // What the developer's own environment says must not matter.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            let kept = ["GEN_DEVICE", "GEN_THREADS"].contains(&&*name);
            if (name.starts_with("GEN_") && !kept) || ["COLUMNS", "NO_COLOR"].contains(&&*name) {
                command.env_remove(&key);
            }
        }
        command.current_dir(world()).envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    fn run(&mut self, line: &str) -> Output {
        let output = self.command(line).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for word in FORBIDDEN {
            assert!(!err.contains(word), "gen {line}\nsays `{word}`:\n{err}");
        }
        let env: String = self.env.iter().map(|(k, v)| format!("{k}={v} ")).collect();
        let code = output.status.code().map_or_else(|| "killed".to_owned(), |code| code.to_string());
        self.text += &format!("$ {env}gen {line}\n[exit {code}]\n");
        for (name, text) in [("stdout", out), ("stderr", err)] {
            if !text.is_empty() {
                self.text += &format!("--- {name}\n{}\n", text.trim_end_matches('\n'));
            }
        }
        self.text += "\n";
        output
    }

    /// A command that must fail with `code`, say why in one line and what to do in a second one.
    pub fn fails(&mut self, code: i32, line: &str) {
        let output = self.run(line);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "gen {line}\n{err}");
        let lines: Vec<&str> = err.lines().collect();
        let errors: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "gen {line}\n{err}");
        assert_eq!(lines.len(), errors[0] + 2, "gen {line}: an error is followed by its hint alone\n{err}");
        assert!(lines[errors[0] + 1].starts_with("hint: "), "gen {line}: no hint\n{err}");
        for said in &lines[errors[0]..] {
            assert!(!said.ends_with('.') || said.ends_with(".."), "gen {line}: a full stop\n{err}");
            let words = said.split_once(": ").unwrap().1;
            assert!(words.len() > 8, "gen {line}: says too little\n{err}");
        }
        assert!(code == 1 || output.stdout.is_empty(), "gen {line}: stdout is for results");
    }

    /// A command that must succeed.
    pub fn works(&mut self, line: &str) -> Output {
        let output = self.run(line);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "gen {line}\n{err}");
        output
    }

    /// Compares the transcript with its snapshot.
    pub fn check(self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let place = world().to_str().unwrap().replace('.', "\\.");
        settings.add_filter(&place, "[world]");
        settings.add_filter(root().to_str().unwrap(), "[checkout]");
        settings.add_filter(r"[0-9a-f]{64}", "[sha256]");
        settings.add_filter(r"header says it has \d+ bytes", "header says it has [n] bytes");
        settings.add_filter(r"\d+(\.\d+)? (img/s|MiB|GiB)", "[n] $2");
        settings.add_filter(r"in \d+ s:", "in [n] s:");
        settings.add_filter(r"gen \d+\.\d+\.\d+( \([0-9a-f]{12}\))?", "gen [version]");
        settings.add_filter(r"-?\d\.\d+ \+- \d+\.\d+", "[mean] +- [std]");
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }
}
