//! Where the parameters of a network live: named tensors in construction order.
//!
//! Layers hold handles on the same tensors (`shallow_clone`), so whatever is done to a store (load,
//! change of memory format) is seen by the network built on it. Unlike tch's own store it never
//! broadcasts, never changes its dtype to that of a file, keeps its order, and reports every name
//! that does not fit.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::optim::Group;
use crate::torch::shim;

pub use super::path::Path;

/// What a stored tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Trained.
    Param,
    /// Not trained, but part of the model: a file without it does not fit.
    Buffer,
    /// Follows from the network's options (a resampling filter): a file may hold it or not.
    Constant,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub tensor: Tensor,
    pub role: Role,
    pub group: Group,
}

/// What first values come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fill {
    Seeded(u64),
    Empty,
}

/// The parameters and buffers of one network.
#[derive(Debug)]
pub struct Store {
    device: Device,
    kind: Kind,
    /// Dtype of parameters of two or more dimensions.
    matrices: Kind,
    pub(super) fill: Fill,
    entries: RefCell<Vec<Entry>>,
    index: RefCell<HashMap<String, usize>>,
}

impl Store {
    /// A store whose parameters are drawn from streams keyed by `seed` and their own names.
    #[must_use]
    pub fn new(device: Device, kind: Kind, seed: u64) -> Self {
        Self::filled(device, kind, Fill::Seeded(seed))
    }

    /// A store whose parameters are left unset: for a network whose weights are loaded or copied next.
    #[must_use]
    pub fn empty(device: Device, kind: Kind) -> Self {
        Self::filled(device, kind, Fill::Empty)
    }

    fn filled(device: Device, kind: Kind, fill: Fill) -> Self {
        Store { device, kind, matrices: kind, fill, entries: RefCell::default(), index: RefCell::default() }
    }

    /// The same store, with parameters of two or more dimensions in `kind` from the start.
    #[must_use]
    pub fn with_matrices(self, kind: Kind) -> Self {
        Store { matrices: kind, ..self }
    }

