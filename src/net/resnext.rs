//! ResNeXt-29, 8x64d for CIFAR (Xie et al. 2017), with one input channel: the classifier behind the published metrics
//! of SC09. Names of parameters are those of the published network.

use tch::{Device, Kind, Tensor};

use super::layers::conv::Conv2d;
use super::layers::init::Init;
use super::layers::linear::Linear;
use crate::error::{Error, Result};
use crate::io::{pth, safetensors};
use crate::net::store::{Path, Store};
use crate::torch::spectrum::MelSpectrogram;

/// Groups and width of a group.
const CARDINALITY: i64 = 8;
const STAGES: [(i64, i64); 3] = [(256, 1), (512, 2), (1024, 2)];

/// Batch norm with running statistics.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
}

impl Norm {
    fn new(p: &Path, channels: i64) -> Result<Self> {
        Ok(Norm {
            weight: p.param("weight", &[channels], Init::ONES)?,
            bias: p.param("bias", &[channels], Init::ZEROS)?,
            mean: p.buffer("running_mean", &[channels], Init::ZEROS)?,
            var: p.buffer("running_var", &[channels], Init::ONES)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (w, b, m, v) = (Some(&self.weight), Some(&self.bias), Some(&self.mean), Some(&self.var));
        Ok(x.f_batch_norm(w, b, m, v, false, 0.1, 1e-5, false)?)
    }
}

/// 1x1, 3x3 in groups, 1x1, each with batch norm; the sum with the shortcut; ReLU.
#[derive(Debug)]
struct Block {
    reduce: (Conv2d, Norm),
    grouped: Tensor,
    norm: Norm,
    stride: i64,
    expand: (Conv2d, Norm),
    shortcut: Option<(Conv2d, Norm)>,
}

impl Block {
    fn new(p: &Path, input: i64, out: i64, stride: i64) -> Result<Self> {
        let inner = CARDINALITY * 64 * (out / 256);
        let conv = |name: &str, i: i64, o: i64| Conv2d::without_bias(&(p / name), i, o, 1);
        let shortcut = if input == out {
            None
        } else {
            let q = p / "shortcut";
            let conv = Conv2d::without_bias(&(&q / "shortcut_conv"), input, out, 1)?.strided(stride, 0);
            Some((conv, Norm::new(&(&q / "shortcut_bn"), out)?))
        };
        Ok(Block {
            reduce: (conv("conv_reduce", input, inner)?, Norm::new(&(p / "bn_reduce"), inner)?),
            grouped: (p / "conv_conv").param(
                "weight",
                &[inner, inner / CARDINALITY, 3, 3],
                Init::KaimingUniform,
            )?,
            norm: Norm::new(&(p / "bn"), inner)?,
            stride,
            expand: (conv("conv_expand", inner, out)?, Norm::new(&(p / "bn_expand"), out)?),
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.reduce.1.forward(&self.reduce.0.forward(x)?)?.f_relu()?;
        let s = [self.stride; 2];
        let h = h.f_conv2d(&self.grouped, None::<&Tensor>, s, [1, 1], [1, 1], CARDINALITY)?;
        let h = self.norm.forward(&h)?.f_relu()?;
        let h = self.expand.1.forward(&self.expand.0.forward(&h)?)?;
        let skip = match &self.shortcut {
            Some((conv, norm)) => norm.forward(&conv.forward(x)?)?,
            None => x.shallow_clone(),
        };
        Ok(h.f_add(&skip)?.f_relu()?)
    }
}

/// The classifier.
#[derive(Debug)]
pub struct ResNext {
    stem: (Conv2d, Norm),
    blocks: Vec<Block>,
    classifier: Linear,
    mel: MelSpectrogram,
}

impl ResNext {
    /// The network with ten classes at `p`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(p: &Path) -> Result<Self> {
        let stem = (Conv2d::without_bias(&(p / "conv_1_3x3"), 1, 64, 3)?, Norm::new(&(p / "bn_1"), 64)?);
        let (mut blocks, mut input) = (Vec::new(), 64);
        for (s, (out, stride)) in STAGES.into_iter().enumerate() {
            for b in 0..3 {
                let name = format!("stage_{0}.stage_{0}_bottleneck_{b}", s + 1);
                blocks.push(Block::new(&(p / name), input, out, if b == 0 { stride } else { 1 })?);
                input = out;
            }
        }
        let classifier = Linear::new(&(p / "classifier"), input, 10)?;
        Ok(ResNext { stem, blocks, classifier, mel: MelSpectrogram::sc09() })
    }

    /// The network with the weights of the file `path`, a state dict in a `.pth` or `.safetensors` file. A prefix
    /// `module.` (of a module that was trained in parallel) and counters of batches are passed over.
    ///
    /// # Errors
    /// A model error where the file cannot be read or holds other tensors.
    pub fn open(path: &std::path::Path, device: Device) -> Result<(Store, Self)> {
        let model = |e: Error| e.kinded(crate::error::Kind::Model);
        let mut head = [0u8; 8];
        let mut file = std::fs::File::open(path).map_err(|e| model(Error::read(path, &e)))?;
        let _ = std::io::Read::read(&mut file, &mut head).map_err(|e| model(Error::read(path, &e)))?;
        let tensors = if head.starts_with(b"PK") || pth::is_pickle(&head) {
            pth::Checkpoint::open(path).and_then(|c| c.tensors())
        } else {
            safetensors::File::open(path).and_then(|f| f.tensors())
        };
        let hint = "the published resnext.pth is a whole pickled module: save its state_dict(), or a TorchScript of it";
        let tensors = tensors.map_err(|e| model(e).hint(hint))?;
        let tensors = tensors
            .into_iter()
            .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
            .map(|(name, t)| (name.strip_prefix("module.").unwrap_or(&name).to_owned(), t))
            .collect();
        let store = Store::empty(device, Kind::Float);
        let net = ResNext::new(&store.root())?;
        store.load(&tensors, &path.display().to_string()).map_err(|e| e.hint(hint))?;
        store.set_requires_grad(false)?;
        Ok((store, net))
    }

    /// Features `[B, 1024]` and logits `[B, 10]` of log-mel pictures `[B, 1, 32, 32]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn features(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut h = self.stem.1.forward(&self.stem.0.forward(x)?)?.f_relu()?;
        for block in &self.blocks {
            h = block.forward(&h)?;
        }
        let features = h.f_avg_pool2d([8, 8], [1, 1], [0, 0], false, true, None)?.f_flatten(1, -1)?;
        let logits = self.classifier.forward(&features)?;
        Ok((features, logits))
    }

    /// The same of waveforms `[B, 16000]` at 16 kHz.
    ///
    /// # Errors
    /// Where they have another length.
    pub fn of_waves(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        if x.size().get(1) != Some(&16_000) {
            return Err(
                Error::data(format!("sounds of shape {:?}", x.size())).why("16000 samples are needed")
            );
        }
        self.features(&self.mel.run(x)?.f_unsqueeze(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    #[test]
    fn it_has_the_published_size() {
        let store = Store::new(Device::Cpu, Kind::Float, 0);
        let net = ResNext::new(&store.root()).unwrap();
        assert_eq!(store.parameters(), 34_425_546);
        for (name, shape) in [
            ("stage_1.stage_1_bottleneck_0.conv_reduce.weight", vec![512, 64, 1, 1]),
            ("stage_1.stage_1_bottleneck_0.conv_conv.weight", vec![512, 64, 3, 3]),
            ("stage_1.stage_1_bottleneck_0.conv_expand.weight", vec![256, 512, 1, 1]),
            ("stage_3.stage_3_bottleneck_0.shortcut.shortcut_conv.weight", vec![1024, 512, 1, 1]),
            ("stage_2.stage_2_bottleneck_1.bn_expand.running_var", vec![512]),
            ("classifier.weight", vec![10, 1024]),
        ] {
            assert_eq!(store.get(name).map(|t| t.size()), Some(shape), "{name}");
        }
        let x = Generator::new(0).unwrap().normal(&[1, 16_000], Kind::Float).unwrap() * 0.1;
        let (features, logits) = tch::no_grad(|| net.of_waves(&x)).unwrap();
        assert_eq!((features.size(), logits.size()), (vec![1, 1024], vec![1, 10]));
        assert!(net.of_waves(&x.narrow(1, 0, 100)).is_err());
    }
}
