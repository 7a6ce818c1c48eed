//! Models that draw one value after another: sound and text.

use super::world::Transcript;

#[test]
fn sound() {
    let mut t = Transcript::new();
    t.fails(4, "eval-nll --model runs/plain --data synthetic:tones");
    t.fails(3, "eval-nll --model runs/sound --data absent");
    t.fails(2, "eval-nll --model runs/sound --data synthetic:noise");
    t.fails(2, "eval-nll --model runs/sound --data synthetic:tones --num 1 --skip 64");
    t.fails(2, "eval-nll --model runs/sound --data synthetic:tones --num 1 --length 30");
    let start = "sample --model runs/sound --out sounds";
    t.fails(2, &format!("{start} --temperature -1"));
    t.fails(2, &format!("{start} --top-p 1.3"));
    t.fails(2, &format!("{start} --reject 0.4,0.05 --seeds 0-3"));
    t.fails(2, &format!("{start} --reject 0.9,0.2"));
    t.fails(2, &format!("{start} --format png"));
    t.fails(2, &format!("{start} --prompt hello"));
    t.fails(3, &format!("{start} --prefix absent.wav"));
    t.fails(2, &format!("{start} --seconds 0"));
    t.fails(2, "sample --model runs/plain --out sounds --temperature 0.5");
    t.fails(2, "sample --model runs/plain --out sounds --seconds 2");
    t.fails(2, "sample --model runs/plain --out sounds --format wav");
    t.check("sound");
}

#[test]
fn text() {
    let mut t = Transcript::new();
    let start = "sample --model runs/text --out - --max-new-tokens 4 --prompt 'To be'";
    // What an untrained model says depends on rounding: it is no transcript.
    let said = t.command(&format!("{start} --greedy --json")).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(value["texts"][0]["ids"].as_array().unwrap().len(), 4);
    assert_eq!((value["sampler"].as_str(), value["tokens"].as_i64()), (Some("greedy"), Some(4)));
    for wrong in [
        "--typical-p 2",
        "--top-k -1",
        "--min-p 3",
        "--mirostat 3",
        "--mirostat 2 --top-k 5",
        "--dry-multiplier 1 --dry-base 0.5",
        "--sampler-order top-k,best",
        "--chat",
        "--repetition-penalty 0",
    ] {
        t.fails(2, &format!("{start} {wrong}"));
    }
    t.fails(2, "sample --model runs/text --out note.txt --prompt a");
    t.fails(3, "sample --model runs/text --out - --prompt-file absent.txt");
    t.check("text");
}
