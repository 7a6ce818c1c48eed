//! Numpy archives: a zip of `.npy` members, stored or deflated, with ZIP64 where needed.

use std::fs::File;
use std::io::{BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::atomic;
use super::bytes::Bytes;
use super::npy::{Array, Dtype, Header};
use super::npy_array::to_native;
use crate::error::{Error, Result, io_reason};

/// An archive, opened. Cloning is cheap and gives an independent reader.
#[derive(Debug, Clone)]
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<Cursor<Bytes>>,
    names: Vec<String>,
}

/// Deflated members above this size go through an unnamed temporary file when random access is asked for.
const IN_MEMORY: usize = 256 << 20;

impl Npz {
    /// Opens `path`; no array is read.
    ///
    /// # Errors
    /// Where it is missing or no zip.
    pub fn open(path: &Path) -> Result<Self> {
        let archive = ZipArchive::new(Cursor::new(Bytes::map(path)?)).map_err(|e| broken(path, &e))?;
        let mut names: Vec<String> =
            archive.file_names().filter_map(|n| Some(n.ok()?.strip_suffix(".npy")?.to_owned())).collect();
        names.sort();
        Ok(Npz { path: path.to_owned(), archive, names })
    }

    /// The names of the arrays, sorted.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is an array `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    fn place(&self, name: &str) -> String {
        format!("{}: {name}", self.path.display())
    }

    fn missing(&self, name: &str) -> Error {
        Error::data(format!("no array `{name}`"))
            .at(self.path.display())
            .hint(format!("it holds {}", self.names.join(", ")))
    }

    fn member<T>(&mut self, name: &str, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        if !self.has(name) {
            return Err(self.missing(name));
        }
        let place = self.place(name);
        let mut member = self.archive.by_name(&format!("{name}.npy")).map_err(|e| broken(&self.path, &e))?;
        read(&mut member).map_err(|e| e.at(place))
    }

    /// The header of array `name`.
    ///
    /// # Errors
    /// Where it is missing or damaged.
    pub fn header(&mut self, name: &str) -> Result<Header> {
        self.member(name, |mut member| Header::read(&mut member))
    }

    /// The whole array `name`.
    ///
    /// # Errors
    /// Where it is missing or damaged.
    pub fn array(&mut self, name: &str) -> Result<Array> {
        self.member(name, |mut member| Array::read(&mut member))
    }

    /// Streams array `name` in blocks of `rows` rows of its first axis: `each(first row, bytes)` in C order
    /// and native byte order. Holds one block in memory, whatever the size of the array.
    ///
    /// # Errors
    /// Where it is missing or damaged, is in Fortran order, or what `each` fails with.
    pub fn rows(
        &mut self,
        name: &str,
        rows: usize,
        mut each: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<Header> {
        self.member(name, |mut member| {
            let header = Header::read(&mut member)?;
            streamable(&header)?;
            let n = header.shape.first().copied().unwrap_or(1);
            let row = header.bytes()? / n.max(1);
            let mut block = Vec::new();
            let mut first = 0;
            while first < n {
                let want = rows.max(1).min(n - first) * row;
                block.clear();
                let got = (&mut member).take(want as u64).read_to_end(&mut block);
                got.map_err(|e| Error::data("damaged numpy array").why(io_reason(&e)))?;
                if block.len() != want {
                    let there = first * row + block.len();
                    return Err(Error::data("damaged numpy array")
                        .why(format!("header says {} bytes of data, {there} are there", header.bytes()?)));
                }
                if header.big_endian {
                    to_native(&mut block, header.dtype.width());
                }
                each(first, &block)?;
                first += rows.max(1).min(n - first);
            }
            Ok(header)
        })
    }

    /// The data of the u8 array `name` for random access: a stored member is mapped, a small deflated one
    /// is inflated into memory, a large one into an unnamed temporary file.
    ///
    /// # Errors
    /// Where it is missing, damaged, not u8 or in Fortran order.
    pub fn bytes(&mut self, name: &str) -> Result<(Header, Bytes)> {
        let header = self.header(name)?;
        let place = self.place(name);
        if header.dtype != Dtype::U8 {
            return Err(Error::data("array").at(place).why(format!(
                "its elements are `{}`, images must be unsigned bytes (`|u1`)",
                header.dtype.descr()
            )));
        }
        streamable(&header).map_err(|e| e.at(&place))?;
        let want = header.bytes()?;
        let (start, size, method) = {
            let member = self.archive.by_name(&format!("{name}.npy")).map_err(|e| broken(&self.path, &e))?;
            (member.data_start(), member.compressed_size(), member.compression())
        };
        let short = |there: u64| {
            Error::data("damaged numpy array")
                .at(&place)
                .why(format!("header says {want} bytes of data, {there} are there"))
        };
        if let (CompressionMethod::Stored, Some(start)) = (method, start) {
            let there = size.saturating_sub(header.data_start as u64);
            if there < want as u64 {
                return Err(short(there));
            }
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let all = self.archive.clone().into_inner().into_inner();
            let data = all.slice(start.saturating_add(header.data_start), want).map_err(|e| e.at(&place))?;
            return Ok((header, data));
        }
        if want <= IN_MEMORY {
            let mut data = Vec::new();
            self.rows(name, 1024, |_, block| {
                data.extend_from_slice(block);
                Ok(())
            })?;
            return Ok((header, Bytes::from(data)));
        }
        let file = unnamed_file()?;
        let mut out = BufWriter::new(&file);
        let spill = |e: std::io::Error| Error::run("cannot inflate").at(&place).why(io_reason(&e));
        self.rows(name, 256, |_, block| out.write_all(block).map_err(spill))?;
        out.flush().map_err(spill)?;
        drop(out);
        Ok((header, Bytes::map_file(&file).map_err(spill)?))
    }
}

