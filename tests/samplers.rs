//! Samplers against transformers on a thousand random distributions (`scripts/golden/samplers.py`).
//!
//! Where a stage cuts between tokens that tie, transformers leaves open which of them stay: it sorts without keeping the
//! order of equals. There the sets may differ in tied tokens, and in nothing else.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use genlib::decode::{Chooser, SamplerSpec};
use genlib::math::rng::SplitMix64;
use serde_json::Value;
use tch::{Kind, Tensor};

/// Sums of three numbers, scaled; rounded down to quarters where many shall tie.
fn logits(seed: u64, scale: f64, ties: bool, vocab: usize) -> Tensor {
    let mut stream = SplitMix64::new(seed);
    let mut number = || stream.uniform24();
    let values: Vec<f64> = (0..vocab)
        .map(|_| {
            let z = (number() + number() + number() - 1.5) * scale;
            if ties { ((z + 64.0) * 4.0).floor() / 4.0 - 64.0 } else { z }
        })
        .collect();
    Tensor::from_slice(&values).view([1, -1])
}

fn spec(settings: &Value, keep: &Value) -> SamplerSpec {
    let mut all = settings.clone();
    all["min_tokens_to_keep"] = keep.clone();
    let spec: SamplerSpec = serde_json::from_value(all.clone()).unwrap();
    // No setting is lost by its name.
    let back = serde_json::to_value(&spec).unwrap();
    for (key, value) in all.as_object().unwrap() {
        assert_eq!(back[key].as_f64(), value.as_f64(), "{key}");
    }
    spec
}

#[test]
fn a_thousand_sets_are_those_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/samplers.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let vocab = usize::try_from(golden["vocab"].as_u64().unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 1000);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut wrong, mut exchanged) = (Vec::new(), 0);
    for case in cases {
        let z =
            logits(case[0].as_u64().unwrap(), case[1].as_f64().unwrap(), case[2].as_bool().unwrap(), vocab);
        let chooser = Chooser::new(&spec(&case[4], &case[3])).unwrap();
        let left = chooser.filter(&z, &Tensor::zeros([1, 1], (Kind::Double, z.device()))).unwrap();
        let kept = Vec::<f64>::try_from(left.view(-1)).unwrap();
        let bits = kept.iter().enumerate().filter(|(_, z)| z.is_finite()).fold(0u64, |b, (v, _)| b | 1 << v);
        let want = u64::from_str_radix(case[5].as_str().unwrap(), 16).unwrap();
        // The logits of a set, in order.
        let of = |bits: u64| {
            let z = Vec::<f64>::try_from(z.view(-1)).unwrap();
            let mut set: Vec<f64> = (0..vocab).filter(|v| bits >> v & 1 == 1).map(|v| z[v]).collect();
            set.sort_by(f64::total_cmp);
            set
        };
        if bits != want {
            exchanged += 1;
            if !case[2].as_bool().unwrap() || of(bits) != of(want) {
                wrong.push(format!("{case}: {bits:x}"));
            }
        }
        for key in case[4].as_object().unwrap().keys() {
            *seen.entry(key).or_default() += 1;
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(exchanged < 20, "{exchanged} sets with other tokens of those that tie");
    assert!(seen.len() == 8 && seen.values().all(|n| *n > 100), "{seen:?}");
}
