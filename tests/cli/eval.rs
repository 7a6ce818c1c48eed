//! Evaluations that are not defined.

use super::world::Transcript;

const PIXELS: &str = "eval-fid --features pixel8 --images";

#[test]
fn images() {
    let mut t = Transcript::new();
    let real = "--ref images/real.npz";
    for images in [
        "absent",
        "empty",
        "note.txt",
        "images/bad",
        "images/one",
        "images/floats.npz",
        "images/five-channels.npz",
    ] {
        t.fails(3, &format!("{PIXELS} {images} {real}"));
    }
    t.fails(3, &format!("{PIXELS} stats/other-keys.npz {real}"));
    t.fails(3, &format!("{PIXELS} images/good {real} --num 50000"));
    t.fails(3, &format!("{PIXELS} images/good {real} --num 3 --subset error"));
    t.fails(3, &format!("{PIXELS} images/good {real} --metrics pr --pr-k 50"));
    t.fails(2, &format!("{PIXELS} images/good {real} --metrics kid --kid-subset-size 100"));
    t.check("eval-images");
}

#[test]
fn references() {
    let mut t = Transcript::new();
    t.fails(2, &format!("{PIXELS} images/good"));
    for stats in [
        "absent.npz",
        "stats/nan.npz",
        "stats/not-symmetric.npz",
        "stats/negative.npz",
        "stats/other-size.npz",
        "stats/other-keys.npz",
        "stats/inception.npz",
        "note.txt",
    ] {
        t.fails(3, &format!("{PIXELS} images/good --ref {stats}"));
    }
    t.fails(3, &format!("{PIXELS} images/good --ref stats/whole.npz --metrics kid"));
    t.check("eval-references");
}

#[test]
fn features_and_metrics() {
    let mut t = Transcript::new();
    let both = "eval-fid --images images/good --ref images/real.npz";
    t.fails(2, both);
    t.fails(4, &format!("{both} --weights absent.pth"));
    t.fails(4, &format!("{both} --weights note.txt"));
    t.fails(4, &format!("{both} --weights models/whole.safetensors"));
    t.fails(4, &format!("{both} --features torchscript:absent.pt"));
    t.fails(4, &format!("{both} --features torchscript:note.txt"));
    t.fails(4, &format!("{both} --features digits --weights absent"));
    t.fails(4, &format!("{both} --features digits --weights models/whole.safetensors"));
    t.fails(2, &format!("{both} --features pixel8 --metrics is"));
    t.fails(2, &format!("{both} --features pixel8 --metrics sfid"));
    t.fails(2, &format!("{both} --features pixel8 --metrics kid --max 1"));
    t.fails(1, &format!("{both} --features pixel8 --max 0 --num 3 --subset first"));
    t.check("eval-features");
}

#[test]
fn statistics_of_another_kind_are_refused() {
    let mut t = Transcript::new();
    t.works("ref-stats --data images/real.npz --features pixel8 --out stats/own.safetensors --with-features");
    let text = "\"extractor\":\"pixel8\"";
    let path = super::world::world().join("stats/own.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let other = String::from_utf8_lossy(&bytes[..400]).replace("\\\"pixel8\\\"", "\\\"pixel9\\\"");
    assert!(other.contains("pixel9"), "{text} is in the metadata");
    let mut changed = bytes.clone();
    let at = bytes.windows(6).position(|w| w == b"pixel8").unwrap();
    changed[at..at + 6].copy_from_slice(b"pixel9");
    std::fs::write(path.with_file_name("other.safetensors"), changed).unwrap();
    t.fails(2, &format!("{PIXELS} images/good --ref stats/other.safetensors"));
    t.fails(2, "ref-stats --data images/good --features pixel8 --out x.npz --with-features");
    t.fails(2, "ref-stats --data images/good --features pixel8 --out x.npz --sfid");
    t.fails(3, "ref-stats --data absent --features pixel8 --out x.npz");
    t.fails(3, "ref-stats --data images/one --features pixel8 --out x.npz");
    t.fails(2, "ref-stats --data images/good --out x.npz");
    t.check("eval-statistics");
}

#[test]
fn images_from_a_model_are_those_of_sampling() {
    let mut t = Transcript::new();
    let how = "--solver dpm --steps 4";
    t.works(&format!("sample --model runs/plain --seeds 3-12 {how} --out drawn.npz"));
    let value = |t: &mut Transcript, from: &str| -> serde_json::Value {
        let output =
            t.command(&format!("eval-fid {from} --ref data/digits --features pixel8 --json")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let files = value(&mut t, "--images drawn.npz");
    let model = value(&mut t, &format!("--model runs/plain {how} --num 10 --first-seed 3 --repeats 3"));
    assert_eq!(files["fid"], model["fid"]);
    let repeats = &model["repeats"];
    assert_eq!(repeats["fid"][0], model["fid"]);
    assert_eq!(repeats["fid"].as_array().unwrap().len(), 3);
    assert!(repeats["min"].as_f64() <= repeats["mean"].as_f64() && repeats["std"].as_f64() > Some(0.0));
    // The second set begins where the first ends.
    let second = value(&mut t, &format!("--model runs/plain {how} --num 10 --first-seed 13"));
    assert_eq!(second["fid"], repeats["fid"][1]);

    let eval = "eval-fid --ref data/digits --features pixel8";
    t.fails(2, &format!("{eval} --images drawn.npz --model runs/plain"));
    t.fails(2, &format!("{eval} --model runs/plain"));
    t.fails(2, &format!("{eval} --images drawn.npz --repeats 3"));
    t.fails(4, &format!("{eval} --model absent --num 4"));
    t.fails(2, &format!("{eval} --model runs/plain --num 4 --class 1"));
    t.check("eval-model");
}

#[test]
fn statistics_against_statistics() {
    let mut t = Transcript::new();
    for (data, out) in [("images/good", "one"), ("images/real.npz", "two")] {
        t.works(&format!("ref-stats --data {data} --features pixel8 --out stats/{out}.safetensors"));
    }
    let fid = |t: &mut Transcript, images: &str, reference: &str| -> f64 {
        let text = format!("eval-fid --features pixel8 --images {images} --ref {reference} --json");
        let output = t.command(&text).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["fid"].as_f64().unwrap()
    };
    let whole = fid(&mut t, "images/good", "stats/two.safetensors");
    let stats = fid(&mut t, "stats/one.safetensors", "stats/two.safetensors");
    assert!((whole - stats).abs() < 1e-9 * whole.abs().max(1.0), "{whole} {stats}");
    let both = "eval-fid --images stats/one.safetensors --ref stats/two.safetensors";
    t.fails(2, &format!("{both} --metrics fid,kid"));
    t.fails(3, &format!("{both} --metrics sfid"));
    t.fails(3, "eval-fid --features pixel8 --images stats/one.safetensors --ref images/real.npz");
    t.check("eval-statistics-only");
}
