//! The Inception network of FID (Szegedy et al. 2016, "Rethinking the Inception architecture", in the form of the
//! TensorFlow graph of 2015-12-05), natively.
//!
//! Against torchvision's `inception_v3` it has 1008 classes, average pools that leave the padding out of the
//! count, a maximum pool in the last block, and batch normalisation with eps 1e-3. Batch normalisation is folded
//! into the convolutions in f64, and on the CPU a convolution and its ReLU are one pass over memory.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::features::{Extractor, Features, Wanted, check_images, to_rgb};
use super::inception_weights::{Weights, units};
use super::resize::Protocol;
use crate::error::{Error, Result};
use crate::net::store::channels_last;
use crate::torch::shim::conv::ConvRelu;

/// Side of the network's input.
pub const SIDE: i64 = 299;
/// Name of the network in reports and statistics files.
pub const NAME: &str = "inception-2015-12-05";

/// Which layer the features are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layer {
    /// Spatial means after the first maximum pool: 64 numbers.
    First,
    /// Spatial means after the second maximum pool: 192 numbers.
    Second,
    /// Spatial means after `Mixed_6e`: 768 numbers.
    Third,
    /// The global average of the last block, `pool3`: 2048 numbers. What FID is defined on.
    #[default]
    Last,
}

impl Layer {
    /// Numbers per image.
    #[must_use]
    pub fn width(self) -> i64 {
        match self {
            Layer::First => 64,
            Layer::Second => 192,
            Layer::Third => 768,
            Layer::Last => 2048,
        }
    }

    /// The layer with that many numbers per image.
    #[must_use]
    pub fn of_width(width: i64) -> Option<Self> {
        [Layer::First, Layer::Second, Layer::Third, Layer::Last].into_iter().find(|l| l.width() == width)
    }
}

/// A convolution with folded normalisation, followed by a ReLU.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: [i64; 2],
    /// The same in one pass, made for the first input; nothing where that is not possible.
    fused: OnceCell<Option<ConvRelu>>,
}

impl Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if ConvRelu::suits(x) {
            let (n, c, h, w) = x.size4()?;
            let make =
                || ConvRelu::new(&self.weight, &self.bias, self.padding, self.stride, [n, c, h, w]).ok();
            if let Some(fused) = self.fused.get_or_init(make) {
                return fused.forward(x);
            }
        }
        let mut y = x.f_conv2d(&self.weight, Some(&self.bias), self.stride, self.padding, 1, 1)?;
        Ok(y.f_relu_()?)
    }
}

/// The network.
#[derive(Debug)]
pub struct Inception {
    convs: HashMap<String, Conv>,
    fc_weight: Tensor,
    fc_bias: Tensor,
    device: Device,
}

/// Everything a forward pass can give, f32.
#[derive(Debug)]
pub struct Activations {
    /// Global average of the last block, `[N, 2048]`.
    pub pool3: Tensor,
    /// Logits without the output bias, `[N, 1008]`.
    pub logits: Option<Tensor>,
    /// First 7 channels of `Mixed_6d.branch1x1` in NHWC order, `[N, 2023]`.
    pub spatial: Option<Tensor>,
    /// Spatial means after the first and second maximum pool and after `Mixed_6e`: 64, 192 and 768 numbers.
    pub means: Option<[Tensor; 3]>,
}