fn streamable(header: &Header) -> Result<()> {
    if header.fortran && header.shape.len() > 1 {
        return Err(Error::data("array")
            .why("it is in Fortran order, which cannot be read row by row")
            .hint("save it again with numpy.ascontiguousarray"));
    }
    Ok(())
}

/// A file in the temporary folder that has no name any more: its space is free when it is closed.
fn unnamed_file() -> Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("gen-{}-{n}.tmp", std::process::id()));
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let file = made.map_err(|e| Error::write(&path, &e))?;
    std::fs::remove_file(&path).map_err(|e| Error::write(&path, &e))?;
    Ok(file)
}

fn broken(path: &Path, error: &zip::result::ZipError) -> Error {
    Error::data("not a readable zip archive").at(path.display()).why(error.to_string().to_lowercase())
}

/// Writes an archive, array by array, without holding any in memory.
#[derive(Debug)]
pub struct Writer<W: Write + Seek> {
    zip: ZipWriter<W>,
    left: u64,
    name: String,
}

impl<W: Write + Seek> Writer<W> {
    /// An archive written to `out`.
    pub fn new(out: W) -> Self {
        Writer { zip: ZipWriter::new(out), left: 0, name: String::new() }
    }

    /// Starts array `name`; its data follows through [`Writer::data`] in as many pieces as wanted.
    ///
    /// # Errors
    /// Where the array before is not complete, or writing fails.
    pub fn start(&mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<()> {
        self.complete()?;
        let header = Header::encode(dtype, shape);
        let bytes = shape.iter().product::<usize>() * dtype.width();
        // Members above 4 GiB need ZIP64; the flag is decided before the data is there.
        let large = (bytes + header.len()) as u64 >= u64::from(u32::MAX);
        // A fixed date: equal arrays make equal files.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(large);
        let started = self.zip.start_file(format!("{name}.npy"), options);
        started.map_err(|e| Error::run("cannot write archive").why(e.to_string()))?;
        self.zip.write_all(&header).map_err(|e| write_failed(&e))?;
        self.left = bytes as u64;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// The next bytes of the array that was started (native byte order).
    ///
    /// # Errors
    /// Where they are more than its shape has, or writing fails.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(Error::run(format!("array `{}` gets more data than its shape has", self.name)));
        };
        self.left = left;
        self.zip.write_all(bytes).map_err(|e| write_failed(&e))
    }

