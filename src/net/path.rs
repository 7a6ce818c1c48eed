//! Where in a store the parameters of a layer go.

use std::ops::Div;

use tch::Tensor;

use super::layers::init::Init;
use super::store::{Entry, Fill, Role, Store};
use crate::error::Result;
use crate::math::rng::named_seed;
use crate::optim::Group;

/// A place in a store: names are joined with dots.
#[derive(Debug, Clone)]
pub struct Path<'a> {
    store: &'a Store,
    prefix: String,
}

impl<'a> Path<'a> {
    pub(super) fn root(store: &'a Store) -> Self {
        Path { store, prefix: String::new() }
    }

    /// The place `name` (which may itself have dots) below this one.
    #[must_use]
    pub fn sub(&self, name: impl AsRef<str>) -> Path<'a> {
        Path { store: self.store, prefix: self.full(name.as_ref()) }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// A trained tensor `name` of `shape`.
    ///
    /// # Errors
    /// Where the name is taken, or libtorch fails.
    pub fn param(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.param_in(name, shape, init, Group::default())
    }

    /// The same with a learning rate or weight decay of its own.
    ///
    /// # Errors
    /// Where the name is taken, or libtorch fails.
    pub fn param_in(&self, name: &str, shape: &[i64], init: Init, group: Group) -> Result<Tensor> {
        let name = self.full(name);
        let tensor = self.first_values(&name, shape, init)?.f_set_requires_grad(true)?;
        self.store.insert(Entry { name, tensor, role: Role::Param, group })
    }

    /// A trained tensor `name` of `shape` with these first values.
    ///
    /// # Errors
    /// Where the name is taken, `values` do not fill `shape`, or libtorch fails.
    pub fn param_of(&self, name: &str, shape: &[i64], values: &[f64], group: Group) -> Result<Tensor> {
        let name = self.full(name);
        let tensor = self.given(shape, values)?.f_set_requires_grad(true)?;
        self.store.insert(Entry { name, tensor, role: Role::Param, group })
    }

    /// The seed of what is drawn for `name`; 0 in a store that is filled later.
    #[must_use]
    pub fn seed(&self, name: &str) -> u64 {
        match self.store.fill {
            Fill::Seeded(seed) => named_seed(seed, &self.full(name)),
            Fill::Empty => 0,
        }
    }

    /// An untrained tensor `name` that is part of the model.
    ///
    /// # Errors
    /// Where the name is taken, or libtorch fails.
    pub fn buffer(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let name = self.full(name);
        let tensor = self.first_values(&name, shape, init)?;
        self.store.insert(Entry { name, tensor, role: Role::Buffer, group: Group::default() })
    }

    /// A tensor `name` that follows from the network's options.
    ///
    /// # Errors
    /// Where the name is taken, `values` do not fill `shape`, or libtorch fails.
    pub fn constant(&self, name: &str, shape: &[i64], values: &[f64]) -> Result<Tensor> {
        let name = self.full(name);
        let tensor = self.given(shape, values)?;
        self.store.insert(Entry { name, tensor, role: Role::Constant, group: Group::default() })
    }

    fn given(&self, shape: &[i64], values: &[f64]) -> Result<Tensor> {
        let tensor = Tensor::f_from_slice(values)?.f_reshape(shape)?;
        Ok(tensor.f_to_kind(self.store.kind())?.f_to_device(self.store.device())?)
    }

    fn first_values(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let (device, kind) = (self.store.device(), self.store.kind_for(shape));
        match self.store.fill {
            Fill::Seeded(seed) => Ok(init.draw(shape, kind, named_seed(seed, name))?.f_to_device(device)?),
            Fill::Empty => Ok(Tensor::f_empty(shape, (kind, device))?),
        }
    }
}

impl<'a, S: AsRef<str>> Div<S> for &Path<'a> {
    type Output = Path<'a>;
    fn div(self, name: S) -> Path<'a> {
        self.sub(name)
    }
}

impl<'a, S: AsRef<str>> Div<S> for Path<'a> {
    type Output = Path<'a>;
    fn div(self, name: S) -> Path<'a> {
        self.sub(name)
    }
}
