//! From the description of a pickled object to named tensors and named values.
//!
//! Dicts, `OrderedDict`s, lists and objects are flattened to dotted names. A pickled `torch.nn.Module` gets the
//! names of its state dict: its `_parameters`, `_buffers` and `_modules` are its content, its other attributes
//! are values beside it. NVlabs' persistent objects (EDM, StyleGAN) are such modules, whose source text is left
//! alone.

use std::collections::BTreeMap;

use super::pickle::{Call, Id, Node, Pickle};
use super::pth::{Scalar, bad};
use super::pth_tensor::{Embedded, Entry, tensor};
use crate::error::Result;

/// Name, below that of an object, of the value that holds the name of its class.
pub const CLASS: &str = "__class__";

pub(super) struct Walk<'a> {
    pickle: &'a Pickle,
    embedded: &'a Embedded,
    steps: usize,
    pub out: Vec<(String, Entry)>,
    pub scalars: BTreeMap<String, Scalar>,
    pub unknown: Vec<String>,
}

/// Bounds of the walk: shared and cyclic values could otherwise be visited without end.
const MAX_STEPS: usize = 1 << 22;
const MAX_DEPTH: usize = 64;

fn join(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}

impl<'a> Walk<'a> {
    pub fn new(pickle: &'a Pickle, embedded: &'a Embedded) -> Self {
        Walk { pickle, embedded, steps: 0, out: Vec::new(), scalars: BTreeMap::new(), unknown: Vec::new() }
    }

    /// Visits the value `id` under `name`; with `facts` it takes numbers and strings only.
    pub fn visit(&mut self, id: Id, name: String, facts: bool, depth: usize) -> Result<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(bad("it is nested without end"));
        }
        if depth > MAX_DEPTH {
            return Ok(());
        }
        match self.pickle.get(id) {
            Node::Dict(items) => self.items(items, &name, facts, depth)?,
            Node::List(list) | Node::Tuple(list) => {
                if list.is_empty() {
                    self.scalars.insert(name.clone(), Scalar::Empty);
                }
                for (i, &item) in list.iter().enumerate() {
                    self.visit(item, join(&name, &i.to_string()), facts, depth + 1)?;
                }
            }
            Node::Call(call) => self.call(call, name, facts, depth)?,
            Node::Bool(v) => drop(self.scalars.insert(name, Scalar::Bool(*v))),
            Node::Int(v) => drop(self.scalars.insert(name, Scalar::Int(*v))),
            Node::Float(v) => drop(self.scalars.insert(name, Scalar::Float(*v))),
            Node::Str(v) => drop(self.scalars.insert(name, Scalar::Str(v.clone()))),
            Node::None | Node::BigInt(_) | Node::Bytes(_) | Node::Global(..) | Node::Persistent(_) => {}
        }
        Ok(())
    }

    fn items(&mut self, items: &[(Id, Id)], name: &str, facts: bool, depth: usize) -> Result<()> {
        for &(key, value) in items {
            let key = match self.pickle.get(key) {
                Node::Str(text) => text.clone(),
                Node::Int(value) => value.to_string(),
                _ => continue,
            };
            self.visit(value, join(name, &key), facts, depth + 1)?;
        }
        Ok(())
    }

    fn call(&mut self, call: &Call, name: String, facts: bool, depth: usize) -> Result<()> {
        let global = self.pickle.global(call.func).unwrap_or(("", ""));
        match global {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_tensor_v3") => {
                if !facts {
                    let entry = tensor(self.pickle, self.embedded, call.args).map_err(|e| e.at(&name))?;
                    self.out.push((name, entry));
                }
                return Ok(());
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                if let Some(&data) = self.pickle.seq(call.args).and_then(<[Id]>::first) {
                    self.visit(data, name, facts, depth + 1)?;
                }
                return Ok(());
            }
            (_, "_reconstruct_persistent_obj") => return self.persistent(call, &name, facts, depth),
            ("collections", "OrderedDict" | "defaultdict") => {}
            // A module is read whatever its class is called.
            _ if call.state.is_some_and(|state| self.is_module(state)) => {}
            (module, class) => {
                let full = format!("{module}.{class}");
                if !self.unknown.contains(&full) && self.unknown.len() < 100 {
                    self.unknown.push(full);
                }
            }
        }
        self.items(&call.items, &name, facts, depth)?;
        for (i, &item) in call.list.iter().enumerate() {
            self.visit(item, join(&name, &i.to_string()), facts, depth + 1)?;
        }
        // The state of an OrderedDict is bookkeeping (`_metadata`), that of an object its attributes.
        if let (Some(state), false) = (call.state, global.0 == "collections") {
            self.attributes(state, global.1, name, facts, depth)?;
        }
        Ok(())
    }

    /// `_reconstruct_persistent_obj({class_name, module_src, state, ...})`.
    fn persistent(&mut self, call: &Call, name: &str, facts: bool, depth: usize) -> Result<()> {
        let meta = self.pickle.seq(call.args).and_then(<[Id]>::first).copied();
        let pairs = match meta.map(|id| self.pickle.get(id)) {
            Some(Node::Dict(items)) => items,
            Some(Node::Call(dict)) => &dict.items,
            _ => return Err(bad("a persistent object in it has no description").at(name)),
        };
        let find = |key: &str| {
            pairs.iter().rev().find(|(k, _)| self.pickle.str(*k) == Some(key)).map(|(_, value)| *value)
        };
        let class = find("class_name").and_then(|id| self.pickle.str(id)).unwrap_or_default().to_owned();
        match find("state") {
            Some(state) => self.attributes(state, &class, name.to_owned(), facts, depth),
            None => Ok(()),
        }
    }

    /// Whether these are the attributes of a `torch.nn.Module`.
    fn is_module(&self, state: Id) -> bool {
        let Node::Dict(pairs) = self.pickle.get(state) else { return false };
        let has = |key: &str| pairs.iter().any(|(k, _)| self.pickle.str(*k) == Some(key));
        has("_modules") && has("_parameters")
    }

    /// The attributes `state` of an object of `class`: those of a module become its state dict.
    fn attributes(&mut self, state: Id, class: &str, name: String, facts: bool, depth: usize) -> Result<()> {
        let pickle = self.pickle;
        let Node::Dict(pairs) = pickle.get(state) else {
            return self.visit(state, name, facts, depth + 1);
        };
        if !self.is_module(state) {
            return self.visit(state, name, facts, depth + 1);
        }
        self.scalars.insert(join(&name, CLASS), Scalar::Str(class.to_owned()));
        for part in ["_parameters", "_buffers", "_modules"] {
            for (_, value) in pairs.iter().filter(|(key, _)| pickle.str(*key) == Some(part)) {
                self.visit(*value, name.clone(), facts, depth + 1)?;
            }
        }
        for &(key, value) in pairs {
            let Some(key) = pickle.str(key) else { continue };
            if (!key.starts_with('_') || key.starts_with("_init_")) && key != "training" {
                self.visit(value, join(&name, key), true, depth + 1)?;
            }
        }
        Ok(())
    }
}
