//! TorchScript modules: written by gen and read back, and made by PyTorch.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use genlib::denoiser::{Denoiser, Prediction};
use genlib::error::Kind as ErrorKind;
use genlib::model::card::{ModelCard, Trained};
use genlib::model::export;
use genlib::model::open::{OpenOptions, Opened, open};
use genlib::model::raw::{ProcessEntry, RawSpec, TimeUnits};
use genlib::net::Cond;
use genlib::net::store::Store;
use genlib::process::{At, Point, ProcessName};
use genlib::torch::shim::Generator;
use genlib::torch::shim::module::ScriptModule;
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    Generator::new(seed).unwrap().normal(shape, Kind::Float).unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// A network with random weights as an opened snapshot.
fn opened(model: &str, shape: &[i64], classes: i64) -> Opened {
    let card = ModelCard {
        format: ModelCard::FORMAT,
        tokenizer: None,
        model: toml::from_str(model).unwrap(),
        process: ProcessName::Edm.spec(),
        objective: toml::from_str("type = \"edm\"").unwrap(),
        precond: None,
        shape: shape.to_vec(),
        classes,
        range: Default::default(),
        rate: None,
        sample: toml::from_str("").unwrap(),
        trained: Trained::default(),
    };
    let store = Store::new(Device::Cpu, Kind::Float, 3);
    let net = card.model.build(&store.root(), shape, classes).unwrap();
    // Last layers start at zero: with noise on every weight all of the network is seen.
    let _no_grad = tch::no_grad_guard();
    for (i, (_, mut w)) in store.trainable().into_iter().enumerate() {
        let _ = w.f_add_(&(normal(i as u64, &w.size()) * 0.05)).unwrap();
    }
    Opened::new(card, net, store, "test".into())
}

const NETWORKS: [(&str, [i64; 3], i64); 4] = [
    ("type = \"mlp\"\nwidths = [32, 32]", [1, 4, 4], 3),
    (
        "type = \"song-unet\"\nmodel_channels = 16\nchannel_mult = [1, 2]\nnum_blocks = 1\nattn_resolutions = [4]",
        [1, 8, 8],
        0,
    ),
    (
        "type = \"ncsnpp\"\nmodel_channels = 16\nchannel_mult = [1, 2]\nnum_blocks = 1\nattn_resolutions = [4]",
        [2, 8, 8],
        5,
    ),
    (
        "type = \"unet2d\"\nblock_out_channels = [16, 32]\nlayers_per_block = 1\nnorm_num_groups = 8\n\
         down_block_types = [\"DownBlock2D\", \"AttnDownBlock2D\"]\nup_block_types = [\"AttnUpBlock2D\", \"UpBlock2D\"]",
        [3, 8, 8],
        4,
    ),
];

