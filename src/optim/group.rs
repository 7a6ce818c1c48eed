//! Parameters that are trained with a learning rate or weight decay of their own.

/// What differs from the options of the optimiser.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Group {
    /// Learning rate before the schedule, which scales it as it scales the common one.
    pub lr: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
}

impl Group {
    /// The common learning rate, and no weight decay.
    pub const NO_DECAY: Group = Group { lr: None, weight_decay: Some(0.0) };

    /// Learning rate and weight decay where the common ones are `lr` now, `base` before the schedule, and
    /// `weight_decay`.
    #[must_use]
    pub fn rates(&self, lr: f64, base: f64, weight_decay: f64) -> (f64, f64) {
        let own = match self.lr {
            Some(own) if base > 0.0 => own * (lr / base),
            Some(own) => own,
            None => lr,
        };
        (own, self.weight_decay.unwrap_or(weight_decay))
    }
}

/// The groups that occur, each with the indices of its members.
pub(super) fn members(groups: &[Group]) -> Vec<(Group, Vec<usize>)> {
    let mut out: Vec<(Group, Vec<usize>)> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        match out.iter_mut().find(|(other, _)| other == group) {
            Some((_, list)) => list.push(i),
            None => out.push((*group, vec![i])),
        }
    }
    out
}
