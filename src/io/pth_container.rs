//! The containers of a pickled object: zip, legacy, and a plain pickle with its storages inside.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use tch::Kind;
use zip::{CompressionMethod, ZipArchive};

use super::bytes::Bytes;
use super::pickle::{Node, Pickle};
use super::pth::{LEGACY_MAGIC, bad};
use super::pth_tensor::{Embedded, storage};
use crate::error::Result;

/// An object as a description, and the bytes its tensors lie in.
pub(super) struct Container {
    pub pickle: Pickle,
    pub storages: HashMap<String, Bytes>,
    pub embedded: Embedded,
}

impl Container {
    /// Reads `data`; TorchScript archives (attributes of a module, code beside them) only as a `script`.
    pub fn read(data: &Bytes, script: bool) -> Result<Self> {
        let (pickle, program, mut storages) = if data.starts_with(b"PK\x03\x04") {
            zip(data, script)?
        } else if data.starts_with(&LEGACY_MAGIC) {
            let (pickle, start, storages) = legacy(data)?;
            let program = data.slice(start, pickle.len)?;
            (pickle, program, storages)
        } else if super::pth::is_pickle(data) {
            (Pickle::read(data)?, data.clone(), HashMap::new())
        } else {
            return Err(bad("it is neither a zip archive nor a legacy container nor a pickle"));
        };
        let embedded = embedded(&pickle, &program, &mut storages)?;
        Ok(Container { pickle, storages, embedded })
    }
}

/// The object, its program, and the storages beside it.
type Parts = (Pickle, Bytes, HashMap<String, Bytes>);

fn zip(data: &Bytes, script: bool) -> Result<Parts> {
    let zip_error = |e: zip::result::ZipError| bad(e.to_string().to_lowercase());
    let mut archive = ZipArchive::new(Cursor::new(data.clone())).map_err(zip_error)?;
    let names: Vec<String> = archive.file_names().filter_map(|n| Some(n.ok()?.into_owned())).collect();
    if !script && names.iter().any(|n| n.ends_with("/constants.pkl")) {
        return Err(bad("it is a TorchScript module, not a checkpoint of tensors"));
    }
    let pickle = names.iter().find(|n| n.ends_with("/data.pkl") || *n == "data.pkl");
    let root = pickle.ok_or_else(|| bad("it holds no data.pkl"))?.trim_end_matches("data.pkl").to_owned();
    let mut member = |name: &str| -> Result<Bytes> {
        let mut file = archive.by_name(name).map_err(zip_error)?;
        if let (CompressionMethod::Stored, Some(start)) = (file.compression(), file.data_start()) {
            let size = usize::try_from(file.compressed_size()).unwrap_or(usize::MAX);
            return data.slice(usize::try_from(start).unwrap_or(usize::MAX), size);
        }
        let mut out = Vec::new();
        file.read_to_end(&mut out).map_err(|e| bad(e.to_string()))?;
        Ok(Bytes::from(out))
    };
    if names.contains(&format!("{root}byteorder")) && &*member(&format!("{root}byteorder"))? == b"big" {
        return Err(bad("it is big-endian"));
    }
    let program = member(&format!("{root}data.pkl"))?;
    let pickle = Pickle::read(&program)?;
    let mut storages = HashMap::new();
    for name in &names {
        if let Some(key) = name.strip_prefix(&format!("{root}data/")) {
            storages.insert(key.to_owned(), member(name)?);
        }
    }
    Ok((pickle, program, storages))
}

/// The object of a legacy container, where its pickle starts, and the storages behind it.
fn legacy(data: &Bytes) -> Result<(Pickle, usize, HashMap<String, Bytes>)> {
    let mut at = 0;
    let mut next = || -> Result<(Pickle, usize)> {
        let start = at;
        let pickle = Pickle::read(&data[at..])?;
        at += pickle.len;
        Ok((pickle, start))
    };
    let (_magic, (protocol, _), (system, _)) = (next()?, next()?, next()?);
    if protocol.int(protocol.root) != Some(1001) {
        return Err(bad("its protocol is not 1001"));
    }
    if let Node::Dict(facts) = system.get(system.root) {
        let little = facts.iter().find(|(k, _)| system.str(*k) == Some("little_endian"));
        if little.is_some_and(|(_, v)| system.get(*v) == &Node::Bool(false)) {
            return Err(bad("it is big-endian"));
        }
    }
    let ((object, start), (keys, _)) = (next()?, next()?);
    let mut widths = HashMap::new();
    for node in &object.nodes {
        if let Node::Persistent(id) = node
            && let Some((kind, key)) = storage(&object, *id)
        {
            widths.insert(key, kind.map_or(1, Kind::elt_size_in_bytes));
        }
    }
    let keys: Option<Vec<&str>> =
        keys.seq(keys.root).and_then(|list| list.iter().map(|&id| keys.str(id)).collect());
    let mut storages = HashMap::new();
    for key in keys.ok_or_else(|| bad("it has no list of storages"))? {
        let count = u64::from_le_bytes(
            data.get(at..at + 8)
                .and_then(|b| b.try_into().ok())
                .ok_or_else(|| bad("it ends before its storages do"))?,
        );
        at += 8;
        let Some(width) = widths.get(key) else {
            return Err(bad(format!("storage `{key}` belongs to no tensor")));
        };
        let size = usize::try_from(count).ok().and_then(|n| n.checked_mul(*width));
        let size = size.ok_or_else(|| bad(format!("storage `{key}` claims {count} elements")))?;
        let bytes = data
            .slice(at, size)
            .map_err(|_| bad(format!("storage `{key}` has {size} bytes, file has {}", data.len() - at)))?;
        at += size;
        storages.insert(key.to_owned(), bytes);
    }
    Ok((object, start, storages))
}

/// Storages that were pickled by value (`torch.storage._load_from_bytes`): each is a legacy container in a
/// byte string. They join `storages` under keys of their own.
fn embedded(pickle: &Pickle, program: &Bytes, storages: &mut HashMap<String, Bytes>) -> Result<Embedded> {
    let mut found = Embedded::new();
    for (id, node) in pickle.nodes.iter().enumerate() {
        let Node::Call(call) = node else { continue };
        if pickle.global(call.func) != Some(("torch.storage", "_load_from_bytes")) {
            continue;
        }
        let argument = pickle.seq(call.args).and_then(<[usize]>::first);
        let Some(Node::Bytes(range)) = argument.map(|&arg| pickle.get(arg)) else {
            return Err(bad("a storage in it is not given as bytes"));
        };
        let bytes = program.slice(range.start, range.len())?;
        let (object, _, mut inner) = legacy(&bytes)?;
        let Node::Persistent(place) = object.get(object.root) else {
            return Err(bad("a storage in it is of an unknown form"));
        };
        let (kind, key) =
            storage(&object, *place).ok_or_else(|| bad("a storage in it is of an unknown form"))?;
        let data = inner.remove(key).ok_or_else(|| bad("a storage in it has no content"))?;
        let own = format!("#{id}");
        storages.insert(own.clone(), data);
        found.insert(id, (kind, own));
    }
    Ok(found)
}
