//! A network with its preconditioning and time units, as a model of a process.

use tch::{Device, Kind, Tensor};

use super::precond::{Precond, Scalings};
use super::{Denoiser, Prediction};
use crate::error::{Error, Result};
use crate::net::store::{Store, channels_last};
use crate::net::{Cond, Mode, Network};
use crate::process::{At, Process};
use crate::torch::shim::Autocast;

/// In which dtype and memory format a network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Dtype of its parameters: inputs are cast to it.
    pub kind: Kind,
    /// Autocast of its forward pass: bf16 or f16.
    pub autocast: Option<Kind>,
    /// Images are handed over channels-last (its weights should be so, too).
    pub channels_last: bool,
}

impl Default for Compute {
    fn default() -> Self {
        Compute { kind: Kind::Float, autocast: None, channels_last: false }
    }
}

impl Compute {
    /// Makes a network's weights ready to be run like this, without gradients: memory format, and the
    /// weights that autocast would cast at every call.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn prepare(self, store: &Store) -> Result<()> {
        store.set_requires_grad(false)?;
        if self.channels_last {
            store.channels_last()?;
        }
        self.autocast.map_or(Ok(()), |kind| store.cast_weights(kind))
    }

    /// One call of `net`: `x` `[B, ...]` of any dtype, output in the dtype that the network returns.
    ///
    /// # Errors
    /// Whatever the network fails with.
    pub fn run(self, net: &dyn Network, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let mut x = x.f_to_kind(self.kind)?;
        if self.channels_last && x.dim() == 4 {
            x = channels_last(&x)?;
        }
        let t = t.f_to_kind(self.kind)?;
        let cuda = matches!(x.device(), Device::Cuda(_));
        let _guard = self.autocast.map(|kind| Autocast::to(kind, cuda)).transpose()?;
        net.forward(&x, &t, cond, mode)
    }
}

/// A network as a [`Denoiser`].
#[derive(Debug)]
pub struct NetDenoiser {
    net: Box<dyn Network>,
    process: Box<dyn Process>,
    precond: Precond,
    compute: Compute,
    block: Option<i64>,
}

impl NetDenoiser {
    /// `net`, trained on `process` within `precond`, run as `compute` says.
    #[must_use]
    pub fn new(net: Box<dyn Network>, process: Box<dyn Process>, precond: Precond, compute: Compute) -> Self {
        NetDenoiser { net, process, precond, compute, block: None }
    }

    /// The same model, whose network always sees exactly `block` samples at once (the last block is filled
    /// up). Matrix products sum in an order that depends on their shape, so only this makes a sample the
    /// same to the last bit in batches of any size.
    #[must_use]
    pub fn in_blocks(self, block: i64) -> Self {
        NetDenoiser { block: Some(block.max(1)), ..self }
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &dyn Network {
        self.net.as_ref()
    }

    /// The scalings around the network.
    #[must_use]
    pub fn precond(&self) -> &Precond {
        &self.precond
    }
}

impl NetDenoiser {
    /// The network's raw output, in blocks if asked for.
    fn call(&self, x: &Tensor, t: &Tensor, cond: &Cond) -> Result<Tensor> {
        let batch = x.size()[0];
        let run =
            |x: &Tensor, t: &Tensor, cond: &Cond| self.compute.run(self.net.as_ref(), x, t, cond, Mode::Eval);
        let Some(block) = self.block.filter(|&block| block != batch && batch > 0) else {
            return run(x, t, cond);
        };
        let mut outs = Vec::new();
        for start in (0..batch).step_by(usize::try_from(block).unwrap_or(1)) {
            let n = block.min(batch - start);
            let part = |t: &Tensor| -> Result<Tensor> {
                if n == block {
                    return Ok(t.f_narrow(0, start, n)?);
                }
                // The last sample, as often as it takes.
                let index = Tensor::f_arange_start(start, start + block, (Kind::Int64, t.device()))?;
                Ok(t.f_index_select(0, &index.f_clamp_max(batch - 1)?)?)
            };
            let optional = |t: &Option<Tensor>| t.as_ref().map(part).transpose();
            let cond = Cond {
                class: optional(&cond.class)?,
                augment: optional(&cond.augment)?,
                mel: optional(&cond.mel)?,
            };
            outs.push(run(&part(x)?, &part(t)?, &cond)?.f_narrow(0, 0, n)?);
        }
        Ok(Tensor::f_cat(&outs, 0)?)
    }
}

impl Denoiser for NetDenoiser {
    fn prediction(&self) -> Prediction {
        self.precond.prediction()
    }

    fn process(&self) -> &dyn Process {
        self.process.as_ref()
    }

    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        let batch = x.size().first().copied().unwrap_or(0);
        let scalings: Vec<Scalings> = at.points().iter().map(|p| self.precond.at(p)).collect();
        if scalings.len() != 1 && i64::try_from(scalings.len()) != Ok(batch) {
            return Err(Error::run(format!("{} times for {batch} samples", scalings.len())));
        }
        let input = scaled(x, &scalings, |s| s.input)?;
        let time = match scalings.as_slice() {
            [one] => Tensor::f_full([batch], one.time, (Kind::Double, x.device()))?,
            each => upload(each.iter().map(|s| s.time), x.device())?,
        };
        let out = self.call(&input, &time, cond)?;
        let out = scaled(&out.f_to_kind(x.kind())?, &scalings, |s| s.out)?;
        if scalings.iter().all(|s| s.skip == 0.0) {
            return Ok(out);
        }
        Ok(scaled(x, &scalings, |s| s.skip)?.f_add(&out)?)
    }
}

