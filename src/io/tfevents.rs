//! TensorBoard event files: scalars and images.
//!
//! A file is a sequence of TFRecords `u64 length | u32 masked crc32c(length) | data | u32 masked crc32c(data)`,
//! each holding a protobuf `Event { wall_time = 1, step = 2, file_version = 3, summary = 5 }`; a summary has
//! values `{ tag = 1, simple_value = 2, image = 4 }`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::picture::Picture;
use crate::error::{Error, Result};

/// An event file, open for writing.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventWriter {
    /// Creates `events.out.tfevents.<time>.<host>` in `folder`; a later file of the same run gets a later time.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        let mut time = now() as u64;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        loop {
            let path = folder.join(format!("events.out.tfevents.{time:010}.{host}"));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut writer = EventWriter { path, out: BufWriter::new(file) };
                    let mut event = Message::default();
                    event.f64(1, now()).bytes(3, b"brain.Event:2");
                    writer.record(&event.0)?;
                    writer.flush()?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => time += 1,
                Err(e) => return Err(Error::write(&path, &e)),
            }
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes scalars at `step`.
    ///
    /// # Errors
    /// A write error.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut entry = Message::default();
            #[allow(clippy::cast_possible_truncation)]
            entry.bytes(1, tag.as_bytes()).f32(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        self.event(step, &summary)
    }

    /// Writes an image at `step`.
    ///
    /// # Errors
    /// Where the picture cannot be encoded, or a write error.
    pub fn image(&mut self, step: u64, tag: &str, picture: &Picture) -> Result<()> {
        let mut image = Message::default();
        image
            .varint(1, picture.height as u64)
            .varint(2, picture.width as u64)
            .varint(3, picture.channels as u64)
            .bytes(4, &super::png::encode(picture, &[])?);
        let mut entry = Message::default();
        entry.bytes(1, tag.as_bytes()).bytes(4, &image.0);
        let mut summary = Message::default();
        summary.bytes(1, &entry.0);
        self.event(step, &summary)
    }

    /// Hands what was written to the operating system, so that TensorBoard sees it.
    ///
    /// # Errors
    /// A write error.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::write(&self.path, &e))
    }

    fn event(&mut self, step: u64, summary: &Message) -> Result<()> {
        let mut event = Message::default();
        event.f64(1, now()).varint(2, step).bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        self.out.write_all(&frame(data)).map_err(|e| Error::write(&self.path, &e))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend(masked(data).to_le_bytes());
    out
}

fn masked(data: &[u8]) -> u32 {
    let crc = crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, &b| crc >> 8 ^ TABLE[(crc as u8 ^ b) as usize])
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) -> &mut Self {
        self.raw(field << 3);
        self.raw(value);
        self
    }

    fn f64(&mut self, field: u64, value: f64) -> &mut Self {
        self.raw(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn f32(&mut self, field: u64, value: f32) -> &mut Self {
        self.raw(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Self {
        self.raw(field << 3 | 2);
        self.raw(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while !file.is_empty() {
            let n = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
            let data = &file[12..12 + n];
            assert_eq!(frame(data), file[..16 + n]);
            out.push(data.to_vec());
            file = &file[16 + n..];
        }
        out
    }

    #[test]
    fn events_are_framed_protobuf() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        let other = EventWriter::create(dir.path()).unwrap();
        assert_ne!(writer.path(), other.path());
        writer.scalars(300, &[("loss", 0.5), ("lr", 1e-3)]).unwrap();
        let picture = Picture::new(2, 1, 3, vec![1, 2, 3, 4, 5, 6]).unwrap();
        writer.image(301, "samples", &picture).unwrap();
        writer.flush().unwrap();
        let records = records(&std::fs::read(writer.path()).unwrap());
        assert_eq!(records.len(), 3);
        assert_eq!(&records[0][9..], b"\x1a\x0dbrain.Event:2");
        // step 300 = varint ac 02, then the summary with tag and float.
        assert_eq!(&records[1][9..12], [0x10, 0xac, 0x02]);
        assert_eq!(
            &records[1][12..],
            b"\x2a\x18\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f\x0a\x09\x0a\x02lr\x15\x6f\x12\x83\x3a"
        );
        let name = writer.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents."));
        assert!(records[2].windows(4).any(|w| w == b"\x89PNG"));
    }
}