    /// Where names start.
    #[must_use]
    pub fn root(&self) -> Path<'_> {
        Path::root(self)
    }

    /// Device of all tensors.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Dtype of all parameters and buffers (of the vectors, after [`Store::with_matrices`]).
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Dtype of a parameter of `shape`.
    pub(super) fn kind_for(&self, shape: &[i64]) -> Kind {
        if shape.len() >= 2 { self.matrices } else { self.kind }
    }

    /// All tensors with their names, in construction order. The tensors are handles, not copies.
    #[must_use]
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.select(|_| true)
    }

    /// The trained tensors with their names, in construction order. The tensors are handles.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        self.select(|role| role == Role::Param)
    }

    /// Whether each of [`Store::named`] is trained.
    #[must_use]
    pub fn trained(&self) -> Vec<bool> {
        self.entries.borrow().iter().map(|e| e.role == Role::Param).collect()
    }

    /// What each of [`Store::trainable`] is trained with, where that is not what the rest is trained with.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let entries = self.entries.borrow();
        entries.iter().filter(|e| e.role == Role::Param).map(|e| e.group).collect()
    }

    fn select(&self, keep: impl Fn(Role) -> bool) -> Vec<(String, Tensor)> {
        let entries = self.entries.borrow();
        entries.iter().filter(|e| keep(e.role)).map(|e| (e.name.clone(), e.tensor.shallow_clone())).collect()
    }

    /// Number of trained scalars.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let entries = self.entries.borrow();
        entries.iter().filter(|e| e.role == Role::Param).map(|e| e.tensor.numel()).sum()
    }

    /// The tensor `name`, as a handle.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Tensor> {
        let at = *self.index.borrow().get(name)?;
        Some(self.entries.borrow()[at].tensor.shallow_clone())
    }

    /// Fills the store from `tensors` (of any dtype and device); `source` names them in errors.
    ///
    /// # Errors
    /// Where a name is missing, a name is left over, a shape differs or a type is no ordinary floating-point
    /// one; nothing is changed then.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>, source: &str) -> Result<()> {
        let entries = self.entries.borrow();
        let missing: Vec<&str> = entries
            .iter()
            .filter(|e| e.role != Role::Constant && !tensors.contains_key(&e.name))
            .map(|e| e.name.as_str())
            .collect();
        let index = self.index.borrow();
        let unused: Vec<&str> =
            tensors.keys().map(String::as_str).filter(|n| !index.contains_key(*n)).collect();
        if !missing.is_empty() || !unused.is_empty() {
            return Err(misfit(&missing, &unused).at(source));
        }
        for entry in entries.iter() {
            if let Some(found) = tensors.get(&entry.name)
                && found.size() != entry.tensor.size()
            {
                return Err(Error::shape(&entry.name, &entry.tensor.size(), &found.size()).at(source));
            }
            if let Some(found) = tensors.get(&entry.name)
                && !matches!(found.f_kind()?, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
            {
                return Err(Error::model(format!("tensor `{}`", entry.name))
                    .at(source)
                    .why(format!("expected floating-point numbers, got {:?}", found.f_kind()?))
                    .hint("weights in integers (quantised) or 8-bit floats are not read"));
            }
        }
        let _guard = tch::no_grad_guard();
        for entry in entries.iter() {
            if let Some(found) = tensors.get(&entry.name) {
                entry.tensor.shallow_clone().f_copy_(found)?;
            }
        }
        Ok(())
    }

    /// Makes every tensor equal to that of `other`, which must hold the same names and shapes.
    ///
    /// # Errors
    /// Where names or shapes differ, or libtorch fails.
    pub fn copy_from(&self, other: &Store) -> Result<()> {
        let (mine, theirs) = (self.named(), other.named());
        let fits = mine.len() == theirs.len()
            && mine.iter().zip(&theirs).all(|(a, b)| a.0 == b.0 && a.1.size() == b.1.size());
        if !fits {
            return Err(Error::model("cannot copy parameters between networks of different make"));
        }
        let tensors = |list: Vec<(String, Tensor)>| list.into_iter().map(|(_, t)| t).collect::<Vec<_>>();
        shim::foreach_copy(&tensors(mine), &tensors(theirs))
    }

    /// A store of its own memory with the same names and values, without gradients.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn copy(&self) -> Result<Store> {
        let _guard = tch::no_grad_guard();
        let out = Store::empty(self.device, self.kind).with_matrices(self.matrices);
        for entry in self.entries.borrow().iter() {
            let mut tensor = entry.tensor.f_detach()?.f_empty_like()?;
            tensor.f_copy_(&entry.tensor)?;
            let _ =
                out.insert(Entry { name: entry.name.clone(), tensor, role: entry.role, group: entry.group })?;
        }
        Ok(out)
    }

    /// Turns gradients of the trained tensors on or off.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn set_requires_grad(&self, on: bool) -> Result<()> {
        for (_, tensor) in self.trainable() {
            // The returned tensor is another handle on the same one.
            let _ = tensor.f_set_requires_grad(on)?;
        }
        Ok(())
    }

    /// Stores convolution weights channels-last, so that convolutions of channels-last inputs need no
    /// copy. Shapes and values stay.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn channels_last(&self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (_, mut tensor) in self.trainable() {
            if tensor.dim() == 4 {
                let data = channels_last(&tensor.f_detach()?)?;
                tensor.f_set_data(&data)?;
            }
        }
        Ok(())
    }

    /// Keeps the weights of convolutions and linear layers (everything of two or more dimensions) in
    /// `kind`: what autocast would make of them at every call, done once. For inference only.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn cast_weights(&self, kind: Kind) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for ((_, mut tensor), group) in self.trainable().into_iter().zip(self.groups()) {
            // What is trained apart (the systems of state-space layers) is no factor of a product.
            if tensor.dim() >= 2 && group == Group::default() {
                let data = tensor.f_detach()?.f_to_kind(kind)?;
                tensor.f_set_data(&data)?;
            }
        }
        Ok(())
    }

    pub(super) fn insert(&self, entry: Entry) -> Result<Tensor> {
        let mut index = self.index.borrow_mut();
        let mut entries = self.entries.borrow_mut();
        if index.insert(entry.name.clone(), entries.len()).is_some() {
            return Err(Error::model(format!("two parameters of the network are named `{}`", entry.name)));
        }
        let handle = entry.tensor.shallow_clone();
        entries.push(entry);
        Ok(handle)
    }
}

/// `x` `[B, C, H, W]` with strides of a channels-last memory format; no copy if it has them already.
///
/// # Errors
/// Where libtorch fails.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}

/// The error for names that do not fit, with the first few of each sort.
pub(in crate::net) fn misfit(missing: &[&str], unused: &[&str]) -> Error {
    let list = |names: &[&str]| {
        let shown = names.iter().take(4).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        if names.len() > 4 { format!("{shown} and {} more", names.len() - 4) } else { shown }
    };
    let mut why = Vec::new();
    if !missing.is_empty() {
        why.push(format!("{} missing: {}", missing.len(), list(missing)));
    }
    if !unused.is_empty() {
        why.push(format!("{} unknown to the network: {}", unused.len(), list(unused)));
    }
    Error::model("the weights do not fit the network")
        .why(why.join("; "))
        .hint("the options of the network must be those it was trained with")
}

#[cfg(test)]
mod tests;