#[test]
fn a_written_module_is_the_network_with_its_parameters() {
    let temp = tempfile::tempdir().unwrap();
    for (i, (model, shape, classes)) in NETWORKS.into_iter().enumerate() {
        let path = temp.path().join(format!("{i}.pt"));
        let model = opened(model, &shape, classes);
        // This compares the module with the network at batches of 1 and 5.
        export::torchscript(&model, &path).unwrap();
        let module = ScriptModule::load(&path, Device::Cpu).unwrap();
        let about = module.describe("forward").unwrap();
        assert_eq!(usize::try_from(about.parameters).unwrap(), model.store.parameters(), "{i}");
        assert_eq!(about.arguments.len(), if classes > 0 { 3 } else { 2 });

        // The same model again, through the file and what is beside it.
        let again = open(&path, &OpenOptions::default(), Device::Cpu).unwrap();
        assert_eq!((again.card.classes, &again.card.shape), (classes, &shape.to_vec()));
        let (a, b) = (model.denoiser().unwrap(), again.denoiser().unwrap());
        let x = normal(9, &[3, shape[0], shape[1], shape[2]]);
        let at = At::all(Point::new(a.process(), 0.7));
        let class = (classes > 0).then(|| Tensor::from_slice(&[0i64, 2, 1]));
        let cond = Cond { class, ..Cond::default() };
        let (a, b) = (a.predict(&x, &at, &cond).unwrap(), b.predict(&x, &at, &cond).unwrap());
        assert!(gap(&a, &b) < 1e-5, "{i}: {}", gap(&a, &b));
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/modules").join(name)
}

fn raw(classes: Option<i64>) -> OpenOptions {
    OpenOptions {
        raw: RawSpec {
            process: Some(ProcessEntry::Name(ProcessName::Vp)),
            prediction: Some(Prediction::Eps),
            shape: Some(vec![1, 4, 4]),
            time: Some(TimeUnits::Scaled(2.0)),
            classes,
            ..RawSpec::default()
        },
        ..OpenOptions::default()
    }
}

/// The modules of scripts/golden/modules.py compute `a x + b t` (plus `c class`), with a = 0.5, b = 0.25, c = 2.
#[test]
fn modules_of_pytorch_run() {
    let x = normal(1, &[2, 1, 4, 4]);
    let t = 0.3;
    let vp = ProcessName::Vp.spec().build().unwrap();
    let at = At::all(Point::new(vp.as_ref(), t));
    let want = &x * 0.5 + 0.25 * 2.0 * t;
    for name in ["tensor.pt", "tuple.pt", "dict.pt", "optional.pt", "learned_variance.pt"] {
        let model = open(&fixture(name), &raw(None), Device::Cpu).unwrap().denoiser().unwrap();
        let got = model.predict(&x, &at, &Cond::default()).unwrap();
        assert!(gap(&want, &got) < 1e-6, "{name}");
    }
    let model = open(&fixture("class.pt"), &raw(Some(5)), Device::Cpu).unwrap().denoiser().unwrap();
    let class = Tensor::from_slice(&[1i64, 3]);
    let want = want + class.reshape([2, 1, 1, 1]) * 2.0;
    let got = model.predict(&x, &at, &Cond { class: Some(class), ..Cond::default() }).unwrap();
    assert!(gap(&want, &got) < 1e-6);
}

#[test]
fn what_does_not_fit_is_a_model_error_with_one_line() {
    let error = |name: &str, options: &OpenOptions| {
        let error = open(&fixture(name), options, Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.contains("frame #"), "{text}");
        text
    };
    assert!(
        error("class.pt", &raw(None))
            .contains("takes (x: Tensor, t: Tensor, y: Tensor), gen would give (x, t)")
    );
    let mut options = raw(None);
    options.raw.method = Some("denoise".into());
    assert!(error("tensor.pt", &options).contains("no method `denoise`"));
    let temp = tempfile::tempdir().unwrap();
    let cut = temp.path().join("cut.pt");
    let whole = std::fs::read(fixture("tensor.pt")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let error = open(&cut, &raw(None), Device::Cpu).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    // A snapshot says itself what it is.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits-edm/model.safetensors");
    assert_eq!(open(&own, &raw(None), Device::Cpu).unwrap_err().kind(), ErrorKind::Usage);
}

/// The package of scripts/golden/package.py computes `0.5 x + 0.25 t + i/16` for pixel i.
#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn packages_of_pytorch_run() {
    let path = fixture("package.pt2");
    let about = genlib::model::archive::metadata(&path).unwrap();
    assert_eq!((&about["AOTI_DEVICE_KEY"], &about["AOTI_MACHINE"]), (&"cpu".into(), &"x86_64".into()));
    let model = open(&path, &raw(None), Device::Cpu).unwrap().denoiser().unwrap();
    let vp = ProcessName::Vp.spec().build().unwrap();
    let bias = Tensor::arange(16, (Kind::Float, Device::Cpu)).reshape([1, 1, 4, 4]) / 16.0;
    for batch in [1, 4] {
        let x = normal(5, &[batch, 1, 4, 4]);
        let got = model.predict(&x, &At::all(Point::new(vp.as_ref(), 0.6)), &Cond::default()).unwrap();
        let want = &x * 0.5 + 0.25 * 2.0 * 0.6 + &bias;
        assert!(gap(&want, &got) < 1e-6, "{batch}");
    }
    let mut wrong = raw(None);
    wrong.raw.shape = Some(vec![1, 4, 5]);
    let model = open(&path, &wrong, Device::Cpu).unwrap().denoiser().unwrap();
    let at = At::all(Point::new(vp.as_ref(), 0.6));
    let error = model.predict(&normal(5, &[2, 1, 4, 5]), &at, &Cond::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(!error.to_string().contains("frame #"), "{error}");
}

#[test]
fn archives_are_described_without_running_them() {
    let methods = genlib::model::archive::methods(&fixture("optional.pt")).unwrap();
    let forward = methods.iter().find(|(_, m)| m.starts_with("forward(")).unwrap();
    assert!(
        forward.1.starts_with("forward(x: Tensor, t: Tensor, y: Optional[Tensor]=None)"),
        "{}",
        forward.1
    );
}
