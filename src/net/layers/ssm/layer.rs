//! The layer: parameters, and the long convolution they make.

use tch::{Kind, Tensor};

use super::config::{DtTransform, RealTransform, S4Config, SsmMode};
use super::convolve::convolve;
use super::discrete::{Continuous, Discrete, complex_row, real_row};
use super::first::{Complex, stored_real, systems};
use super::kernel::{self, columns, columns_of, rows};
use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;
use crate::net::layers::init::Init;
use crate::net::store::Path;
use crate::optim::Group;

/// A state-space layer of H features, `y = K * u + D u`, without what usually follows (GELU, a linear map).
///
/// Parameters: `D` `[1, H]` and, below `kernel`, `inv_dt` `[H, 1]`, `A_real` and `A_imag` `[S, N/2]`, `B`
/// `[1, S, N/2, 2]`, `C` `[channels, H, N/2, 2]` and (DPLR) `P` `[rank, S, N/2, 2]`: real numbers, the last dimension
/// of 2 holding real and imaginary parts; `a = -exp(A_real) - i A_imag`; feature h uses copy `h mod S`.
#[derive(Debug)]
pub struct S4 {
    config: S4Config,
    d: Tensor,
    inv_dt: Tensor,
    a_real: Tensor,
    a_imag: Tensor,
    b: Tensor,
    c: Tensor,
    p: Option<Tensor>,
}

impl S4 {
    /// The layer at `path`.
    ///
    /// # Errors
    /// Where the options make no layer, a name is taken, or libtorch fails.
    pub fn new(path: &Path, config: &S4Config) -> Result<Self> {
        config.check()?;
        let (h, n, s) = (config.d_model, config.half(), config.copies());
        let k = path / "kernel";
        let own = Group { lr: (config.lr > 0.0).then_some(config.lr), weight_decay: Some(0.0) };
        // The copies are drawn once, whatever asks first.
        let list = systems(config, k.seed("systems"))?;
        let flat = |of: &dyn Fn(&super::first::System) -> Vec<f64>| -> Vec<f64> {
            list.iter().flat_map(of).collect()
        };
        let pairs = |z: &[Complex]| -> Vec<f64> { z.iter().flat_map(|z| [z.0, z.1]).collect() };
        let real = flat(&|x| x.a.iter().map(|a| stored_real(-a.0, config.real_transform)).collect());
        let imag = flat(&|x| x.a.iter().map(|a| (-a.1).max(1e-4)).collect());
        let b = flat(&|x| pairs(&x.b));
        let rank = config.rank;
        let p: Vec<f64> = (0..usize::try_from(rank).unwrap_or(1))
            .flat_map(|j| list.iter().flat_map(move |x| x.p[j].iter().flat_map(|z| [z.0, z.1])))
            .collect();
        let dt = first_steps(config, k.seed("inv_dt"));
        Ok(S4 {
            d: path.param("D", &[1, h], Init::Normal(1.0))?,
            inv_dt: k.param_of("inv_dt", &[h, 1], &dt, own)?,
            a_real: k.param_of("A_real", &[s, n], &real, own)?,
            a_imag: k.param_of("A_imag", &[s, n], &imag, own)?,
            b: k.param_of("B", &[1, s, n, 2], &b, own)?,
            c: k.param("C", &[config.channels(), h, n, 2], Init::Normal(0.5f64.sqrt()))?,
            p: (config.mode == SsmMode::Dplr)
                .then(|| k.param_of("P", &[rank, s, n, 2], &p, own))
                .transpose()?,
            config: config.clone(),
        })
    }

    /// The options.
    #[must_use]
    pub fn config(&self) -> &S4Config {
        &self.config
    }

