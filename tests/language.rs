//! Language models against transformers (`scripts/golden/language.py`): every family, kept keys and values, padding,
//! precisions, tokenizer and chat templates, and folders that are wrong.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use genlib::io::hub::Weights;
use genlib::io::safetensors;
use genlib::io::tokenizer::Tokenizer;
use genlib::metric::text::{Passage, Plan, likelihood, score};
use genlib::model::language::{self, ChatTemplate, Language, LanguageOptions, Message, Precision};
use genlib::net::causal::{Cache, Causal, Steps};
use genlib::net::lm::timing;
use genlib::net::lm::{Lm, LmConfig};
use genlib::net::store::Store;
use genlib::net::{Cond, Mode};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const VOCAB: i64 = 96;
const LENGTHS: [i64; 2] = [11, 5];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language").join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn golden() -> BTreeMap<String, Tensor> {
    safetensors::File::open(&fixture("golden.safetensors")).unwrap().tensors().unwrap()
}

/// A copy of a family's folder with changes of its `config.json`.
fn changed(family: &str, changes: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(family)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let place = dir.path().join("config.json");
    let mut config = read(&place);
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(&place, config.to_string()).unwrap();
    dir
}

fn open(path: &Path, precision: Precision) -> Language {
    language::open(path, &LanguageOptions { precision, weights: None }, Device::Cpu).unwrap()
}

fn cases() -> Vec<(String, Language)> {
    let list = read(&fixture("cases.json"));
    list.as_object()
        .unwrap()
        .iter()
        .map(|(name, case)| {
            let dir = changed(case[0].as_str().unwrap(), &case[1]);
            (name.clone(), open(dir.path(), Precision::F32))
        })
        .collect()
}

fn tokens() -> Tensor {
    let list: Vec<i64> = (0..48).map(|i| (i * 37 + 11) % (VOCAB - 3) + 3).collect();
    Tensor::from_slice(&list).view([2, 24])
}

