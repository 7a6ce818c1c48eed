//! A pickle machine that builds a description and executes nothing.
//!
//! Python's pickle is a stack program that may call any function. This machine runs the stack part only:
//! functions and classes are names, calls are records of what would have been called with what. Memory is
//! linear in the input, nothing recurses, and no input makes it panic. Opcodes of protocols 0 to 5.

use super::pickle_machine::Machine;
use crate::error::{Error, Result};

/// A value of the description, by its place in [`Pickle::nodes`].
pub type Id = usize;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer within i64.
    Int(i64),
    /// A larger integer: two's complement bytes, little-endian.
    BigInt(Vec<u8>),
    /// A float.
    Float(f64),
    /// A string.
    Str(String),
    /// A byte string, by its place in the input.
    Bytes(std::ops::Range<usize>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list, set or frozen set.
    List(Vec<Id>),
    /// A dict, in insertion order.
    Dict(Vec<(Id, Id)>),
    /// A function or class, by module and name.
    Global(String, String),
    /// What calling `func` with `args` would give; `state` and items were set on it afterwards.
    Call(Box<Call>),
    /// An object kept outside the pickle, by its id (torch: the storage of a tensor).
    Persistent(Id),
}

/// A call that was not made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Call {
    /// The function or class.
    pub func: Id,
    /// Its arguments (a tuple).
    pub args: Id,
    /// What `BUILD` would have set (usually the object's attributes).
    pub state: Option<Id>,
    /// Items set by key (an `OrderedDict` gets its content so).
    pub items: Vec<(Id, Id)>,
    /// Items appended.
    pub list: Vec<Id>,
}

/// A pickle, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Pickle {
    /// All values; children come by their index here, and may form cycles.
    pub nodes: Vec<Node>,
    /// The value the pickle stands for.
    pub root: Id,
    /// Bytes of input it took.
    pub len: usize,
}

/// More values than this are refused: no checkpoint has as many, and each costs about 50 bytes.
const MAX_NODES: usize = 1 << 24;

pub(super) fn bad(why: impl Into<String>) -> Error {
    Error::data("damaged pickle").why(why)
}

impl Pickle {
    /// Reads the pickle at the start of `input`; bytes after its end are left alone ([`Pickle::len`]).
    ///
    /// # Errors
    /// Where it is damaged, too large, or uses opcodes without meaning outside Python (extension registry,
    /// out-of-band buffers).
    pub fn read(input: &[u8]) -> Result<Self> {
        let mut machine = Machine::new(input);
        while machine.next()? {
            if machine.size() > MAX_NODES {
                return Err(bad(format!("it holds more than {MAX_NODES} values")));
            }
        }
        machine.finish()
    }

    /// The value `id`; a dangling id reads as `None` (the machine never makes one).
    #[must_use]
    pub fn get(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::None)
    }

    /// The string `id` is, if it is one.
    #[must_use]
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The integer `id` is, if it is one.
    #[must_use]
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    /// The elements of the tuple or list `id` is, if it is one.
    #[must_use]
    pub fn seq(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Node::Tuple(list) | Node::List(list) => Some(list),
            _ => None,
        }
    }

    /// Module and name of the global `id` is, if it is one.
    #[must_use]
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.get(id) {
            Node::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_values_of_protocol_2() {
        // pickle.dumps({'a': [1, -2, 2.5], 'b': (True, None, 'x'), 'c': 2**40}, protocol=2)
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00eX\x01\x00\x00\x00bq\x03\x88NX\x01\x00\x00\x00xq\x04\x87q\x05X\x01\x00\x00\x00cq\x06\x8a\x06\x00\x00\x00\x00\x00\x01u.tail";
        let p = Pickle::read(bytes).unwrap();
        assert_eq!(p.len, bytes.len() - 4);
        let Node::Dict(items) = p.get(p.root) else { panic!("{:?}", p.get(p.root)) };
        let keys: Vec<_> = items.iter().map(|(k, _)| p.str(*k).unwrap()).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        let list = p.seq(items[0].1).unwrap();
        assert_eq!((p.int(list[0]), p.int(list[1])), (Some(1), Some(-2)));
        assert_eq!(p.get(list[2]), &Node::Float(2.5));
        assert_eq!(p.int(items[2].1), Some(1 << 40));
    }

    #[test]
    fn calls_are_recorded_not_made() {
        // What os.system('true') pickles to when an object's __reduce__ says so.
        let p = Pickle::read(b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.").unwrap();
        let Node::Call(call) = p.get(p.root) else { panic!() };
        assert_eq!(p.global(call.func), Some(("posix", "system")));
        assert_eq!(p.str(p.seq(call.args).unwrap()[0]), Some("true"));
    }

    #[test]
    fn damaged_programs_are_errors() {
        for bytes in [
            &b""[..],
            b"N",
            b".",
            b"0.",
            b"(.",
            b"t.",
            b"h\x05.",
            b"a.",
            b"Na.",
            b"NNs.",
            b"(Nu.",
            b"\x80\x09N.",
            b"X\xff\xff\xff\xffab.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"R.",
            b"\x93.",
            b"NN\x93.",
            b"\xff.",
            b"(NR.",
            b"Ix\n.",
            b"\x97.",
            b"b.",
        ] {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pickle::read(&bytes);
        }

        #[test]
        fn opcode_soup_ends_without_panic(ops in proptest::collection::vec(
            proptest::sample::select(b"(0122NKKa]}ude)tsR\x81\x85\x86\x87\x94h\x00\x01qbQ\x93.l\x8f\x90o".to_vec()), 0..200)) {
            let _ = Pickle::read(&ops);
        }
    }
}