impl Inception {
    /// The network with `weights` on `device`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(weights: &Weights, device: Device) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let mut convs = HashMap::new();
        for unit in units() {
            let part = |name: &str| -> Result<Tensor> {
                Ok(weights.get(&format!("{}.{name}", unit.name))?.f_to_kind(Kind::Double)?)
            };
            // y = g conv(x) + (b - mean g), g = gamma / sqrt(var + 1e-3).
            let g = part("bn.weight")?.f_div(&part("bn.running_var")?.f_add_scalar(1e-3)?.f_sqrt()?)?;
            let bias = part("bn.bias")?.f_sub(&part("bn.running_mean")?.f_mul(&g)?)?;
            let weight = part("conv.weight")?.f_mul(&g.f_view([-1, 1, 1, 1])?)?;
            let place = |t: &Tensor| t.f_to_kind(Kind::Float)?.f_to_device(device);
            let conv = Conv {
                weight: place(&weight)?,
                bias: place(&bias)?,
                stride: unit.stride,
                padding: unit.padding,
                fused: OnceCell::new(),
            };
            convs.insert(unit.name, conv);
        }
        let place = |name: &str| -> Result<Tensor> { Ok(weights.get(name)?.f_to_device(device)?) };
        Ok(Inception { convs, fc_weight: place("fc.weight")?, fc_bias: place("fc.bias")?, device })
    }

    fn conv(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.convs.get(name).ok_or_else(|| Error::model(format!("no unit `{name}`")))?.forward(x)
    }

    /// Convolutions `BLOCK.NAME` one after another.
    fn chain(&self, block: &str, names: &[&str], x: &Tensor) -> Result<Tensor> {
        let mut y = x.shallow_clone();
        for name in names {
            y = self.conv(&format!("{block}.{name}"), &y)?;
        }
        Ok(y)
    }

    fn block_a(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let branches = [
            self.chain(block, &["branch1x1"], x)?,
            self.chain(block, &["branch5x5_1", "branch5x5_2"], x)?,
            self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x)?,
            self.chain(block, &["branch_pool"], &average_pool(x)?)?,
        ];
        Ok(Tensor::f_cat(&branches, 1)?)
    }

    fn block_b(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let branches = [
            self.chain(block, &["branch3x3"], x)?,
            self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x)?,
            max_pool(x, 2, 0)?,
        ];
        Ok(Tensor::f_cat(&branches, 1)?)
    }

    /// The block's output, and its branch of 1 x 1 (which sFID looks at).
    fn block_c(&self, block: &str, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let double =
            ["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"];
        let branches = [
            self.chain(block, &["branch1x1"], x)?,
            self.chain(block, &["branch7x7_1", "branch7x7_2", "branch7x7_3"], x)?,
            self.chain(block, &double, x)?,
            self.chain(block, &["branch_pool"], &average_pool(x)?)?,
        ];
        let out = Tensor::f_cat(&branches, 1)?;
        let [first, ..] = branches;
        Ok((out, first))
    }

    fn block_d(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let seven = ["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"];
        let branches = [
            self.chain(block, &["branch3x3_1", "branch3x3_2"], x)?,
            self.chain(block, &seven, x)?,
            max_pool(x, 2, 0)?,
        ];
        Ok(Tensor::f_cat(&branches, 1)?)
    }

    fn block_e(&self, block: &str, x: &Tensor, pooled: &Tensor) -> Result<Tensor> {
        let three = self.chain(block, &["branch3x3_1"], x)?;
        let double = self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2"], x)?;
        let branches = [
            self.chain(block, &["branch1x1"], x)?,
            self.chain(block, &["branch3x3_2a"], &three)?,
            self.chain(block, &["branch3x3_2b"], &three)?,
            self.chain(block, &["branch3x3dbl_3a"], &double)?,
            self.chain(block, &["branch3x3dbl_3b"], &double)?,
            self.chain(block, &["branch_pool"], pooled)?,
        ];
        Ok(Tensor::f_cat(&branches, 1)?)
    }

    fn first(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.f_to_device(self.device)?;
        // On the CPU the channels-last format is the fast one; it stays through all layers.
        let mut x = if self.device == Device::Cpu { channels_last(&x)? } else { x };
        for name in ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"] {
            x = self.conv(name, &x)?;
        }
        max_pool(&x, 2, 0)
    }

    fn second(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.conv("Conv2d_4a_3x3", &self.conv("Conv2d_3b_1x1", x)?)?;
        max_pool(&x, 2, 0)
    }

    /// The output of `Mixed_6e`, and the spatial features of sFID where they are wanted.
    fn third(&self, x: &Tensor, spatial: bool) -> Result<(Tensor, Option<Tensor>)> {
        let mut x = x.shallow_clone();
        for name in ["Mixed_5b", "Mixed_5c", "Mixed_5d"] {
            x = self.block_a(name, &x)?;
        }
        x = self.block_b("Mixed_6a", &x)?;
        let mut map = None;
        for name in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"] {
            let (out, first) = self.block_c(name, &x)?;
            if spatial && name == "Mixed_6d" {
                // TensorFlow's order: index (y 17 + x) 7 + c.
                let seven = first.f_narrow(1, 0, 7)?.f_permute([0, 2, 3, 1])?;
                map = Some(seven.f_reshape([seven.size()[0], -1])?);
            }
            x = out;
        }
        Ok((x, map))
    }

    fn last(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.block_d("Mixed_7a", x)?;
        let x = self.block_e("Mixed_7b", &x, &average_pool(&x)?)?;
        let x = self.block_e("Mixed_7c", &x, &max_pool(&x, 1, 1)?)?;
        spatial_mean(&x)
    }

    /// A pass over `x`, `[N, 3, 299, 299]` f32, resized and scaled by a [`Protocol`].
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn forward(&self, x: &Tensor, wanted: Wanted, means: bool) -> Result<Activations> {
        let _no_grad = tch::no_grad_guard();
        let first = self.first(x)?;
        let second = self.second(&first)?;
        let (third, spatial) = self.third(&second, wanted.spatial)?;
        let means = match means {
            true => Some([spatial_mean(&first)?, spatial_mean(&second)?, spatial_mean(&third)?]),
            false => None,
        };
        let pool3 = self.last(&third)?;
        let logits = match wanted.logits {
            true => Some(pool3.f_matmul(&self.fc_weight.f_transpose(0, 1)?)?),
            false => None,
        };
        Ok(Activations { pool3, logits, spatial, means })
    }

    /// Spatial means of `layer` for `x` as in [`Inception::forward`]; later layers are not computed.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn layer(&self, x: &Tensor, layer: Layer) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let mut x = self.first(x)?;
        if layer != Layer::First {
            x = self.second(&x)?;
            if layer != Layer::Second {
                x = self.third(&x, false)?.0;
                if layer == Layer::Last {
                    return self.last(&x);
                }
            }
        }
        spatial_mean(&x)
    }

    /// The bias of the output, which the Inception Score leaves out, `[1008]`.
    pub fn output_bias(&self) -> &Tensor {
        &self.fc_bias
    }

    /// The device the network is on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }
}

