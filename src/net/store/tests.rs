//! Names, first values and loading.

use super::*;
use crate::net::layers::init::Init;

fn small(seed: u64) -> Store {
    let store = Store::new(Device::Cpu, Kind::Float, seed);
    let p = store.root() / "enc";
    let _ = p.param("weight", &[4, 3], Init::KaimingUniform).unwrap();
    let _ = (&p / "norm").param("bias", &[4], Init::ZEROS).unwrap();
    let _ = p.constant("filter", &[2], &[0.5, 0.5]).unwrap();
    store
}

fn map(store: &Store) -> BTreeMap<String, Tensor> {
    store.named().into_iter().collect()
}

#[test]
fn first_values_do_not_depend_on_construction_order() {
    let a = small(7);
    let b = Store::new(Device::Cpu, Kind::Float, 7);
    let p = b.root();
    let _ = p.param("other", &[5], Init::Normal(1.0)).unwrap();
    let w = p.sub("enc").param("weight", &[4, 3], Init::KaimingUniform).unwrap();
    assert!(a.get("enc.weight").unwrap().equal(&w));
    assert!(!small(8).get("enc.weight").unwrap().equal(&w));
    assert_eq!(a.parameters(), 16);
    let names: Vec<String> = a.named().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["enc.weight", "enc.norm.bias", "enc.filter"]);
    assert_eq!(a.trainable().len(), 2);
}

#[test]
fn loading_is_strict_and_keeps_the_dtype() {
    let store = small(1);
    let mut file = map(&small(2));
    let want = file["enc.weight"].to_kind(Kind::Half);
    file.insert("enc.weight".into(), want.shallow_clone());
    file.remove("enc.filter"); // a constant may be absent
    store.load(&file, "x.safetensors").unwrap();
    let got = store.get("enc.weight").unwrap();
    assert_eq!(got.kind(), Kind::Float);
    assert!(got.equal(&want.to_kind(Kind::Float)) && got.requires_grad());

    file.remove("enc.norm.bias");
    file.insert("enc.extra".into(), Tensor::from(1.0));
    let error = store.load(&file, "x.safetensors").unwrap_err();
    assert_eq!(error.kind().exit_code(), 4);
    assert_eq!(
        error.to_string(),
        "the weights do not fit the network (x.safetensors): 1 missing: `enc.norm.bias`; \
         1 unknown to the network: `enc.extra`"
    );
}

#[test]
fn loading_never_broadcasts_and_changes_nothing_on_failure() {
    let store = small(1);
    let before = store.get("enc.norm.bias").unwrap().copy();
    let mut file = map(&small(2));
    file.insert("enc.norm.bias".into(), Tensor::ones([4], (Kind::Float, Device::Cpu)));
    file.insert("enc.weight".into(), Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
    let error = store.load(&file, "x.safetensors").unwrap_err().to_string();
    assert_eq!(error, "tensor `enc.weight` (x.safetensors): expected shape [4, 3], got [1, 3]");
    assert!(store.get("enc.norm.bias").unwrap().equal(&before));
}

#[test]
fn long_lists_of_names_are_summarised() {
    let store = Store::new(Device::Cpu, Kind::Float, 0);
    for i in 0..9 {
        let _ = store.root().param(&format!("w{i}"), &[1], Init::ZEROS).unwrap();
    }
    let error = store.load(&BTreeMap::new(), "f").unwrap_err().to_string();
    assert!(error.ends_with("9 missing: `w0`, `w1`, `w2`, `w3` and 5 more"), "{error}");
}

#[test]
fn copies_have_their_own_memory_and_no_gradients() {
    let a = small(1);
    let b = a.copy().unwrap();
    assert!(b.trainable().iter().all(|(_, t)| !t.requires_grad()));
    b.copy_from(&small(3)).unwrap();
    assert!(!a.get("enc.weight").unwrap().equal(&b.get("enc.weight").unwrap()));
    assert!(a.copy_from(&Store::empty(Device::Cpu, Kind::Float)).is_err());
    assert!(a.root().param("enc.weight", &[1], Init::ZEROS).is_err());
}

#[test]
fn channels_last_is_seen_through_older_handles() {
    let store = Store::new(Device::Cpu, Kind::Float, 1);
    let w = store.root().param("w", &[4, 3, 2, 2], Init::KaimingUniform).unwrap();
    let before = w.detach().copy();
    store.channels_last().unwrap();
    assert_eq!(w.stride(), [12, 1, 6, 3]);
    assert!(w.equal(&before) && w.requires_grad() && w.is_leaf());
    assert_eq!(store.copy().unwrap().get("w").unwrap().stride(), [12, 1, 6, 3]);
}