fn logits(net: &Lm, tokens: &Tensor) -> Tensor {
    let _guard = tch::no_grad_guard();
    net.logits(tokens, &Cond::default(), Mode::Eval).unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn logits_are_those_of_transformers_for_every_family() {
    let golden = golden();
    for (name, model) in cases() {
        let own = logits(&model.net, &tokens());
        let gap = gap(&own, &golden[&format!("{name}/logits")]);
        assert!(gap < 2e-5, "{name}: {gap}");
    }
}

#[test]
fn options_can_be_told_apart() {
    // Cases of one family differ by far more than the tolerance above.
    let golden = golden();
    let list = read(&fixture("cases.json"));
    for (name, case) in list.as_object().unwrap() {
        let family = case[0].as_str().unwrap();
        if name != family {
            let gap = gap(&golden[&format!("{name}/logits")], &golden[&format!("{family}/logits")]);
            assert!(gap > 1e-3, "{name}: {gap}");
        }
    }
}

#[test]
fn steps_and_prompts_give_what_all_at_once_gives() {
    for (name, model) in cases() {
        if name == "llama-dynamic" {
            continue; // its frequencies change as the text grows
        }
        let (net, tokens) = (&model.net, tokens());
        let want = logits(net, &tokens);
        let mut state = net.start(2).unwrap();
        let first = state.prefill(&tokens.narrow(1, 0, 9)).unwrap();
        assert!(gap(&first, &want.narrow(1, 0, 9)) < 2e-5, "{name}");
        for t in 9..14 {
            let got = state.step(&tokens.select(1, t)).unwrap();
            assert!(gap(&got, &want.select(1, t)) < 2e-5, "{name} step {t}");
        }
        // A second stretch sees what is kept.
        let rest = state.prefill(&tokens.narrow(1, 14, 10)).unwrap();
        assert!(gap(&rest, &want.narrow(1, 14, 10)) < 2e-5, "{name}");
        let hidden = net.hidden(&tokens, Mode::Eval).unwrap();
        assert!(gap(&state.hidden().unwrap(), &hidden.narrow(1, 14, 10)) < 2e-5, "{name}");
        // And back.
        state.truncate(10).unwrap();
        let again = state.step(&tokens.select(1, 10)).unwrap();
        assert!(gap(&again, &want.select(1, 10)) < 2e-5, "{name}");
    }
}

#[test]
fn dynamic_positions_follow_the_length_of_the_text() {
    let list = read(&fixture("cases.json"));
    let dir = changed("llama", &list["llama-dynamic"][1]);
    let model = open(dir.path(), Precision::F32);
    assert_eq!(model.net.config().limit(), 32);
    // Within the context nothing is scaled: steps are the whole. Past it the last step has the frequencies of the
    // whole, earlier keys those of their time.
    let (tokens, mut state) = (tokens(), model.net.start(2).unwrap());
    let want = logits(&model.net, &tokens.narrow(1, 0, 16));
    for t in 0..16 {
        let got = state.step(&tokens.select(1, t)).unwrap();
        assert!(gap(&got, &want.select(1, t)) < 2e-5);
    }
    let longer = logits(&model.net, &tokens.narrow(1, 0, 17));
    assert!(gap(&longer.narrow(1, 0, 16), &want) > 1e-3);
}

/// The prompts, filled up on the left.
fn padded() -> (Tensor, Vec<i64>) {
    let (rows, longest) = (tokens(), LENGTHS[0]);
    let row = |i: i64| {
        let n = LENGTHS[usize::try_from(i).unwrap()];
        Tensor::cat(
            &[Tensor::zeros([longest - n], (Kind::Int64, Device::Cpu)), rows.get(i).narrow(0, 0, n)],
            0,
        )
    };
    (Tensor::stack(&[row(0), row(1)], 0), LENGTHS.iter().map(|n| longest - n).collect())
}

fn greedy(net: &Lm, prompt: &Tensor, pads: &[i64], new: i64) -> (Tensor, Vec<Tensor>) {
    let mut state = net.start(prompt.size()[0]).unwrap();
    let mut logits = vec![state.prefill_padded(prompt, pads).unwrap()];
    let mut out = vec![logits[0].argmax(-1, false)];
    for _ in 1..new {
        let next = state.step(out.last().unwrap()).unwrap();
        out.push(next.argmax(-1, false));
        logits.push(next);
    }
    (Tensor::stack(&out, 1), logits)
}

#[test]
fn greedy_texts_are_those_of_transformers_and_do_not_depend_on_the_batch() {
    let (golden, (prompt, pads)) = (golden(), padded());
    for (name, model) in cases() {
        let Some(want) = golden.get(&format!("{name}/greedy")) else { continue };
        let new = want.size()[1];
        let (own, together) = greedy(&model.net, &prompt, &pads, new);
        assert!(own.equal(want), "{name}: {own} {want}");
        for i in 0..2 {
            let alone =
                prompt.get(i).narrow(0, pads[usize::try_from(i).unwrap()], LENGTHS[i as usize]).unsqueeze(0);
            let (text, single) = greedy(&model.net, &alone, &[0], new);
            assert!(text.equal(&own.narrow(0, i, 1)), "{name}");
            for (a, b) in together.iter().zip(&single) {
                assert!(gap(&a.narrow(0, i, 1), b) < 2e-5, "{name} row {i}");
            }
        }
    }
}

#[test]
fn sequences_can_be_chosen_and_memory_grows_without_a_trace() {
    let model = open(&fixture("llama"), Precision::F32);
    let long = changed("llama", &json!({"max_position_embeddings": 1024}));
    let long = open(long.path(), Precision::F32);
    let (prompt, pads) = padded();
    let mut state = model.net.start(2).unwrap();
    let _ = state.prefill_padded(&prompt, &pads).unwrap();
    state.select(&[1, 0, 1]).unwrap();
    assert_eq!((state.len(), state.hidden().unwrap().size()[0]), (11, 3));
    let got = state.step(&Tensor::from_slice(&[7i64, 8, 9])).unwrap();
    let mut alone = model.net.start(1).unwrap();
    let _ = alone.prefill(&tokens().get(1).narrow(0, 0, 5).unsqueeze(0)).unwrap();
    let want = alone.step(&Tensor::from_slice(&[9i64])).unwrap();
    assert!(gap(&got.narrow(0, 2, 1), &want) < 2e-5);
    assert!(state.select(&[3]).is_err() && state.truncate(20).is_err());
    assert!(state.prefill_padded(&prompt, &pads).is_err());

    // 300 steps are past the first block of memory.
    let run = |reserve: i64| {
        let mut state = long.net.start(1).unwrap();
        state.reserve(reserve).unwrap();
        let mut token = Tensor::from_slice(&[5i64]);
        let mut last = state.step(&token).unwrap();
        for _ in 0..300 {
            token = last.argmax(-1, false);
            last = state.step(&token).unwrap();
        }
        last
    };
    assert!(run(1).equal(&run(400)));
}

/// The llama fixture in f32 with its matrices changed.
fn rounded(change: impl Fn(&Tensor) -> Tensor) -> Language {
    let tensors = Weights::find(&fixture("llama"), "model", None).unwrap().tensors().unwrap();
    let wide = tensors.into_iter().map(|(name, t)| {
        let t = t.to_kind(Kind::Float);
        (name, if t.dim() == 2 { change(&t) } else { t })
    });
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("llama/config.json"), dir.path().join("config.json")).unwrap();
    safetensors::write(&dir.path().join("model.safetensors"), wide, &BTreeMap::new()).unwrap();
    open(dir.path(), Precision::F32)
}

