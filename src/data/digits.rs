//! Tables of small grey images as text: the UCI handwritten digits.
//!
//! One image a line: 64 values 0 to 16, then the class. A value v becomes the byte `round(255 v / 16)`, so that
//! `x = byte / 127.5 - 1` is `v / 8 - 1` to within half a grey level.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::array::{ArrayDataset, Layout};
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;

/// Images of the held-out part.
pub const HELD_OUT: usize = 397;

/// Largest value of a pixel.
const TOP: u32 = 16;

/// Reads the table at `path`, plain or gzipped.
///
/// # Errors
/// Where a line is not 64 values from 0 to 16 and a class from 0 to 9; the error names the line.
pub fn open(path: &Path) -> Result<ArrayDataset> {
    let file = Bytes::map(path)?;
    let mut text = String::new();
    let read = if file.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(&*file).take(1 << 28).read_to_string(&mut text)
    } else {
        (&*file).read_to_string(&mut text)
    };
    read.map_err(|e| Error::read(path, &e))?;
    parse(&text).map_err(|e| e.at(path.display()))
}

fn parse(text: &str) -> Result<ArrayDataset> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let values: Option<Vec<u32>> = line.split(',').map(|v| v.trim().parse().ok()).collect();
        let values = values.filter(|v| v.len() == 65 && v[..64].iter().all(|&p| p <= TOP) && v[64] < 10);
        let Some(values) = values else {
            return Err(Error::data("not a table of digits")
                .why(format!("line {} is not 64 values 0 to 16 and a class 0 to 9", number + 1)));
        };
        images.extend(values[..64].iter().map(|&v| byte(v)));
        labels.push(i64::from(values[64]));
    }
    ArrayDataset::new(images, Layout::Chw, [1, 8, 8], Some(labels))
}

/// `round(255 v / 16)`; no value of v is a tie.
fn byte(v: u32) -> u8 {
    u8::try_from((v * 255 + TOP / 2) / TOP).unwrap_or(u8::MAX)
}

/// Whether `head`, the start of a text, is such a table.
pub(super) fn matches(head: &str) -> bool {
    let line = head.lines().next().unwrap_or_default();
    let values: Vec<_> = line.split(',').map(|v| v.trim().parse::<u32>()).collect();
    values.len() == 65 && values.iter().all(|v| v.as_ref().is_ok_and(|&v| v <= TOP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    #[test]
    fn bytes_stand_for_the_grey_levels() {
        for v in 0..=16 {
            let x = f64::from(byte(v)) / 127.5 - 1.0;
            assert!((x - (f64::from(v) / 8.0 - 1.0)).abs() <= 0.5 / 127.5, "{v}");
        }
        assert_eq!([byte(0), byte(8), byte(16)], [0, 128, 255]);
    }

    #[test]
    fn the_shipped_table_is_the_uci_test_set() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits/digits.csv.gz");
        let digits = open(&path).unwrap();
        assert_eq!((digits.len(), digits.shape(), digits.classes()), (1797, [1, 8, 8], 10));
        // Standard deviation of v/8 - 1 over all pixels, 0.7521 by the literature's count of the train part.
        let all = digits.dense().unwrap();
        let x: Vec<f64> = all.iter().map(|&b| f64::from(b) / 127.5 - 1.0).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let std = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        assert!((std - 0.7521).abs() < 2e-3, "{std}");
        let counts = (0..10).map(|c| (0..1797).filter(|&i| digits.label(i) == Some(c)).count());
        assert_eq!(counts.collect::<Vec<_>>(), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = format!("{}7", "0,".repeat(64));
        for bad in ["1,2,3".to_owned(), format!("{}7", "17,".repeat(64)), format!("{}10", "0,".repeat(64))] {
            let error = parse(&format!("{good}\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
