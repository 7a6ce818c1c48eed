//! Singlestep DPM-Solver and DPM-Solver++ whose inner nodes are points of the grid.
//!
//! The steps of the grid come in blocks of up to `order`: the first of a block is of first order, the second
//! of second order from the block's start with both predictions made since, and so on, so that the block as
//! a whole is one singlestep step with its nodes on the grid (Lu et al. 2022, "DPM-Solver", algorithms 1 and
//! 2; the schedule is that of diffusers' DPMSolverSinglestepScheduler). One call a step of the grid. Onto
//! clean data and from pure noise a step is of first order.

use tch::Tensor;

use super::dpm_singlestep::{final_2, final_3};
use super::exponential::{combine_each, first_order, is_inner};
use super::{Form, Run, Solver, SolverType};
use crate::error::{Error, Result};
use crate::process::Point;

/// The solver.
#[derive(Debug)]
pub(super) struct SinglestepNodes {
    /// Noise or data form.
    pub form: Form,
    /// `Midpoint` is the papers' solver, `Heun` its Taylor variant.
    pub kind: SolverType,
    /// The order of each step of the grid.
    pub orders: Vec<usize>,
    /// The start of the block: where, and the state there.
    pub start: Option<(Point, Tensor)>,
    /// The predictions of the block, oldest first.
    pub past: Vec<(Point, Tensor)>,
}

/// The orders of the steps of a run of `steps` steps. With `lower_final`, which runs whose length is no
/// multiple of the order have in any case, the last block of a run is a short one.
pub(super) fn orders(order: usize, steps: usize, lower_final: bool) -> Vec<usize> {
    let (blocks, rest) = (steps / order, steps % order);
    let block = |n: usize| 1..=n;
    let mut list: Vec<usize> = (0..blocks).flat_map(|_| block(order)).chain(block(rest)).collect();
    if rest == 0
        && lower_final
        && let Some(last) = list.last_mut()
    {
        *last = 1;
    }
    list
}

impl Solver for SinglestepNodes {
    fn reset(&mut self) {
        self.start = None;
        self.past.clear();
    }

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if self.orders[i] == 1 || !is_inner(&s, &t) {
            self.past.clear();
            let (next, newest) = first_order(run, self.form, &s, &t, &x)?;
            self.past.push((s, newest.m));
            self.start = Some((s, x));
            return Ok(next);
        }
        let m = run.predict(self.form.prediction(), &x, s)?;
        self.past.push((s, m));
        let (start, from) = self.start.get_or_insert((s, x));
        let h = t.lambda - start.lambda;
        let r = |p: &Point| (p.lambda - start.lambda) / h;
        match self.past.as_slice() {
            [(_, m0), (p1, m1)] => {
                combine_each(&[final_2(self.form, self.kind, start, &t, r(p1))], [from, m0, m1])
            }
            [(_, m0), (p1, m1), (p2, m2)] => {
                let factors = final_3(self.form, self.kind, start, &t, r(p1), r(p2));
                combine_each(&[factors], [from, m0, m1, m2])
            }
            // A block starts with a step of first order, so there are two predictions at least.
            _ => Err(Error::run("a block of a singlestep run has no start")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::orders;

    #[test]
    fn blocks_fill_the_run() {
        assert_eq!(orders(3, 9, true), [1, 2, 3, 1, 2, 3, 1, 2, 1]);
        assert_eq!(orders(3, 9, false), [1, 2, 3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(orders(3, 10, true), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(orders(3, 11, false), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(orders(2, 4, true), [1, 2, 1, 1]);
        assert_eq!(orders(2, 5, true), [1, 2, 1, 2, 1]);
        assert_eq!(orders(1, 3, true), [1, 1, 1]);
    }
}