#[test]
fn fewer_bits_are_the_rounded_weights_and_nothing_else() {
    let as_kind = |kind: Kind| move |w: &Tensor| w.to_kind(kind).to_kind(Kind::Float);
    let int8 = |w: &Tensor| {
        let step = w.abs().amax([1i64].as_slice(), true) / 127.0;
        (w / &step).round() * step
    };
    // A pass over many tokens also rounds what goes through the products: transformers' own logits in these dtypes are
    // off by 0.076 (f16) and 0.30 (bf16) here. Steps do not round it.
    let cases = [
        (Precision::F64, rounded(as_kind(Kind::Double)), 2e-5),
        (Precision::F16, rounded(as_kind(Kind::Half)), 0.076),
        (Precision::Bf16, rounded(as_kind(Kind::BFloat16)), 0.3),
        (Precision::Int8, rounded(int8), 0.3),
    ];
    for (precision, same, at_once) in cases {
        let (model, want) = (open(&fixture("llama"), precision), logits(&same.net, &tokens()));
        let whole = logits(&model.net, &tokens()).to_kind(Kind::Float);
        assert!(gap(&whole, &want) < at_once, "{precision:?}: {}", gap(&whole, &want));
        let mut state = model.net.start(2).unwrap();
        for t in 0..24 {
            let got = state.step(&tokens().select(1, t)).unwrap().to_kind(Kind::Float);
            let gap = gap(&got, &want.select(1, t));
            assert!(gap < 2e-5, "{precision:?}, step {t}: {gap}");
        }
    }
    let bytes = |p: Precision| open(&fixture("llama"), p).net.bytes_per_step();
    assert_eq!(bytes(Precision::F32), 2 * bytes(Precision::F16));
    assert!(bytes(Precision::Int8) < bytes(Precision::F16) * 3 / 5);
}

#[test]
fn gpt2_small_has_its_parameters() {
    let store = Store::empty(Device::Cpu, Kind::Float);
    let net = Lm::new(&store.root(), &LmConfig::default(), 1024).unwrap();
    assert_eq!(store.parameters(), 124_439_808);
    assert_eq!(net.config().start_token(), 50256);
}

#[test]
fn it_can_be_trained() {
    let config = LmConfig {
        vocab: 11,
        context: 16,
        width: 16,
        depth: 1,
        heads: 2,
        dropout: 0.0,
        ..LmConfig::default()
    };
    let store = Store::new(Device::Cpu, Kind::Float, 3);
    let net = Lm::new(&store.root(), &config, 8).unwrap();
    let text = Tensor::arange(24, (Kind::Int64, Device::Cpu)).remainder(7).view([2, 12]);
    let loss = || {
        let out = net.logits(&text.narrow(1, 0, 11), &Cond::default(), Mode::Train).unwrap();
        out.view([-1, 11]).cross_entropy_for_logits(&text.narrow(1, 1, 11).reshape([-1]))
    };
    let before = loss();
    assert!((before.double_value(&[]) - 11f64.ln()).abs() < 0.1);
    before.backward();
    {
        let _guard = tch::no_grad_guard();
        for (name, mut p) in store.trainable() {
            assert!(p.grad().defined(), "{name}");
            let step = p.grad() * 0.5;
            let _ = p.subtract_(&step);
        }
    }
    assert!(loss().double_value(&[]) < before.double_value(&[]) - 0.1);
}

