//! Which settings a solver has, and in what range.

use super::options::{Compat, Control, Form, Langevin, LowerOrderFinal, SolverType, Variant};
use super::spec::{SolverName, SolverSpec, serde_name};
use crate::error::{Error, Result};

impl SolverSpec {
    /// Checks that every setting given is one the solver has, and is in its range.
    pub(super) fn validate(&self) -> Result<()> {
        use SolverName::{
            Ddim, Ddpm, Deis, Dpm, DpmAdaptive, DpmPp, DpmPpSde, Edm, Euler, EulerMaruyama, Heun, Ipndm,
            Kdpm2, Pndm, ReverseDiffusion, Rk45, SdeDpmPp, Unipc,
        };
        let multistep = [Dpm, DpmPp, SdeDpmPp, Unipc, Deis];
        let given: [(&str, bool, &[SolverName]); 17] = [
            ("method", self.method.is_some(), &[Dpm, DpmPp]),
            ("solver-type", self.solver_type.is_some(), &[Dpm, DpmPp, SdeDpmPp, Unipc, DpmAdaptive]),
            ("form", self.form.is_some(), &[SdeDpmPp, Unipc, Kdpm2, DpmAdaptive]),
            ("variant", self.variant.is_some(), &[Deis]),
            ("tableau", self.tableau.is_some(), &[Deis]),
            ("eta", self.eta.is_some(), &[Ddim, EulerMaruyama, Kdpm2, DpmPpSde]),
            ("variance", self.variance.is_some(), &[Ddpm]),
            ("churn", self.churn.is_some(), &[Edm]),
            ("langevin", self.langevin.is_some(), &[ReverseDiffusion, EulerMaruyama, Ddpm]),
            ("corrector", self.corrector.is_some(), &[Unipc]),
            ("warm-up", self.warmup.is_some(), &[Pndm]),
            ("euler-at-final", self.euler_at_final, &[Dpm, DpmPp, SdeDpmPp]),
            ("lower-order-final", self.lower_order_final != LowerOrderFinal::Auto, &multistep),
            (
                "compat",
                self.compat != Compat::None,
                &[
                    Ddim,
                    Ddpm,
                    Pndm,
                    Euler,
                    Heun,
                    EulerMaruyama,
                    ReverseDiffusion,
                    Dpm,
                    DpmPp,
                    SdeDpmPp,
                    Deis,
                    Ipndm,
                ],
            ),
            ("rtol and atol", self.rtol.is_some() || self.atol.is_some(), &[Rk45, DpmAdaptive]),
            ("clamp", self.clamp.is_some(), &[Ddpm, Ddim]),
            ("control", self.control != Control::Sample, &[Rk45, DpmAdaptive]),
        ];
        for (setting, is_given, names) in given {
            if is_given && !names.contains(&self.name) {
                let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
                return Err(Error::usage(format!("{} has no {setting}", self.name.as_str()))
                    .at("--solver")
                    .why(format!("{setting} belongs to {}", names.join(", "))));
            }
        }
        self.order()?;
        let unipc = self.name == Unipc;
        if let Some(kind) = self.solver_type
            && matches!(kind, SolverType::Bh1 | SolverType::Bh2) != unipc
        {
            let allowed = if unipc { "bh1, bh2" } else { "midpoint, heun" };
            return Err(Error::usage(format!(
                "{} has no solver type {}",
                self.name.as_str(),
                serde_name(&kind)
            ))
            .at("--solver-type")
            .why(format!("it has {allowed}")));
        }
        if self.tableau.is_some() && self.variant() != Variant::Rhork {
            return Err(Error::usage("a tableau needs the variant rhork").at("--variant"));
        }
        if let Some(threshold) = self.threshold {
            threshold.validate()?;
            // Published code thresholds the data and makes it noise again.
            if self.form() == Some(Form::Noise) && self.compat != Compat::Reference {
                return Err(Error::usage("thresholding needs a solver that works with the predicted data")
                    .at("--threshold")
                    .why(format!("{} works with the predicted noise", self.name.as_str()))
                    .hint("use --solver dpm++, or another solver in data form"));
            }
        }
        let positive = [("rtol", self.rtol), ("atol", self.atol), ("clamp", self.clamp)];
        for (setting, value) in positive {
            if value.is_some_and(|v| !(v > 0.0 && v.is_finite())) {
                return Err(
                    Error::usage(format!("{setting} must be a positive number")).at(format!("--{setting}"))
                );
            }
        }
        let largest = if self.name == EulerMaruyama { f64::MAX } else { 1.0 };
        if self.eta.is_some_and(|eta| !(0.0..=largest).contains(&eta)) {
            let why = if largest > 1.0 { "it must not be negative" } else { "it must be from 0 to 1" };
            return Err(Error::usage("bad eta").at("--eta").why(why));
        }
        if self.langevin.is_some_and(|langevin| langevin.steps > Langevin::MOST) {
            let why = format!("at most {} are made before a step", Langevin::MOST);
            return Err(Error::usage("too many corrections").at("langevin.steps").why(why));
        }
        if let Some(langevin) = self.langevin
            && !(langevin.snr > 0.0 && langevin.snr.is_finite())
        {
            let why = format!("{} is not a positive number", langevin.snr);
            return Err(Error::usage("bad signal-to-noise ratio").at("--snr").why(why));
        }
        let churn = self.churn.unwrap_or_default();
        let sound = churn.s_churn >= 0.0 && churn.s_noise >= 0.0 && churn.s_min <= churn.s_max;
        if !(sound && churn.s_churn.is_finite() && churn.s_noise.is_finite()) {
            return Err(Error::usage("bad churn")
                .at("churn")
                .why("s_churn and s_noise must not be negative, and s_min must not exceed s_max"));
        }
        Ok(())
    }
}
