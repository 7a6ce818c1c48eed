//! Writing PNG files, with text chunks that say how a picture was made.

use std::path::Path;

use png::{BitDepth, ColorType, Encoder};

use super::atomic;
use super::picture::Picture;
use crate::error::{Error, Result};

/// The PNG file of `picture`. `text` gives keyword (1 to 79 Latin-1 characters) and content; content beyond
/// Latin-1 goes into an `iTXt` chunk.
///
/// # Errors
/// Where a keyword is not allowed, or the picture is too large for the format.
pub fn encode(picture: &Picture, text: &[(&str, &str)]) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::run("cannot encode PNG").why(e.to_string());
    let size = |v: usize| {
        u32::try_from(v).map_err(|_| Error::run("cannot encode PNG").why(format!("{v} pixels are too many")))
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, size(picture.width)?, size(picture.height)?);
    encoder.set_color(if picture.channels == 1 { ColorType::Grayscale } else { ColorType::Rgb });
    encoder.set_depth(BitDepth::Eight);
    for (keyword, content) in text {
        let latin = content.chars().all(|c| u32::from(c) < 256);
        let (keyword, content) = ((*keyword).to_owned(), (*content).to_owned());
        if latin {
            encoder.add_text_chunk(keyword, content).map_err(failed)?;
        } else {
            encoder.add_itxt_chunk(keyword, content).map_err(failed)?;
        }
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.data).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

/// Writes the PNG file of `picture` to `path`, atomically.
///
/// # Errors
/// As [`encode`], or a write error.
pub fn write(path: &Path, picture: &Picture, text: &[(&str, &str)]) -> Result<()> {
    let bytes = encode(picture, text).map_err(|e| e.at(path.display()))?;
    atomic::write_bytes(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_survive_with_their_text() {
        for channels in [1, 3] {
            let data: Vec<u8> = (0..5 * 4 * channels).map(|v| u8::try_from(v * 4).unwrap()).collect();
            let picture = Picture::new(5, 4, channels, data).unwrap();
            let file = encode(&picture, &[("gen:parameters", "{\"seed\":7}"), ("title", "\u{3c3} schedule")])
                .unwrap();
            assert_eq!(Picture::decode(&file).unwrap(), picture);
            let mut decoder = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
            decoder.finish().unwrap();
            let info = decoder.info();
            assert_eq!(info.uncompressed_latin1_text[0].text, "{\"seed\":7}");
            assert_eq!(info.utf8_text[0].get_text().unwrap(), "\u{3c3} schedule");
        }
    }

    #[test]
    fn bad_keywords_are_errors() {
        let picture = Picture::new(1, 1, 1, vec![0]).unwrap();
        assert!(encode(&picture, &[("", "x")]).is_err());
        assert!(encode(&picture, &[(&"k".repeat(80), "x")]).is_err());
    }
}
