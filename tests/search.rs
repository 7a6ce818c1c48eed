//! Beam and contrastive search against transformers and the formula (`scripts/golden/search.py`), and speculative
//! decoding against decoding without a draft.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use genlib::decode::{
    Beams, Chooser, Continuation, Contrastive, EarlyStopping, Finish, Penalties, SamplerSpec, Tally,
    TextSettings, continue_texts, search_beams, search_contrastive, speculate,
};
use genlib::error::Kind as Fault;
use genlib::model::language::{self, Language, LanguageOptions, Precision};
use genlib::net::causal::Causal;
use genlib::net::lm::{Lm, LmConfig};
use genlib::net::store::Store;
use genlib::net::{Cond, Mode};
use genlib::noise::streams::Rng;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language").join(name)
}

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("search.json")).unwrap()).unwrap()
}

fn open(family: &str) -> Language {
    let options = LanguageOptions { precision: Precision::F32, weights: None };
    language::open(&fixture(family), &options, CPU).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect()
}

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn settings(sampler: SamplerSpec, max_new: usize) -> TextSettings {
    TextSettings {
        sampler,
        penalties: Penalties::default(),
        mirostat: None,
        max_new,
        min_new: 0,
        eos: Vec::new(),
        rng: Rng::Torch,
    }
}

fn greedy() -> SamplerSpec {
    SamplerSpec { greedy: true, ..SamplerSpec::default() }
}

/// The case's settings under transformers' names.
fn beams_of(case: &Value, new: usize) -> (Beams, TextSettings) {
    let said = &case[2];
    let early = match &said["early_stopping"] {
        Value::Bool(true) => EarlyStopping::True,
        Value::String(never) if never == "never" => EarlyStopping::Never,
        _ => EarlyStopping::False,
    };
    let how = Beams {
        beams: count(&said["num_beams"]),
        length_penalty: said["length_penalty"].as_f64().unwrap_or(1.0),
        early_stopping: early,
    };
    let mut settings = settings(SamplerSpec::default(), new);
    settings.eos = ids(&case[3]);
    settings.min_new = said["min_new_tokens"].as_u64().map_or(0, |n| usize::try_from(n).unwrap());
    settings.penalties.repetition_penalty = said["repetition_penalty"].as_f64().unwrap_or(1.0);
    settings.penalties.no_repeat_ngram_size = said["no_repeat_ngram_size"].as_u64().map_or(0, |n| n as usize);
    (how, settings)
}

#[test]
fn beams_are_those_of_transformers() {
    let golden = golden();
    let new = count(&golden["new"]);
    let (mut ended, mut early, mut family, mut model) = (0, 0, String::new(), open("gpt2"));
    for case in golden["beams"].as_array().unwrap() {
        if case[0].as_str().unwrap() != family {
            case[0].as_str().unwrap().clone_into(&mut family);
            model = open(&family);
        }
        let prompt = ids(&golden["prompts"][count(&case[1])]);
        let (how, settings) = beams_of(case, new);
        let best = search_beams(&model.net, &prompt, &how, &settings, CPU, &mut |_| Ok(false)).unwrap();
        let about = format!("{} {} {} ends {}", case[0], case[1], case[2], case[3]);
        let want: Vec<Vec<i64>> = case[4].as_array().unwrap().iter().map(ids).collect();
        let own: Vec<Vec<i64>> = best.iter().map(|b| b.text.tokens.clone()).collect();
        assert_eq!(own, want, "{about}");
        for (beam, score) in best.iter().zip(case[5].as_array().unwrap()) {
            assert!((beam.score - score.as_f64().unwrap()).abs() < 1e-4, "{about}: {}", beam.score);
            let by_end = beam.text.finish == Finish::Eos;
            assert_eq!(by_end, beam.text.tokens.len() < new, "{about}");
            assert_eq!(beam.text.log_probs.len(), beam.text.tokens.len() + usize::from(by_end));
            ended += usize::from(by_end);
        }
        early += usize::from(best.iter().all(|b| b.text.tokens.len() < new));
    }
    assert!(ended > 100 && early > 10, "{ended} beams, {early} whole searches ended");
}