#[test]
fn names_with_and_without_prefix_and_buffers_are_read() {
    let dir = changed("gpt2", &json!({}));
    let place = dir.path().join("model.safetensors");
    let tensors = safetensors::File::open(&place).unwrap().tensors().unwrap();
    let mut bare: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .map(|(k, v)| (k.strip_prefix("transformer.").unwrap_or(&k).to_owned(), v))
        .collect();
    bare.insert("h.0.attn.bias".into(), Tensor::ones([1, 1, 64, 64], (Kind::Float, Device::Cpu)).tril(0));
    bare.insert("h.1.attn.masked_bias".into(), Tensor::from(-1e4f32));
    let write = |t: &BTreeMap<String, Tensor>| {
        safetensors::write(&place, t.iter().map(|(k, v)| (k.as_str(), v.shallow_clone())), &BTreeMap::new())
            .unwrap()
    };
    write(&bare);
    let golden = golden();
    assert!(gap(&logits(&open(dir.path(), Precision::F32).net, &tokens()), &golden["gpt2/logits"]) < 2e-5);
    // An output layer that is the embedding changes nothing; another one is used.
    bare.insert("lm_head.weight".into(), bare["wte.weight"].copy());
    write(&bare);
    let model = open(dir.path(), Precision::F32);
    assert!(model.net.config().tied && gap(&logits(&model.net, &tokens()), &golden["gpt2/logits"]) < 2e-5);
    bare.insert("lm_head.weight".into(), &bare["wte.weight"] * 2);
    write(&bare);
    let model = open(dir.path(), Precision::F32);
    assert!(gap(&logits(&model.net, &tokens()), &(&golden["gpt2/logits"] * 2)) < 4e-5);
    assert!(model.notes.iter().any(|n| n.contains("output layer")));
}

#[test]
fn the_dtype_of_the_file_is_kept() {
    let bytes = |family: &str, p: Precision| open(&fixture(family), p).net.bytes_per_step();
    assert_eq!(bytes("gemma", Precision::File), bytes("gemma", Precision::Bf16));
    assert_eq!(bytes("llama", Precision::File), bytes("llama", Precision::F16));
}

