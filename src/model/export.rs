//! A network written as a TorchScript module: code and named parameters in one file that libtorch and
//! PyTorch load, run, move and train further.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::open::Opened;
use super::raw::{ProcessEntry, RawSpec};
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::net::external::Input;
use crate::net::spec::NetSpec;
use crate::net::{Cond, Mode};
use crate::torch::shim::Generator;
use crate::torch::shim::module::{ScriptModule, Slot, write_traced};

/// Batch sizes that an exported module is tried at beside the one it was recorded with.
const OTHER_BATCHES: [i64; 2] = [1, 5];

/// Writes the network of `opened` to `path` as `forward(x, t)` or, for a class-conditional one, `forward(x, t,
/// class)` with `x` `[B, ...]`, `t` `[B]` in the network's own units and `class` `[B]` i64, and what it is to a
/// JSON file beside it. The written module is loaded again and must agree with the network on other batches.
///
/// # Errors
/// Where the model is a module already, its network cannot be recorded, or a file cannot be written.
pub fn torchscript(opened: &Opened, path: &Path) -> Result<Vec<PathBuf>> {
    if matches!(opened.card.model, NetSpec::External(_)) {
        return Err(Error::usage("the model is a module already").at(opened.path.display()));
    }
    let _no_grad = tch::no_grad_guard();
    let slots: Vec<Slot> = opened
        .store
        .named()
        .into_iter()
        .zip(opened.store.trained())
        .map(|((name, tensor), trained)| Slot { name, tensor, trained })
        .collect();
    let call = |inputs: &[Tensor]| -> Result<Tensor> {
        let cond = Cond { class: inputs.get(2).map(Tensor::shallow_clone), ..Cond::default() };
        opened.net.forward(&inputs[0], &inputs[1], &cond, Mode::Eval)
    };
    let mut names = vec!["x", "t"];
    if opened.card.classes > 0 {
        names.push("class_");
    }
    let inputs = example(opened, 2, 1)?;
    let named: Vec<(&str, Tensor)> =
        names.iter().copied().zip(inputs.iter().map(Tensor::shallow_clone)).collect();
    atomic::write_file(path, |temporary| {
        write_traced(temporary, &slots, &named, || call(&inputs))?;
        let module = ScriptModule::load(temporary, opened.store.device())?;
        for batch in OTHER_BATCHES {
            let inputs = example(opened, batch, 2)?;
            let (want, got) = (call(&inputs)?, module.run("forward", &inputs)?);
            check_equal(&want, &got).map_err(|e| e.at(path.display()))?;
        }
        Ok(())
    })?;
    let spec = RawSpec {
        process: Some(ProcessEntry::Spec(opened.card.process.clone())),
        precond: opened.card.scalings(),
        shape: Some(opened.card.shape.clone()),
        classes: (opened.card.classes > 0).then_some(opened.card.classes),
        inputs: (opened.card.classes > 0).then(|| vec![Input::X, Input::T, Input::Class]),
        range: (!opened.card.range.is_centred()).then_some(opened.card.range),
        sample: Some(opened.card.sample.clone()),
        ..RawSpec::default()
    };
    let text = serde_json::to_string_pretty(&spec)
        .map_err(|e| Error::run("cannot write the description of the module").why(e.to_string()))?;
    let beside = path.with_extension("json");
    atomic::write_bytes(&beside, text.as_bytes())?;
    Ok(vec![path.to_owned(), beside])
}

/// Inputs of the network for a batch.
fn example(opened: &Opened, batch: i64, seed: u64) -> Result<Vec<Tensor>> {
    let (device, kind) = (opened.store.device(), opened.store.kind());
    let shape: Vec<i64> = std::iter::once(batch).chain(opened.card.shape.iter().copied()).collect();
    let mut random = Generator::new(seed)?;
    let x = random.normal(&shape, Kind::Float)?.f_to_device(device)?.f_to_kind(kind)?;
    let t = Tensor::f_linspace(0.1, 0.9, batch, (kind, device))?;
    let mut inputs = vec![x, t];
    if opened.card.classes > 0 {
        inputs.push(random.integers(opened.card.classes, &[batch])?.f_to_device(device)?);
    }
    Ok(inputs)
}

/// Whether a module gives what its network gives, to float rounding.
fn check_equal(want: &Tensor, got: &Tensor) -> Result<()> {
    let failed = |why: String| Error::run("the network cannot be written as TorchScript").why(why);
    if want.size() != got.size() {
        return Err(failed(format!(
            "the module returns shape {:?}, the network {:?}",
            got.size(),
            want.size()
        )));
    }
    let to = |t: &Tensor| t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
    let (want, got) = (to(want)?, to(got)?);
    let scale = want.f_abs()?.f_max()?.f_double_value(&[])?;
    let gap = want.f_sub(&got)?.f_abs()?.f_max()?.f_double_value(&[])?;
    if gap <= 1e-4 * scale.max(1e-3) {
        return Ok(());
    }
    Err(failed(format!("it differs from the network by {gap:.2e} of {scale:.2e}")))
}