#[test]
fn a_caller_can_end_beams() {
    let (model, golden) = (open("llama"), golden());
    let prompt = ids(&golden["prompts"][0]);
    let how = Beams { beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::True };
    let settings = settings(SamplerSpec::default(), 12);
    let best = search_beams(&model.net, &prompt, &how, &settings, CPU, &mut |t| Ok(t.len() == 2)).unwrap();
    assert!(
        best.len() == 3 && best.iter().all(|b| b.text.finish == Finish::Stop && b.text.tokens.len() == 2)
    );
    // With one beam it is greedy search.
    let one = Beams { beams: 1, ..how };
    let best = search_beams(&model.net, &prompt, &one, &settings, CPU, &mut |_| Ok(false)).unwrap();
    let plain = plain(&model.net, &prompt, 0, &TextSettings { sampler: greedy(), ..settings });
    assert_eq!(best[0].text.tokens, plain.tokens);
    let sum: f64 = plain.log_probs.iter().sum();
    assert!((best[0].score - sum / 12.0).abs() < 1e-5);
}

#[test]
fn contrastive_search_is_its_formula() {
    let golden = golden();
    let new = count(&golden["new"]);
    let mut kinds = std::collections::BTreeSet::new();
    for family in ["gpt2", "llama", "gemma2"] {
        let model = open(family);
        for case in golden["contrastive"].as_array().unwrap().iter().filter(|c| c[0] == family) {
            let prompt = ids(&golden["prompts"][count(&case[1])]);
            let how = Contrastive { alpha: case[2].as_f64().unwrap(), top_k: case[3].as_i64().unwrap() };
            let settings = settings(SamplerSpec::default(), new);
            let mut seen = Vec::new();
            let mut watch = |token| {
                seen.push(token);
                Ok(false)
            };
            let text = search_contrastive(&model.net, &prompt, &how, &settings, CPU, &mut watch).unwrap();
            assert_eq!(text.tokens, ids(&case[4]), "{family} {case}");
            assert_eq!(seen, text.tokens);
            kinds.insert(text.tokens.clone());
            // An end that it would say ends it.
            let eos = TextSettings { eos: vec![text.tokens[5]], ..settings };
            let short = search_contrastive(&model.net, &prompt, &how, &eos, CPU, &mut |_| Ok(false)).unwrap();
            let at = text.tokens.iter().position(|t| *t == text.tokens[5]).unwrap();
            assert_eq!((short.finish, &short.tokens[..]), (Finish::Eos, &text.tokens[..at]));
        }
    }
    assert!(kinds.len() > 30, "{} different texts", kinds.len());
}

fn plain(net: &Lm, prompt: &[i64], seed: u64, settings: &TextSettings) -> Continuation {
    let mut texts =
        continue_texts(net, &[prompt.to_vec()], &[seed], settings, CPU, &mut |_, _| Ok(false)).unwrap();
    texts.remove(0)
}

fn drafted(
    nets: (&Lm, &Lm),
    prompt: &[i64],
    seed: u64,
    ahead: usize,
    settings: &TextSettings,
) -> (Continuation, Tally) {
    speculate((nets.0, nets.1), (prompt, seed), ahead, settings, CPU, &mut |_| Ok(false)).unwrap()
}

#[test]
fn greedy_texts_do_not_depend_on_the_draft() {
    let golden = golden();
    let models: Vec<Language> = ["gpt2", "llama", "gemma2"].iter().map(|f| open(f)).collect();
    for (i, model) in models.iter().enumerate() {
        for prompt in golden["prompts"].as_array().unwrap() {
            let prompt = ids(prompt);
            let mut settings = settings(greedy(), 30);
            for penalty in [1.0, 1.4] {
                settings.penalties.repetition_penalty = penalty;
                settings.eos.clear();
                let want = plain(&model.net, &prompt, 0, &settings);
                for (j, draft) in models.iter().enumerate() {
                    for ahead in [1, 4, 9] {
                        let (text, tally) = drafted((&model.net, &draft.net), &prompt, 0, ahead, &settings);
                        assert_eq!(text.tokens, want.tokens, "{i} {j} {ahead}");
                        for (a, b) in text.log_probs.iter().zip(&want.log_probs) {
                            assert!((a - b).abs() < 1e-4, "{a} {b}");
                        }
                        assert_eq!(text.entropies.len(), want.entropies.len());
                        if i == j {
                            assert_eq!(
                                (tally.share(), tally.rounds),
                                (Some(1.0), 30usize.div_ceil(ahead + 1))
                            );
                        }
                    }
                }
                // An end in the middle of what is proposed.
                settings.eos = vec![want.tokens[13]];
                let want = plain(&model.net, &prompt, 0, &settings);
                let (text, _) = drafted((&model.net, &model.net), &prompt, 0, 4, &settings);
                assert_eq!((&text.tokens, text.finish), (&want.tokens, Finish::Eos));
            }
        }
    }
}