    /// A whole array.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn array(&mut self, name: &str, array: &Array) -> Result<()> {
        self.start(name, array.dtype, &array.shape)?;
        self.data(&array.data)
    }

    /// Writes the directory of the archive.
    ///
    /// # Errors
    /// Where the last array is not complete, or writing fails.
    pub fn finish(self) -> Result<W> {
        self.complete()?;
        self.zip.finish().map_err(|e| Error::run("cannot write archive").why(e.to_string()))
    }

    fn complete(&self) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        Err(Error::run(format!("array `{}` lacks {} bytes of its data", self.name, self.left)))
    }
}

fn write_failed(error: &std::io::Error) -> Error {
    Error::run("cannot write archive").why(io_reason(error))
}

/// Writes an archive to `path`, atomically.
///
/// # Errors
/// What `fill` fails with, or a write error.
pub fn write(path: &Path, fill: impl FnOnce(&mut Writer<&mut BufWriter<File>>) -> Result<()>) -> Result<()> {
    atomic::write(path, |out| {
        let mut writer = Writer::new(out);
        fill(&mut writer).map_err(|e| e.at(path.display()))?;
        let out = writer.finish().map_err(|e| e.at(path.display()))?;
        out.seek(SeekFrom::End(0)).map_err(|e| Error::write(path, &e))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(dir: &Path) -> PathBuf {
        let path = dir.join("x.npz");
        write(&path, |w| {
            w.start("arr_0", Dtype::U8, &[5, 2, 3])?;
            for i in 0..5u8 {
                w.data(&[i; 6])?;
            }
            w.array("arr_1", &Array::from_f64(&[1.0, 2.0], &[2]))
        })
        .unwrap();
        path
    }

    #[test]
    fn arrays_come_back_whole_streamed_and_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let mut npz = Npz::open(&images(dir.path())).unwrap();
        assert_eq!(npz.names(), ["arr_0", "arr_1"]);
        assert_eq!(npz.array("arr_1").unwrap().to_f64(), [1.0, 2.0]);
        let mut seen = Vec::new();
        npz.rows("arr_0", 2, |first, block| {
            seen.push((first, block.to_vec()));
            Ok(())
        })
        .unwrap();
        let want = [(0, vec![0, 1]), (2, vec![2, 3]), (4, vec![4])];
        for ((first, block), (at, rows)) in seen.iter().zip(want) {
            assert_eq!(*first, at);
            assert_eq!(*block, rows.iter().flat_map(|&r: &u8| [r; 6]).collect::<Vec<_>>());
        }
        let (header, data) = npz.bytes("arr_0").unwrap();
        assert!(!data.in_memory() && header.shape == [5, 2, 3]);
        assert_eq!(&data[24..], [4; 6]);
        assert!(npz.bytes("arr_1").unwrap_err().to_string().contains("`<f8`"));
        let error = npz.array("mu").unwrap_err();
        assert_eq!(error.hint_text(), Some("it holds arr_0, arr_1"));
    }

    #[test]
    fn deflated_members_read_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.npz");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file("arr_0.npy", options).unwrap();
        zip.write_all(&Header::encode(Dtype::U8, &[100, 10])).unwrap();
        zip.write_all(&[7; 1000]).unwrap();
        zip.finish().unwrap();
        let (_, data) = Npz::open(&path).unwrap().bytes("arr_0").unwrap();
        assert!(data.in_memory() && *data == [7; 1000]);
    }

    #[test]
    fn incomplete_arrays_are_refused_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let error = write(&path, |w| w.start("a", Dtype::U8, &[4])).unwrap_err().to_string();
        assert!(error.contains("array `a` lacks 4 bytes"), "{error}");
        assert!(
            write(&path, |w| {
                w.start("a", Dtype::U8, &[4])?;
                w.data(&[0; 5])
            })
            .is_err()
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
