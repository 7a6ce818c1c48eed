//! The opcodes of pickle, protocols 0 to 5; see [`super::pickle`].

use std::collections::HashMap;

use super::pickle::{Call, Id, Node, Pickle, bad};
use crate::error::Result;

#[derive(Default)]
pub(super) struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Machine { input, ..Machine::default() }
    }

    /// Carries out one opcode; false at the end of the program.
    pub(super) fn next(&mut self) -> Result<bool> {
        let op = self.byte()?;
        if op == b'.' {
            return Ok(false);
        }
        self.step(op)?;
        Ok(true)
    }

    /// What grows with the program.
    pub(super) fn size(&self) -> usize {
        self.nodes.len().max(self.stack.len())
    }

    pub(super) fn finish(mut self) -> Result<Pickle> {
        let root = self.pop()?;
        Ok(Pickle { nodes: self.nodes, root, len: self.at })
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.input.len());
        let end = end.ok_or_else(|| bad("it ends in the middle"))?;
        let part = &self.input[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned little-endian number of `n <= 8` bytes.
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
    }

    fn sized(&mut self, width: usize) -> Result<&'a [u8]> {
        let n = self.number(width)?;
        self.take(usize::try_from(n).map_err(|_| bad("it ends in the middle"))?)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or_else(|| bad("it ends in the middle"))?;
        let line = self.take(n + 1)?;
        std::str::from_utf8(&line[..n]).map_err(|_| bad("a name in it is not UTF-8"))
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(bad("its stack runs empty"));
        }
        self.stack.pop().ok_or_else(|| bad("its stack runs empty"))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| bad("its stack runs empty"))
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| bad("a mark is missing"))?;
        if mark > self.stack.len() {
            return Err(bad("its stack runs empty"));
        }
        Ok(self.stack.split_off(mark))
    }

    fn pairs(list: &[Id]) -> Result<Vec<(Id, Id)>> {
        if !list.len().is_multiple_of(2) {
            return Err(bad("a key has no value"));
        }
        Ok(list.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn call(&mut self, func: Id, args: Id) {
        self.push(Node::Call(Box::new(Call { func, args, ..Call::default() })));
    }

    fn append(&mut self, to: Id, items: &[Id]) -> Result<()> {
        match &mut self.nodes[to] {
            Node::List(list) => list.extend(items),
            Node::Call(call) => call.list.extend(items),
            _ => return Err(bad("items are appended to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, to: Id, items: &[(Id, Id)]) -> Result<()> {
        match &mut self.nodes[to] {
            Node::Dict(dict) => dict.extend(items),
            Node::Call(call) => call.items.extend(items),
            _ => return Err(bad("items are set on what is no dict")),
        }
        Ok(())
    }

    fn long(bytes: &[u8]) -> Node {
        if bytes.len() > 8 {
            return Node::BigInt(bytes.to_vec());
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Node::Int(i64::from_le_bytes(word))
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let id = self.memo.get(&key).copied().ok_or_else(|| bad("it refers to what it did not keep"))?;
        self.stack.push(id);
        Ok(())
    }

    fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
        text.trim().parse().map_err(|_| bad(format!("`{}` is no number", text.trim())))
    }

    #[allow(clippy::too_many_lines)]
    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(bad(format!("protocol {protocol} is unknown")));
                }
            }
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP also takes away a mark that stands on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'I' => match self.line()? {
                "00" => self.push(Node::Bool(false)),
                "01" => self.push(Node::Bool(true)),
                text => {
                    let value = Self::parse(text)?;
                    self.push(Node::Int(value));
                }
            },
            b'J' => {
                let bytes = self.take(4)?;
                let node = Self::long(bytes);
                self.push(node);
            }
            b'K' | b'M' => {
                let value = self.number(if op == b'K' { 1 } else { 2 })?;
                self.push(Node::Int(value.cast_signed()));
            }
            b'L' => {
                let text = self.line()?;
                let value = Self::parse(text.trim_end_matches('L'))?;
                self.push(Node::Int(value));
            }
            0x8a | 0x8b => {
                let bytes = self.sized(if op == 0x8a { 1 } else { 4 })?;
                self.push(Self::long(bytes));
            }
            b'F' => {
                let text = self.line()?;
                let value = Self::parse(text)?;
                self.push(Node::Float(value));
            }
            b'G' => {
                let bits = self.number(8)?.swap_bytes();
                self.push(Node::Float(f64::from_bits(bits)));
            }
            b'S' => {
                let text = self.line()?.trim_matches(['\'', '"']);
                self.push(Node::Str(text.to_owned()));
            }
            b'V' => {
                let text = self.line()?;
                self.push(Node::Str(text.to_owned()));
            }
            b'T' | b'X' | b'U' | 0x8c | 0x8d => {
                let width = match op {
                    b'U' | 0x8c => 1,
                    0x8d => 8,
                    _ => 4,
                };
                let text = Self::text(self.sized(width)?);
                self.push(Node::Str(text));
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let width = match op {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                };
                let n = self.sized(width)?.len();
                self.push(Node::Bytes(self.at - n..self.at));
            }
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                let list = self.top()?;
                self.append(list, &[item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                let list = self.top()?;
                self.append(list, &items)?;
            }
            b'l' | 0x91 => {
                let items = self.marked()?;
                self.push(Node::List(items));
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.marked()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0x85..=op {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items));
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let pairs = Self::pairs(&self.marked()?)?;
                self.push(Node::Dict(pairs));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                let dict = self.top()?;
                self.set(dict, &[(key, value)])?;
            }
            b'u' => {
                let pairs = Self::pairs(&self.marked()?)?;
                let dict = self.top()?;
                self.set(dict, &pairs)?;
            }
            b'c' => {
                let (module, name) = (self.line()?.to_owned(), self.line()?.to_owned());
                self.push(Node::Global(module, name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.nodes[id] {
                    Node::Str(text) => Ok(text.clone()),
                    _ => Err(bad("the name of a global is no string")),
                };
                let node = Node::Global(text(module)?, text(name)?);
                self.push(node);
            }
            b'R' | 0x81 => {
                let (args, func) = (self.pop()?, self.pop()?);
                self.call(func, args);
            }
            0x92 => {
                let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, args);
            }
            b'i' => {
                let (module, name) = (self.line()?.to_owned(), self.line()?.to_owned());
                let args = self.marked()?;
                self.nodes.push(Node::Global(module, name));
                self.nodes.push(Node::Tuple(args));
                let n = self.nodes.len();
                self.call(n - 2, n - 1);
            }
            b'o' => {
                let mut items = self.marked()?;
                if items.is_empty() {
                    return Err(bad("an object has no class"));
                }
                let class = items.remove(0);
                self.nodes.push(Node::Tuple(items));
                let args = self.nodes.len() - 1;
                self.call(class, args);
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                if let Node::Call(call) = &mut self.nodes[object] {
                    call.state = Some(state);
                }
            }
            b'p' => {
                let key = Self::parse(self.line()?)?;
                self.remember(key)?;
            }
            b'q' | b'r' => {
                let key = self.number(if op == b'q' { 1 } else { 4 })?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let key = Self::parse(self.line()?)?;
                self.recall(key)?;
            }
            b'h' | b'j' => {
                let key = self.number(if op == b'h' { 1 } else { 4 })?;
                self.recall(key)?;
            }
            b'P' => {
                let text = self.line()?.to_owned();
                self.nodes.push(Node::Str(text));
                let id = self.nodes.len() - 1;
                self.push(Node::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            other => {
                return Err(bad(format!("opcode {other:#04x} at byte {} is not supported", self.at - 1)));
            }
        }
        Ok(())
    }
}