    /// Factor of the input in the output, `[H]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn skip(&self) -> Result<Tensor> {
        Ok(self.d.f_select(0, 0)?)
    }

    /// The continuous system with steps `rate` times as long.
    fn continuous(&self, rate: f64) -> Result<Continuous> {
        let wide = |t: &Tensor| t.f_to_kind(Kind::Double);
        let real = transformed(&wide(&self.a_real)?, self.config.real_transform)?.f_neg()?;
        let a = Tensor::f_complex(&real, &wide(&self.a_imag)?.f_neg()?)?;
        let dt = wide(&self.inv_dt)?;
        let dt = match self.config.dt_transform {
            DtTransform::Exp => dt.f_exp()?,
            DtTransform::Softplus => dt.f_softplus()?,
        };
        let times = self.config.d_model / self.config.copies();
        let complex = |t: &Tensor| -> Result<Tensor> { Ok(wide(t)?.f_contiguous()?.f_view_as_complex()?) };
        let p = self.p.as_ref().map(|p| -> Result<Tensor> { Ok(complex(p)?.f_repeat([1, times, 1])?) });
        Ok(Continuous {
            a: a.f_repeat([times, 1])?,
            b: complex(&self.b)?.f_select(0, 0)?.f_repeat([times, 1])?,
            c: complex(&self.c)?,
            p: p.transpose()?,
            dt: dt.f_mul_scalar(rate)?,
        })
    }

    /// The recurrence with steps `rate` times as long.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn discrete(&self, rate: f64) -> Result<Discrete> {
        self.continuous(rate)?.discretise(self.config.discretisation())
    }

    /// The kernels `[channels, H, len]` with steps `rate` times as long (2 for half the sample rate), in the dtype of
    /// the parameters.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn kernel(&self, len: i64, rate: f64) -> Result<Tensor> {
        Ok(kernel::kernel(&self.discrete(rate)?, len)?.f_to_kind(self.c.kind())?)
    }

    /// The same by the Cauchy form of the generating function, in the dtype of the parameters; none where the layer
    /// has no low-rank part, or is not bilinear.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn kernel_by_cauchy(&self, len: i64, rate: f64) -> Result<Option<Tensor>> {
        let continuous = self.continuous(rate)?;
        let system = continuous.discretise(super::Discretisation::Bilinear)?;
        kernel::by_cauchy(&continuous, &system, len, self.c.kind())
    }

    /// C `[channels, H, N/2, 2]` of a layer whose own C is already `C (I - Ab^len)`, the row of a kernel that ends at
    /// `len`, as published checkpoints store it.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn uncorrected(&self, len: i64) -> Result<Tensor> {
        let system = self.discrete(1.0)?;
        let power = system.matrix()?.f_linalg_matrix_power(len)?;
        let eye = Tensor::f_eye(self.config.d_state, (Kind::Double, power.device()))?;
        // c (I - Ab^len) = ct, transposed.
        let transposed = eye.f_sub(&power)?.f_transpose(1, 2)?;
        let ct = real_row(&system.c)?.f_permute([1, 2, 0])?;
        let c = Tensor::f_linalg_solve(&transposed, &ct, true)?.f_permute([2, 0, 1])?;
        Ok(complex_row(&c)?.f_view_as_real()?.f_to_kind(self.c.kind())?)
    }

    /// `u` `[B, H, L]` to `K * u + D u`, `[B, H, L]`, in f32 (f64 with f64 parameters) also under autocast.
    ///
    /// # Errors
    /// Where shapes do not fit, or libtorch fails.
    pub fn convolve(&self, u: &Tensor) -> Result<Tensor> {
        let size = u.size();
        if size.len() != 3 || size[1] != self.config.d_model || size[2] < 1 {
            return Err(Error::run("the state-space layer's input")
                .why(format!("expected [batch, {}, length], got {size:?}", self.config.d_model)));
        }
        let y = convolve(u, &self.kernel(size[2], 1.0)?)?;
        Ok(y.f_addcmul(&u.f_to_kind(y.kind())?, &self.d.f_unsqueeze(-1)?)?)
    }

    /// As [`S4::convolve`], going on from the state `x` `[B, H, N]` (real parts, then imaginary parts) after earlier
    /// input; also the state after the last input.
    ///
    /// # Errors
    /// Where the layer is bidirectional, shapes do not fit, or libtorch fails.
    pub fn convolve_from(&self, u: &Tensor, x: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        if self.config.bidirectional {
            return Err(Error::run("a bidirectional layer has no state to go on from"));
        }
        let mut y = self.convolve(u)?;
        let (len, batch) = (u.size()[2], u.size()[0]);
        let system = self.discrete(1.0)?;
        let count = columns_of(len);
        let (columns, squares) = columns(&system, count)?;
        let whole = &squares[squares.len() - 1];
        if let Some(x) = x {
            // C Ab^(k+1) x, two levels again.
            let x = x.f_to_kind(Kind::Double)?.f_unsqueeze(-1)?;
            let mut list = squares[0].f_matmul(&x)?;
            for square in &squares[..squares.len() - 1] {
                list = Tensor::f_cat(&[&list, &square.f_matmul(&list)?], -1)?;
            }
            let levels = (len + count - 1) / count;
            let free = rows(&system, whole, levels)?.f_matmul(&list)?;
            let free = free.f_reshape([batch, self.config.d_model, levels * count])?.f_narrow(2, 0, len)?;
            y = y.f_add(&free.f_to_kind(y.kind())?)?;
        }
        let size = [batch, self.config.d_model, self.config.d_state];
        let mut state = match x {
            Some(x) => x.f_to_kind(Kind::Double)?,
            None => Tensor::f_zeros(size, (Kind::Double, u.device()))?,
        };
        // x <- Ab^n x + sum_l Ab^(n-1-l) Bb u_l, chunk after chunk.
        let u = u.f_to_kind(Kind::Double)?;
        let mut from = 0;
        while from < len {
            let n = count.min(len - from);
            let mut moved = state.f_unsqueeze(-1)?;
            for (j, square) in squares.iter().enumerate().filter(|(j, _)| n >> j & 1 == 1) {
                debug_assert!(1i64 << j <= n);
                moved = square.f_matmul(&moved)?;
            }
            let back = columns.f_narrow(2, 0, n)?.f_flip([-1])?;
            let input = u.f_narrow(2, from, n)?.f_unsqueeze(-1)?;
            state = moved.f_add(&back.f_matmul(&input)?)?.f_squeeze_dim(-1)?;
            from += n;
        }
        Ok((y, state))
    }
}

/// The negated real part of A from what is stored.
fn transformed(v: &Tensor, transform: RealTransform) -> Result<Tensor> {
    Ok(match transform {
        RealTransform::Exp => v.f_exp()?,
        RealTransform::Relu => v.f_relu()?.f_add_scalar(1e-4)?,
        RealTransform::Softplus => v.f_softplus()?,
        RealTransform::Sigmoid => v.f_sigmoid()?,
        RealTransform::None => v.shallow_clone(),
    })
}

/// What is stored for first step sizes: log-uniform between the limits.
fn first_steps(config: &S4Config, seed: u64) -> Vec<f64> {
    let (low, high) = (config.dt_min.ln(), config.dt_max.ln());
    let mut random = SplitMix64::new(seed);
    let mut draw = || {
        let log = low + (high - low) * random.uniform();
        match config.dt_transform {
            DtTransform::Exp => log,
            DtTransform::Softplus => log.exp().exp_m1().ln(),
        }
    };
    (0..config.d_model).map(|_| draw()).collect()
}