fn spatial_mean(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?)
}

/// 3 x 3, stride 1; border windows are divided by the pixels they hold.
fn average_pool(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)?)
}

fn max_pool(x: &Tensor, stride: i64, padding: i64) -> Result<Tensor> {
    Ok(x.f_max_pool2d([3, 3], [stride, stride], [padding, padding], [1, 1], false)?)
}

/// The network with a resizing protocol.
#[derive(Debug)]
pub struct InceptionExtractor {
    net: Inception,
    protocol: Protocol,
    layer: Layer,
    weights_sha256: Option<String>,
}

impl InceptionExtractor {
    /// Around a network.
    #[must_use]
    pub fn new(net: Inception, protocol: Protocol, weights_sha256: Option<String>) -> Self {
        InceptionExtractor { net, protocol, layer: Layer::Last, weights_sha256 }
    }

    /// Reads the weights at `path`.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open(path: &Path, protocol: Protocol, device: Device, allow_unverified: bool) -> Result<Self> {
        let weights = Weights::open(path, allow_unverified)?;
        let net = Inception::new(&weights, device)?;
        Ok(Self::new(net, protocol, weights.sha256))
    }

    /// The same with the features of another layer.
    #[must_use]
    pub fn with_layer(self, layer: Layer) -> Self {
        InceptionExtractor { layer, ..self }
    }
}

impl Extractor for InceptionExtractor {
    fn name(&self) -> String {
        match self.layer {
            Layer::Last => NAME.to_owned(),
            other => format!("{NAME}:{}", other.width()),
        }
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(self.protocol)
    }

    fn weights_sha256(&self) -> Option<String> {
        self.weights_sha256.clone()
    }

    fn channels(&self) -> Option<usize> {
        Some(3)
    }

    fn any_size(&self) -> bool {
        true
    }

    fn can(&self) -> Wanted {
        let whole = self.layer == Layer::Last;
        Wanted { logits: whole, spatial: whole }
    }

    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        check_images(images)?;
        let _no_grad = tch::no_grad_guard();
        self.protocol.prepare(&to_rgb(&images.f_to_device(self.net.device)?)?, SIDE, SIDE)
    }

    fn forward(&self, input: &Tensor, wanted: Wanted) -> Result<Features> {
        if self.layer != Layer::Last {
            return Ok(Features { pool: self.net.layer(input, self.layer)?, logits: None, spatial: None });
        }
        let out = self.net.forward(input, wanted, false)?;
        Ok(Features { pool: out.pool3, logits: out.logits, spatial: out.spatial })
    }
}