/// Probabilities of all texts of `n` tokens after `prompt`, by whole passes.
fn exact(net: &Lm, chooser: &Chooser, prompt: &[i64], n: usize) -> Vec<(Vec<i64>, f64)> {
    let mut texts = vec![(Vec::new(), 1.0)];
    for _ in 0..n {
        let mut longer = Vec::new();
        for (text, weight) in texts {
            let tokens: Vec<i64> = prompt.iter().chain(&text).copied().collect();
            let input = Tensor::from_slice(&tokens).view([1, -1]);
            let logits = net.logits(&input, &Cond::default(), Mode::Eval).unwrap().select(1, -1);
            let none = Tensor::zeros([1, 1], (Kind::Double, CPU));
            let p = Vec::<f64>::try_from(chooser.distribution(&logits, &none).unwrap().view(-1)).unwrap();
            for (v, p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
                longer.push(([text.as_slice(), &[v as i64]].concat(), weight * p));
            }
        }
        texts = longer;
    }
    texts
}

#[test]
fn drawn_texts_have_the_distribution_of_the_model_alone() {
    let (model, golden) = (open("gpt2"), golden());
    // The draft: the same network in 8-bit integers, hotter by its own rounding only, and another one altogether.
    let options = LanguageOptions { precision: Precision::Int8, weights: None };
    let near = language::open(&fixture("gpt2"), &options, CPU).unwrap();
    let far = open("llama");
    let prompt = ids(&golden["prompts"][1]);
    let spec = SamplerSpec { temperature: 1.5, top_k: 3, ..SamplerSpec::default() };
    let want = {
        let _guard = tch::no_grad_guard();
        exact(&model.net, &Chooser::new(&spec).unwrap(), &prompt, 3)
    };
    assert!((want.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9 && want.len() == 27);
    let settings = settings(spec, 3);
    let texts = 3000u32;
    for (draft, low, high) in [(&near, 0.8, 1.0), (&far, 0.0, 0.6)] {
        let mut seen = vec![0f64; want.len()];
        let mut all = Tally::default();
        for seed in 0..texts {
            let (text, tally) = drafted((&model.net, &draft.net), &prompt, seed.into(), 2, &settings);
            let at = want.iter().position(|(tokens, _)| *tokens == text.tokens);
            seen[at.expect("a text that the model alone can say")] += 1.0;
            all = all.with(tally);
        }
        let n = f64::from(texts);
        // Rare texts are counted together.
        let (mut chi2, mut cells, mut rest) = (0.0, 0, (0.0, 0.0));
        for ((_, p), seen) in want.iter().zip(&seen) {
            if p * n < 8.0 {
                rest = (rest.0 + p * n, rest.1 + seen);
            } else {
                chi2 += (seen - p * n).powi(2) / (p * n);
                cells += 1;
            }
        }
        if rest.0 >= 1.0 {
            chi2 += (rest.1 - rest.0).powi(2) / rest.0;
            cells += 1;
        }
        // Mean plus 4 standard deviations of the chi-square distribution.
        let free = f64::from(cells - 1);
        assert!(cells > 8 && chi2 < free + 4.0 * (2.0 * free).sqrt(), "chi-square {chi2} of {cells} cells");
        let share = all.share().unwrap();
        assert!((low..=high).contains(&share), "{share} of the proposals stay");
        assert!(all.accepted <= all.drafted && all.rounds < 3 * texts as usize);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let (model, other) = (open("gpt2"), Store::new(CPU, Kind::Float, 1));
    let config = LmConfig { vocab: 95, context: 64, width: 8, depth: 1, heads: 2, ..LmConfig::default() };
    let other = Lm::new(&other.root(), &config, 8).unwrap();
    let settings = settings(greedy(), 4);
    let nets: (&dyn Causal, &dyn Causal) = (&model.net, &other);
    let fault = speculate(nets, (&[3, 4], 0), 2, &settings, CPU, &mut |_| Ok(false)).unwrap_err();
    assert_eq!(fault.kind(), Fault::Model);
    assert!(fault.to_string().contains("another vocabulary"), "{fault}");
    let how = Beams { beams: 2, length_penalty: 1.0, early_stopping: EarlyStopping::False };
    let fault = search_beams(&model.net, &[], &how, &settings, CPU, &mut |_| Ok(false)).unwrap_err();
    assert_eq!(fault.kind(), Fault::Usage);
    let how = Contrastive { alpha: 1.5, top_k: 4 };
    assert!(search_contrastive(&model.net, &[3], &how, &settings, CPU, &mut |_| Ok(false)).is_err());
}
