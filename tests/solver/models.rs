//! Models, noise and runs that the tests share.

use genlib::denoiser::{Denoiser, Mixture, Prediction};
use genlib::error::Result;
use genlib::net::Cond;
use genlib::noise::Noise;
use genlib::process::{At, Family, Point, Process, Span};
use genlib::solver::{Budget, GridKind, GridSpec, Plan, SolverSpec, plan};
use tch::{Kind, Tensor};

/// Set A: 0.3 N(-1, 0.2^2) + 0.7 N(0.5, 0.35^2).
pub const SET_A: [(f64, f64, f64); 2] = [(0.3, -1.0, 0.2), (0.7, 0.5, 0.35)];

pub fn exact(process: Box<dyn Process>, prediction: Prediction, set: &[(f64, f64, f64)]) -> Mixture {
    Mixture::one_dimensional(process, prediction, set).unwrap()
}

/// A column of f64 samples.
pub fn column(values: &[f64]) -> Tensor {
    Tensor::from_slice(values).reshape([-1, 1])
}

pub fn values(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(&x.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// Draw i is `f(i)` for every element.
pub struct Scripted<F: FnMut(usize) -> f64>(pub usize, pub F);

impl<F: FnMut(usize) -> f64> Noise for Scripted<F> {
    fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        self.0 += 1;
        Ok(like.full_like(self.1(self.0 - 1)))
    }
}

pub fn silent() -> impl Noise {
    Scripted(0, |_| 0.0)
}

/// Draw i is +-0.3 with alternating sign, `first` first.
pub fn alternating(first: f64) -> impl Noise {
    Scripted(0, move |i| if i.is_multiple_of(2) { first } else { -first })
}

/// Runs a plan and checks that it counts its calls right.
pub fn run_plan(plan: &mut Plan, model: &dyn Denoiser, x: Tensor, noise: &mut dyn Noise) -> Tensor {
    let solved = plan.run(model, &Cond::default(), x, noise, &mut |_| Ok(())).unwrap();
    if let Some(nfe) = plan.nfe() {
        assert_eq!(solved.nfe, nfe, "{plan:?}");
    }
    solved.x
}

/// The end of a run from one state.
pub fn end(spec: &SolverSpec, grid: &GridSpec, steps: usize, model: &dyn Denoiser, x: f64) -> f64 {
    end_with(spec, grid, steps, model, x, &mut silent())
}

pub fn end_with(
    spec: &SolverSpec,
    grid: &GridSpec,
    steps: usize,
    model: &dyn Denoiser,
    x: f64,
    noise: &mut dyn Noise,
) -> f64 {
    let mut plan = plan(spec, grid, Budget::Steps(steps), model.process()).unwrap();
    values(&run_plan(&mut plan, model, column(&[x]), noise))[0]
}

pub fn kind(kind: GridKind) -> GridSpec {
    GridSpec::from(kind)
}

/// A list of noise levels.
pub fn levels(values: &[f64]) -> GridSpec {
    let list: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
    format!("sigma:{}", list.join(",")).parse().unwrap()
}

/// A list of times.
pub fn times(values: &[f64]) -> GridSpec {
    let list: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
    format!("t:{}", list.join(",")).parse().unwrap()
}

/// VE in the time of its variance, `sigma = sqrt(t)`, as EDM's ablation sampler has it.
#[derive(Debug, Clone, Copy)]
pub struct RootVe;

impl Process for RootVe {
    fn span(&self) -> Span {
        Span { min: 0.02f64.powi(2), max: 1e4 }
    }
    fn alpha(&self, _t: f64) -> f64 {
        1.0
    }
    fn sigma(&self, t: f64) -> f64 {
        t.sqrt()
    }
    fn dalpha(&self, _t: f64) -> f64 {
        0.0
    }
    fn dsigma(&self, t: f64) -> f64 {
        0.5 / t.sqrt()
    }
    fn lambda(&self, t: f64) -> f64 {
        -0.5 * t.ln()
    }
    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        Ok((-2.0 * lambda).exp())
    }
    fn family(&self) -> Family {
        Family::VarianceExploding
    }
}

/// A model whose prediction depends on the point alone.
pub struct OfPoint<F: Fn(&Point) -> f64> {
    pub process: Box<dyn Process>,
    pub prediction: Prediction,
    pub f: F,
}

impl<F: Fn(&Point) -> f64> Denoiser for OfPoint<F> {
    fn prediction(&self) -> Prediction {
        self.prediction
    }
    fn process(&self) -> &dyn Process {
        self.process.as_ref()
    }
    fn predict(&self, x: &Tensor, at: &At, _cond: &Cond) -> Result<Tensor> {
        Ok(x.zeros_like() + at.coef(&self.f).tensor(x)?)
    }
}