/// `factor x` with one factor for all samples or one for each.
#[allow(clippy::float_cmp)]
fn scaled(x: &Tensor, scalings: &[Scalings], factor: impl Fn(&Scalings) -> f64) -> Result<Tensor> {
    if scalings.iter().all(|s| factor(s) == 1.0) {
        return Ok(x.shallow_clone());
    }
    if let [one] = scalings {
        return Ok(x.f_mul_scalar(factor(one))?);
    }
    let factors = upload(scalings.iter().map(factor), x.device())?.f_to_kind(x.kind())?;
    let mut shape = vec![1; x.dim()];
    shape[0] = -1;
    Ok(x.f_mul(&factors.f_view(shape.as_slice())?)?)
}

fn upload(values: impl Iterator<Item = f64>, device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&values.collect::<Vec<f64>>())?.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::spec::NetSpec;
    use crate::process::{Flow, Point};
    use crate::torch::shim::Generator;

    /// Returns `x + t`, in f32 whatever it is given.
    #[derive(Debug)]
    struct AddTime;

    impl Network for AddTime {
        fn forward(&self, x: &Tensor, t: &Tensor, _: &Cond, _: Mode) -> Result<Tensor> {
            assert_eq!((x.kind(), t.kind(), t.size()), (Kind::Float, Kind::Float, vec![x.size()[0]]));
            Ok(x + t.reshape([-1, 1]))
        }
        fn sample_shape(&self) -> &[i64] {
            &[3]
        }
    }

    fn denoiser(precond: Precond) -> NetDenoiser {
        NetDenoiser::new(Box::new(AddTime), Box::new(Flow), precond, Compute::default())
    }

    #[test]
    fn one_time_for_all_equals_the_same_time_for_each() {
        let x = Generator::new(1).unwrap().normal(&[4, 3], Kind::Double).unwrap();
        for precond in [Precond::Edm { sigma_data: 0.5 }, Precond::Vp { beta_0: 0.1, beta_1: 20.0 }] {
            let d = denoiser(precond);
            let p = Point::new(&Flow, 0.4);
            let all = d.predict(&x, &At::all(p), &Cond::default()).unwrap();
            let each = d.predict(&x, &At::each(vec![p; 4]), &Cond::default()).unwrap();
            assert_eq!(all.kind(), Kind::Double);
            assert!((all - each).abs().max().double_value(&[]) < 1e-7);
        }
    }

    #[test]
    fn in_blocks_a_sample_does_not_depend_on_its_batch() {
        let _guard = tch::no_grad_guard();
        let store = Store::new(Device::Cpu, Kind::Float, 1);
        let spec: NetSpec = toml::from_str("type = \"mlp\"\nwidths = [256, 256]").unwrap();
        let net = spec.build(&store.root(), &[64], 10).unwrap();
        let process = denoiser(Precond::Ve).process;
        let d =
            NetDenoiser::new(net, process, Precond::Edm { sigma_data: 0.5 }, Compute::default()).in_blocks(4);
        let x = Generator::new(3).unwrap().normal(&[7, 64], Kind::Float).unwrap();
        let class = Tensor::arange(7, (Kind::Int64, Device::Cpu));
        let at = At::all(Point::new(d.process(), 0.4));
        let run = |from: i64, n: i64| {
            let cond = Cond { class: Some(class.narrow(0, from, n)), ..Cond::default() };
            d.predict(&x.narrow(0, from, n), &at, &cond).unwrap()
        };
        let whole = run(0, 7);
        assert_eq!(whole.size(), [7, 64]);
        for i in 0..7 {
            assert!(run(i, 1).equal(&whole.narrow(0, i, 1)), "{i}");
        }
        assert!(run(2, 4).equal(&whole.narrow(0, 2, 4)));
    }

    #[test]
    fn prepared_weights_give_what_autocast_gives() {
        let _guard = tch::no_grad_guard();
        let store = Store::new(Device::Cpu, Kind::Float, 1);
        let spec: NetSpec = toml::from_str("type = \"mlp\"\nwidths = [64, 64]").unwrap();
        let net = spec.build(&store.root(), &[16], 0).unwrap();
        let compute = Compute { kind: Kind::Float, autocast: Some(Kind::BFloat16), channels_last: true };
        let x = Generator::new(3).unwrap().normal(&[5, 16], Kind::Float).unwrap();
        let t = Tensor::linspace(0.1, 0.9, 5, (Kind::Float, Device::Cpu));
        let run = || compute.run(net.as_ref(), &x, &t, &Cond::default(), Mode::Eval).unwrap();
        let want = run();
        compute.prepare(&store).unwrap();
        assert!(store.trainable().iter().all(|(_, w)| (w.kind() == Kind::BFloat16) == (w.dim() >= 2)));
        assert!(run().equal(&want));
    }

    #[test]
    fn each_sample_has_its_own_time() {
        let x = Generator::new(2).unwrap().normal(&[2, 3], Kind::Double).unwrap();
        let d = denoiser(Precond::Edm { sigma_data: 0.5 });
        let points = [0.2, 0.7].map(|t| Point::new(&Flow, t));
        let y = d.predict(&x, &At::each(points.to_vec()), &Cond::default()).unwrap();
        for (i, p) in points.iter().enumerate() {
            let s = d.precond().at(p);
            let xi = x.get(i as i64);
            let want = &xi * s.skip + (&xi * s.input + s.time) * s.out;
            assert!((y.get(i as i64) - want).abs().max().double_value(&[]) < 1e-6);
        }
        assert!(d.predict(&x, &At::each(vec![points[0]; 3]), &Cond::default()).is_err());
    }
}