#[test]
fn tokens_are_those_of_the_tokenizers_library() {
    let text = read(&fixture("text.json"));
    let tokenizer = Tokenizer::open(&fixture("tokenizer.json")).unwrap();
    for sample in text["samples"].as_array().unwrap() {
        let ids: Vec<i64> = sample[1].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
        let own = tokenizer.encode(sample[0].as_str().unwrap(), true).unwrap();
        assert_eq!(own, ids, "{sample}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), sample[2].as_str().unwrap());
        let mut stream = tokenizer.stream(true);
        let mut pieces: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces += &stream.finish().unwrap();
        assert_eq!(pieces, sample[2].as_str().unwrap());
    }
}

#[test]
fn conversations_are_those_of_transformers() {
    let text = read(&fixture("text.json"));
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"});
    for chat in text["chats"].as_array().unwrap() {
        let source = text["templates"][chat[0].as_str().unwrap()].as_str().unwrap();
        let messages: Vec<Message> = serde_json::from_value(chat[1].clone()).unwrap();
        let own = ChatTemplate::new(source, &tokens, "x").render(&messages, chat[2].as_bool().unwrap());
        match &chat[3] {
            Value::String(want) => assert_eq!(own.unwrap(), *want, "{chat}"),
            refused => {
                let error = own.unwrap_err();
                assert_eq!(error.kind().exit_code(), 2, "{error}");
                assert!(error.to_string().ends_with(refused["refused"].as_str().unwrap()), "{error}");
            }
        }
    }
}

fn fails(path: &Path, code: u8, parts: &[&str]) {
    let error = language::open(path, &LanguageOptions::default(), Device::Cpu).unwrap_err();
    assert_eq!(error.kind().exit_code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(!error.to_string().contains('\n') && error.hint_text().is_some(), "{error}");
}

#[test]
fn folders_that_are_wrong_are_named() {
    assert!(language::is_one(&fixture("gpt2")) && !language::is_one(&fixture("")));
    fails(&fixture("absent"), 4, &["config.json"]);
    fails(
        changed("llama", &json!({"model_type": "falcon"})).path(),
        4,
        &["model type `falcon`", "config.json"],
    );
    fails(changed("llama", &json!({"num_hidden_layers": 3})).path(), 4, &["9 missing", "layers.2."]);
    fails(changed("llama", &json!({"num_hidden_layers": 1})).path(), 4, &["unknown", "model.layers.1."]);
    fails(changed("llama", &json!({"hidden_size": 64, "head_dim": 8})).path(), 4, &["expected shape"]);
    fails(changed("gpt2", &json!({"vocab_size": 95})).path(), 4, &["wte.weight", "[95, 32]", "[96, 32]"]);
    fails(changed("mistral", &json!({"num_key_value_heads": 3})).path(), 4, &["kv_heads"]);

    let dir = changed("llama", &json!({}));
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    fails(dir.path(), 4, &["missing part", "model-00002-of-00003.safetensors"]);
    let dir = changed("gpt2", &json!({}));
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    fails(dir.path(), 4, &["no weights"]);
    let dir = changed("qwen2", &json!({}));
    let weights = dir.path().join("pytorch_model.bin");
    let cut = fs::read(&weights).unwrap();
    fs::write(&weights, &cut[..cut.len() / 2]).unwrap();
    fails(dir.path(), 4, &["pytorch_model.bin"]);

    // A tokenizer of 320 tokens for a model of 96.
    let dir = changed("gpt2", &json!({}));
    fs::copy(fixture("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    fails(dir.path(), 4, &["tokenizer", "go up to 319, those of the model to 95"]);
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    fails(dir.path(), 4, &["unreadable tokenizer"]);
}

#[test]
fn prompts_that_do_not_fit_are_named_with_both_lengths() {
    let model = open(&fixture("gpt2"), Precision::F32);
    let error = model.check_length(60, 5).unwrap_err();
    assert_eq!(error.kind().exit_code(), 2);
    assert!(error.to_string().contains("60 tokens and 5 new ones, the context is 64"), "{error}");
    assert!(model.check_length(60, 4).is_ok() && model.check_length(0, 4).is_err());
    assert!(model.check_tokens(&[0, 95]).is_ok() && model.check_tokens(&[96]).is_err());
    let long = Tensor::zeros([1, 65], (Kind::Int64, Device::Cpu));
    let error = model.net.hidden(&long, Mode::Eval).unwrap_err().to_string();
    assert!(error.contains("65 tokens") && error.contains("64"), "{error}");
    let mut state = model.net.start(1).unwrap();
    let _ = state.prefill(&long.narrow(1, 0, 64)).unwrap();
    assert!(state.step(&Tensor::from_slice(&[1i64])).is_err());
    assert!(model.tokenizer().is_err() && model.conversation(&[]).is_err());
    assert!(model.net.start(0).is_err());
}

#[test]
fn a_shard_is_copied_without_being_read_whole() {
    let weights = Weights::find(&fixture("llama"), "model", None).unwrap();
    let (name, shape) = ("model.norm.weight", [32]);
    let dest = Tensor::zeros(shape, (Kind::Double, Device::Cpu));
    let written = weights.copy_to(|n| (n == name).then(|| (dest.shallow_clone(), false))).unwrap();
    assert_eq!(written, 1);
    assert!(dest.equal(&weights.tensor(name).unwrap().unwrap().to_kind(Kind::Double)));
    assert!(weights.copy_to(|n| (n == name).then(|| (dest.narrow(0, 0, 3), false))).is_err());
    assert!(weights.tensor("no.such").unwrap().is_none());
}

#[test]
fn times_are_positive_and_count_the_weights() {
    let model = open(&fixture("llama"), Precision::Bf16);
    let t = timing::measure(&model.net, 2, 8, 4, 1).unwrap();
    assert!(t.prefill_rate() > 0.0 && t.decode_rate() > 0.0 && t.bandwidth() > 0.0);
    // Four matrices of each block and the output, two bytes a weight.
    let block = 32 * (32 + 2 * 16) + 32 * 32 + 3 * 32 * 48;
    assert_eq!(t.bytes, 2 * (2 * block + 96 * 32));
    assert!(timing::measure(&model.net, 1, 64, 4, 1).is_err());
}

#[test]
fn perplexity_by_sliding_windows_is_that_of_transformers() {
    let golden = read(&fixture("perplexity.json"));
    let tokens: Vec<i64> = golden["tokens"].as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect();
    for (key, want) in golden.as_object().unwrap().iter().filter(|(key, _)| key.contains('/')) {
        let parts: Vec<&str> = key.split('/').collect();
        let language = open(&fixture(parts[0]), Precision::F64);
        let plan = Plan { context: parts[1].parse().unwrap(), stride: parts[2].parse().unwrap(), batch: 3 };
        let passages = [Passage::whole(tokens.clone())];
        let scores = score(&language.net, &passages, plan, Device::Cpu, &mut |_, _| Ok(())).unwrap();
        let found = likelihood(&scores).unwrap();
        assert_eq!(found.tokens, tokens.len() - 1);
        let gap = (found.nats_per_token - want.as_f64().unwrap()).abs();
        assert!(gap < 1e-5, "{key}: {} {want}", found.nats_per_token);
    }
}
