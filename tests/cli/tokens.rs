//! Models that draw one value after another: sound and text.

use std::fs;

use serde_json::Value;

use super::world::{Transcript, world};

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
    // Other ways: beams, contrastive search, drafts (of the model itself: all that it proposes stays).
    let read = |flags: &str| -> serde_json::Value {
        let said = t.command(&format!("{start} {flags} --json")).output().unwrap();
        assert!(said.status.success(), "{flags}: {}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).unwrap()
    };
    let greedy = &value["texts"][0]["ids"];
    let beams = read("--num-beams 3 --num-return 2 --length-penalty -0.5 --early-stopping never");
    assert_eq!(beams["texts"].as_array().unwrap().len(), 2);
    assert!(beams["texts"][0]["score"].as_f64() >= beams["texts"][1]["score"].as_f64());
    assert_eq!(beams["texts"][1]["beam"], 1);
    assert_eq!(beams["sampler"], "beam search of 3, length penalty -0.5, early stopping never");
    assert_eq!(read("--penalty-alpha 0 --top-k 4")["texts"][0]["ids"], *greedy);
    assert_eq!(read("--penalty-alpha 0.6 --top-k 4")["sampler"], "contrastive search, alpha 0.6, top-k 4");
    let drafted = read("--greedy --draft-model runs/text --draft-tokens 3");
    assert_eq!((&drafted["texts"][0]["ids"], &drafted["accepted_share"]), (greedy, &1.0.into()));
    assert_eq!((&drafted["model_passes"], &drafted["texts"][0]["drafted"]), (&1.into(), &3.into()));
    let drawn = read("--draft-model runs/text --temperature 0.8 --seeds 0-2");
    assert_eq!(drawn["texts"].as_array().unwrap().len(), 3);
    let shown = read("--explain --temperature 2 --typical-p 0.5");
    let stages = shown["prompts"][0]["stages"].as_array().unwrap();
    assert_eq!(
        stages.iter().map(|s| s["stage"].as_str().unwrap()).collect::<Vec<_>>(),
        ["model", "Temperature(2.0)", "Typical(0.5)"]
    );
    assert_eq!((&stages[0]["kept"], &stages[1]["kept"]), (&256.into(), &256.into()));
    let (kept, mass) = (stages[2]["kept"].as_i64().unwrap(), stages[2]["mass"].as_f64().unwrap());
    assert!((1..256).contains(&kept) && (0.5..1.0).contains(&mass), "{shown}");
    // A prompt of 300 characters is too long for the folder; its end is not.
    let long =
        format!("sample --model models/language --out - --max-new-tokens 4 --prompt '{}'", "&% ".repeat(100));
    t.fails(2, &long);
    let cut = t.command(&format!("{long} --truncate left --json")).output().unwrap();
    let cut: serde_json::Value = serde_json::from_slice(&cut.stdout).unwrap();
    assert!(cut["tokens"].as_i64().unwrap() <= 4);
    for wrong in [
        "--num-beams 0",
        "--num-beams 4 --temperature 0.5",
        "--num-beams 4 --typical-p 0.2",
        "--num-beams 4 --num-return 5",
        "--num-beams 4 --early-stopping soon",
        "--num-beams 4 --penalty-alpha 0.6 --top-k 4",
        "--num-beams 4 --draft-model runs/text",
        "--length-penalty 2",
        "--num-return 2",
        "--early-stopping true",
        "--penalty-alpha 0.6",
        "--penalty-alpha 1.5 --top-k 4",
        "--penalty-alpha 0.6 --top-k 4 --top-p 0.9",
        "--penalty-alpha 0.6 --top-k 4 --draft-model runs/text",
        "--draft-tokens 4",
        "--draft-model runs/text --draft-tokens 0",
        "--draft-model runs/text --mirostat 2",
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
    t.fails(4, &format!("{start} --draft-model absent"));
    t.fails(4, &format!("{start} --draft-model models/language"));
    t.fails(2, &format!("{start} --draft-model runs/plain"));
    t.fails(2, "sample --model runs/plain --out out --num-beams 4");
    t.fails(2, "sample --model runs/text --out note.txt --prompt a");
    // How fast a folder of Hugging Face is.
    let timed =
        t.command("bench models/language --prompt-tokens 8 --new-tokens 4 --batch 1,2 -r 1 --json").output();
    let timed: serde_json::Value = serde_json::from_slice(&timed.unwrap().stdout).unwrap();
    for (row, batch) in timed["rows"].as_array().unwrap().iter().zip([1, 2]) {
        assert_eq!((&row["batch"], &row["prompt"], &row["new"]), (&batch.into(), &8.into(), &4.into()));
        for figure in ["prefill_tokens_per_s", "decode_tokens_per_s", "share_of_copy", "ready_s", "peak_mib"]
        {
            assert!(row[figure].as_f64().unwrap() > 0.0, "{figure}");
        }
    }
    t.fails(2, "bench models/language --shape 1,8,8");
    t.fails(2, "bench models/language --prompt-tokens 100");
    t.fails(2, "bench tiny.toml --shape 1,8,8 --new-tokens 4");
    t.fails(3, "sample --model runs/text --out - --prompt-file absent.txt");
    t.check("text");
}

/// What a command with `--json` says.
fn json(line: &str) -> Value {
    let output = Transcript::new().command(&format!("{line} --json -q")).output().unwrap();
    assert!(output.status.success(), "gen {line}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn near(a: &Value, b: f64) {
    assert!((number(a) - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
}

#[test]
fn texts_are_measured() {
    // The text is longer than the context of 32 tokens, and all of it but its first byte is scored.
    let found = json("eval-text --model runs/text --ppl words.txt --stride 8");
    let ppl = &found["ppl"];
    assert_eq!(
        (ppl["tokens"].as_i64(), ppl["bytes"].as_i64(), ppl["context"].as_i64()),
        (Some(899), Some(899), Some(32))
    );
    assert_eq!(ppl["kind"], "exact");
    near(&ppl["perplexity"], number(&ppl["nats_per_token"]).exp());
    near(&ppl["bits_per_byte"], number(&ppl["nats_per_token"]) / 2f64.ln());
    let part = json("eval-text --model runs/text --ppl words.txt --split test");
    assert_eq!((part["ppl"]["bytes"].as_i64(), part["ppl"]["stride"].as_i64()), (Some(89), Some(16)));

    // What the shipped model draws it scores as it was drawn, where the prompt is given. (Bytes that are no UTF-8, as an
    // untrained model draws them, would be read back as others.)
    let shipped = crate::common::root().join("models/shakespeare").display().to_string();
    let draw =
        "--prompt 'ROMEO:' --prompt 'What, ' --seeds 0-3 --max-new-tokens 20 --out drawn.jsonl --overwrite";
    json(&format!("sample --model {shipped} {draw}"));
    let score = format!("--tokenizer bytes --gen-ppl {shipped} --mauve {shipped} --clusters 2");
    let found = json(&format!("eval-text --texts drawn.jsonl --ref drawn.jsonl --given-prompt {score}"));
    let texts = &found["texts"];
    assert_eq!((texts["tokens"].as_i64(), texts["tokenizer"].as_str()), (Some(160), Some("bytes")));
    for (scored, drawn) in [("nats_per_token", "mean_surprisal"), ("mean_entropy", "mean_entropy")] {
        let (scored, drawn) = (number(&texts["scored"][scored]), number(&texts["drawn"][drawn]));
        assert!((scored - drawn).abs() < 1e-3 && drawn < 2.0, "{scored} {drawn}");
    }
    assert_eq!((number(&found["mauve"]["mauve"]), found["ref"]["texts"].as_i64()), (1.0, Some(8)));

    let mut t = Transcript::new();
    fs::write(world().join("lines.txt"), "to be or not to be\na rose is a rose is a rose\n").unwrap();
    fs::write(world().join("blank.jsonl"), "{\"prompt\": \"a\"}\n").unwrap();
    t.works("eval-text --texts lines.txt --ref words.txt");
    t.fails(2, "eval-text");
    t.fails(2, "eval-text --ppl words.txt");
    t.fails(2, "eval-text --model runs/text --ppl words.txt --stride 32");
    t.fails(2, "eval-text --model runs/text --ppl words.txt --context 1");
    t.fails(2, "eval-text --model runs/text --ppl words.txt --context 64");
    t.fails(2, "eval-text --texts lines.txt --max 3");
    t.fails(2, "eval-text --texts lines.txt --mauve runs/text");
    t.fails(3, "eval-text --model runs/text --ppl absent.txt");
    t.fails(4, "eval-text --model runs/plain --ppl words.txt");
    t.fails(4, "eval-text --model absent --ppl words.txt");
    t.fails(3, "eval-text --texts blank.jsonl");
    t.fails(3, "eval-text --texts lines.txt --gen-ppl runs/text --given-prompt");
    t.fails(4, "eval-text --texts lines.txt --tokenizer absent.json");
    t.fails(3, "eval-text --texts lines.txt --ref words.txt --mauve runs/text");
    t.check("eval-text");
    let limit = Transcript::new().command("eval-text --model runs/text --ppl words.txt --max 1.5").output();
    assert_eq!(limit.unwrap().status.code(), Some(1));
}

#[test]
fn a_run_keeps_its_tokenizer() {
    let recipe = fs::read_to_string(world().join("text.toml")).unwrap();
    let recipe =
        recipe.replace("vocab = 256\n", "").replace("steps = 1\n", "steps = 3\nvalidate_every = 3\n");
    let recipe = recipe.replace("length = 16\n", "length = 8\ntokenizer = \"pairs.json\"\n");
    fs::write(world().join("pairs.toml"), &recipe).unwrap();
    let fixture = crate::common::root().join("tests/fixtures/language/tokenizer.json");
    fs::copy(&fixture, world().join("pairs.json")).unwrap();
    assert_eq!(json("train pairs.toml --out runs/pairs")["step"].as_i64(), Some(3));
    // The run needs the tokenizer no more, and a snapshot is whole alone.
    fs::rename(world().join("pairs.json"), world().join("gone.json")).unwrap();
    let snapshot = world().join("runs/pairs/snapshots/00000003.safetensors");
    fs::copy(&snapshot, world().join("alone.safetensors")).unwrap();
    let said = json("sample --model runs/pairs --out - --prompt 'the noise was' --max-new-tokens 3 --greedy");
    assert_eq!(said["texts"][0]["ids"].as_array().unwrap().len(), 3);
    let same =
        json("sample --model alone.safetensors --out - --prompt 'the noise was' --max-new-tokens 3 --greedy");
    assert_eq!(said["texts"], same["texts"]);
    let ppl = &json("eval-text --model alone.safetensors --ppl words.txt")["ppl"];
    let (tokens, bytes) = (number(&ppl["tokens"]), number(&ppl["bytes"]));
    assert!(tokens > 100.0 && tokens < bytes, "{ppl}");
    near(&ppl["bits_per_byte"], number(&ppl["nats_per_token"]) * tokens / 2f64.ln() / bytes);
    // An untrained model knows as much as a fair draw of 320 tokens.
    assert!((number(&ppl["nats_per_token"]) - 320f64.ln()).abs() < 0.3, "{ppl}");
    let nll = json("eval-nll --model runs/pairs --data words.txt --split all");
    assert!(number(&nll["bits_per_byte"]) < number(&nll["bits_per_sample"]));
    let log = fs::read_to_string(world().join("runs/pairs/log.jsonl")).unwrap();
    assert!(log.contains("val_bits_per_byte"), "{log}");

    let mut t = Transcript::new();
    t.fails(4, "train pairs.toml --out runs/pairs-2");
    fs::rename(world().join("gone.json"), world().join("pairs.json")).unwrap();
    t.fails(2, "train pairs.toml --out runs/pairs-2 --set model.vocab=300");
    t.fails(2, "train text.toml --out runs/pairs-2 --set model.vocab=100");
    let other = fs::read_to_string(&fixture).unwrap().replace("\"<pad>\"", "\"<fill>\"");
    fs::write(world().join("pairs.json"), other).unwrap();
    t.fails(2, "train pairs.toml --out runs/pairs --steps 4");
    fs::write(world().join("pairs.json"), "{}").unwrap();
    t.fails(4, "train pairs.toml --out runs/pairs-2");
    t.check("tokenizer");
}
