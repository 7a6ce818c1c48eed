//! Going on with a folder that holds something else, or something damaged.

use std::fs;

use super::world::{Transcript, copy, world};

#[test]
fn samples() {
    let mut t = Transcript::new();
    let sample = "sample --model runs/plain --out out/resumed --seeds 0-3 --steps 3";
    t.works(&format!("{sample} -q"));
    t.fails(2, sample);
    t.fails(2, &format!("{sample} --resume --solver euler"));
    t.fails(2, "sample --model runs/vp --out out/resumed --seeds 0-3 --steps 3 --resume");
    t.works(&format!("{sample} --resume -q"));
    fs::write(world().join("out/resumed/sample.json"), "{").unwrap();
    t.fails(3, &format!("{sample} --resume"));
    t.works("sample --model runs/plain --out out/one.npz --seeds 0-3 -q");
    t.fails(2, "sample --model runs/plain --out out/one.npz --seeds 0-3");
    t.check("resume-samples");
}

#[test]
fn runs() {
    let mut t = Transcript::new();
    let train = "train tiny.toml --data data/digits";
    copy("runs/plain", "runs/changed");
    t.fails(2, &format!("{train} --out runs/changed --set optim.lr=2e-3"));
    t.fails(2, &format!("{train} --out runs/changed --steps 4"));
    t.fails(2, &format!("{train} --out runs/changed --batch 32"));
    t.fails(2, &format!("{train} --out runs/changed --set data.classes=true"));
    t.fails(2, &format!("{train} --out runs/changed --resume never"));
    t.fails(4, &format!("{train} --out runs/changed --resume absent"));
    t.fails(4, &format!("{train} --out runs/changed --resume empty"));

    let damaged = |name: &str, file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let run = format!("runs/{name}");
        copy("runs/plain", &run);
        let path = world().join(&run).join("checkpoints/00000002").join(file);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
        run
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 100].to_vec();
    let run = damaged("cut-optimizer", "optimizer.safetensors", &cut);
    t.fails(4, &format!("{train} --out {run}"));
    let run = damaged("cut-model", "model.safetensors", &cut);
    t.fails(4, &format!("{train} --out {run}"));
    let run = damaged("cut-state", "state.json", &|_| b"{".to_vec());
    t.fails(4, &format!("{train} --out {run}"));
    let run = damaged("other-state", "state.json", &|bytes| {
        String::from_utf8(bytes).unwrap().replace("\"format\": 1", "\"format\": 9").into_bytes()
    });
    t.fails(4, &format!("{train} --out {run}"));
    copy("runs/plain", "runs/no-ema");
    fs::remove_file(world().join("runs/no-ema/checkpoints/00000002/ema-main.safetensors")).unwrap();
    t.fails(4, &format!("{train} --out runs/no-ema"));
    t.check("resume-runs");
}
