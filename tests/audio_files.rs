//! Sound files and datasets of them: what is read, written, refused and divided.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs;
use std::path::Path;

use genlib::data::audio::{AudioSpec, Clips, Layout, Part, Resampling, Window, stack};
use genlib::error::Kind;
use genlib::io::sound::{Encoding, Sound, SoundFile};
use genlib::io::wav::{self, Normalize, WavFormat};

fn sound(channels: usize, rate: u32, data: Vec<f32>) -> Sound {
    Sound { channels, rate, data }
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()
}

fn parse(bytes: Vec<u8>) -> genlib::error::Result<Sound> {
    SoundFile::of(bytes.into(), "x.wav".into())?.read()
}

/// A WAV file with any header.
fn raw(tag: u16, channels: u16, rate: u32, bits: u16, extra: &[u8], data: &[u8]) -> Vec<u8> {
    let block = channels * (bits / 8);
    let mut fmt = Vec::new();
    fmt.extend(tag.to_le_bytes());
    fmt.extend(channels.to_le_bytes());
    fmt.extend(rate.to_le_bytes());
    fmt.extend((rate * u32::from(block)).to_le_bytes());
    fmt.extend(block.to_le_bytes());
    fmt.extend(bits.to_le_bytes());
    fmt.extend(extra);
    let mut out = b"RIFF\0\0\0\0WAVE".to_vec();
    for (id, body) in [(b"fmt ", fmt.as_slice()), (b"data", data)] {
        out.extend(id);
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(body);
    }
    let size = out.len() as u32 - 8;
    out[4..8].copy_from_slice(&size.to_le_bytes());
    out
}

#[test]
fn all_codes_of_16_bits_survive() {
    let codes: Vec<i16> = (i16::MIN..=i16::MAX).collect();
    let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
    let read = parse(raw(1, 1, 16_000, 16, &[], &bytes)).unwrap();
    assert_eq!((read.data[0], read.data[32_768], read.data[65_535]), (-1.0, 0.0, 32_767.0 / 32_768.0));
    let (out, written) = wav::encode(&read, WavFormat::Pcm16).unwrap();
    assert_eq!(&out[out.len() - bytes.len()..], bytes);
    assert_eq!((written.samples, written.clipped, written.peak), (65_536, 0, 1.0));
    // 24 bits hold them, too, and f32 holds all of 24 bits.
    let (out, _) = wav::encode(&read, WavFormat::Pcm24).unwrap();
    assert_eq!(parse(out).unwrap(), read);
    let fine = sound(1, 8000, (-8_388_608..8_388_608).step_by(997).map(|v| v as f32 / 8_388_608.0).collect());
    for format in [WavFormat::Pcm24, WavFormat::F32, WavFormat::Pcm32] {
        assert_eq!(parse(wav::encode(&fine, format).unwrap().0).unwrap(), fine, "{format:?}");
    }
    let all8: Vec<u8> = (0..=255).collect();
    let read = parse(raw(1, 1, 8000, 8, &[], &all8)).unwrap();
    assert_eq!((read.data[0], read.data[128], read.data[255]), (-1.0, 0.0, 127.0 / 128.0));
    let (out, _) = wav::encode(&read, WavFormat::Pcm8).unwrap();
    assert_eq!(&out[out.len() - 256..], all8);
}

#[test]
fn full_scale_is_clipped_to_the_largest_code_and_counted_beyond_it() {
    let x = sound(1, 8000, vec![1.0, -1.0, 1.27, -1.2, 0.5]);
    let (bytes, written) = wav::encode(&x, WavFormat::Pcm16).unwrap();
    let codes: Vec<f32> = parse(bytes).unwrap().data.iter().map(|v| v * 32_768.0).collect();
    assert_eq!(codes, [32_767.0, -32_768.0, 32_767.0, -32_768.0, 16_384.0]);
    assert_eq!((written.clipped, written.peak), (2, 1.27));
    assert_eq!(written.warning().unwrap(), "clipped 2 samples (40.00%), peak 1.27");
    let (bytes, written) = wav::encode(&x, WavFormat::F32).unwrap();
    assert_eq!(parse(bytes).unwrap(), x);
    assert_eq!(written.clipped, 2);
    let error = wav::encode(&sound(2, 8000, vec![0.0, 0.0, 0.0, f32::NAN]), WavFormat::Pcm16).unwrap_err();
    assert_eq!(error.to_string(), "sound is not finite: sample 1 of channel 1 is NaN");
}

#[test]
fn loudness_is_changed_only_on_request() {
    let x = sound(1, 8000, vec![0.5, -0.25, 0.5, -0.25]);
    let scaled = |how: Normalize| {
        let mut y = x.clone();
        how.apply(&mut y);
        y.data
    };
    assert_eq!(scaled(Normalize::None), x.data);
    assert!((scaled(Normalize::Peak)[0] - 10f32.powf(-0.05)).abs() < 1e-6);
    let rms = (scaled(Normalize::Rms).iter().map(|v| v * v).sum::<f32>() / 4.0).sqrt();
    assert!((20.0 * rms.log10() + 18.0).abs() < 1e-4);
    let mut silence = sound(1, 8000, vec![0.0; 3]);
    Normalize::Peak.apply(&mut silence);
    assert_eq!(silence.data, [0.0; 3]);
}

#[test]
fn channels_keep_their_order() {
    let x = sound(2, 44_100, [ramp(5), vec![0.25; 5]].concat());
    for format in [WavFormat::Pcm16, WavFormat::Pcm24, WavFormat::F32] {
        let y = parse(wav::encode(&x, format).unwrap().0).unwrap();
        assert_eq!(y, x, "{format:?}");
    }
    assert!((x.mono().data[0] - (x.data[0] + 0.25) / 2.0).abs() < 1e-7);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.wav");
    wav::write(&path, &x.to_tensor().unwrap(), 44_100, WavFormat::F32).unwrap();
    let wave = wav::read(&path).unwrap();
    assert_eq!((wave.data.size(), wave.rate), (vec![2, 5], 44_100));
    assert_eq!(Sound::from_tensor(&wave.data, 44_100).unwrap(), x);
    // hound itself reads what we write.
    assert_eq!(hound::WavReader::open(&path).unwrap().spec().channels, 2);
}

#[test]
fn headers_of_all_kinds() {
    let data: Vec<u8> = [1i16, -2, 3, -4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let want: Vec<f32> = [1, -2, 3, -4].iter().map(|v| *v as f32 / 32_768.0).collect();
    let good = raw(1, 1, 8000, 16, &[], &data);
    let at = good.len() - data.len();

    let mut guid = 1u16.to_le_bytes().to_vec();
    guid.extend([0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71]);
    let mut extra = vec![22, 0, 16, 0, 4, 0, 0, 0];
    extra.extend(&guid);
    assert_eq!(parse(raw(0xfffe, 1, 8000, 16, &extra, &data)).unwrap().data, want);
    // Extra bytes behind a plain format, and behind a floating-point one.
    assert_eq!(parse(raw(1, 1, 8000, 16, &[0, 0], &data)).unwrap().data, want);
    let float: Vec<u8> = want.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(parse(raw(3, 1, 8000, 32, &[0, 0], &float)).unwrap().data, want);
    let double: Vec<u8> = want.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    assert_eq!(parse(raw(3, 1, 8000, 64, &[], &double)).unwrap().data, want);

    // A streamed recording: the length is not known, or longer than the file.
    for told in [u32::MAX, 0x7fff_fff0, 100] {
        let mut file = good.clone();
        file[at - 4..at].copy_from_slice(&told.to_le_bytes());
        let file = SoundFile::of(file.into(), "x".into()).unwrap();
        assert!(file.header().streamed && file.read().unwrap().data == want, "{told}");
    }
    let mut file = good.clone();
    file[4..8].copy_from_slice(&[0; 4]);
    file[at - 4..at].copy_from_slice(&[0; 4]);
    assert_eq!(parse(file).unwrap().data, want);
    // Half a sample at the end is dropped.
    let mut file = good.clone();
    file[at - 4..at].copy_from_slice(&u32::MAX.to_le_bytes());
    file.push(7);
    assert_eq!(parse(file).unwrap().data, want);

    // Other chunks, of odd length with padding, before and after.
    let mut file = good[..12].to_vec();
    file.extend(b"LIST\x03\0\0\0abc\0");
    file.extend(&good[12..at - 8]);
    file.extend(b"bext\x05\0\0\0abcde\0");
    file.extend(&good[at - 8..]);
    file.extend(b"cue \x02\0\0\0ab");
    assert_eq!(parse(file).unwrap().data, want);

    // An empty recording.
    let empty = SoundFile::of(raw(1, 2, 8000, 16, &[], &[]).into(), "x".into()).unwrap();
    assert_eq!((empty.header().frames, empty.read().unwrap().data.len()), (0, 0));
    assert_eq!(empty.header().encoding, Encoding::Pcm(16));

    // RF64 keeps its length elsewhere.
    let mut file = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".to_vec();
    file.extend([0u64, 6, 3].iter().flat_map(|v| v.to_le_bytes()));
    file.extend([0; 4]);
    file.extend(&good[12..]);
    let end = file.len() - data.len();
    file[end - 4..end].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(parse(file).unwrap().data, want[..3]);

    let part = SoundFile::of(good.into(), "x".into()).unwrap();
    assert_eq!(part.part(1, 2).unwrap().data, want[1..3]);
    assert_eq!(part.part(3, 9).unwrap().data, want[3..]);
    assert_eq!(part.part(9, 9).unwrap().frames(), 0);
}

#[test]
fn what_is_not_read_is_named() {
    let wave = |tag: u16| raw(tag, 1, 8000, 8, &[], &[0; 8]);
    for (bytes, want) in [
        (wave(7), "unsupported codec 0x0007 (x.wav): its samples are mu-law"),
        (wave(6), "unsupported codec 0x0006 (x.wav): its samples are A-law"),
        (wave(2), "unsupported codec 0x0002 (x.wav): its samples are Microsoft ADPCM"),
        (wave(0x1234), "unsupported codec 0x1234 (x.wav): its samples are of a kind that is not known"),
        (b"ID3\x04".to_vec(), "sound format is not read (x.wav): it is an MP3 file, WAV and FLAC are read"),
        (
            vec![0xff, 0xfb, 0x90],
            "sound format is not read (x.wav): it is an MP3 file, WAV and FLAC are read",
        ),
        (b"OggS".to_vec(), "sound format is not read (x.wav): it is an Ogg file, WAV and FLAC are read"),
        (
            b"RIFX\0\0\0\0WAVE".to_vec(),
            "sound format is not read (x.wav): it is a big-endian WAV file, WAV and FLAC are read",
        ),
        (b"hello".to_vec(), "no sound file (x.wav): it is neither WAV nor FLAC"),
        (Vec::new(), "no sound file (x.wav): it is empty"),
        (b"RIFF\0\0\0\0WAVE".to_vec(), "damaged WAV file (x.wav): it has no `fmt ` chunk"),
        (
            raw(1, 0, 8000, 16, &[], &[]),
            "damaged WAV file (x.wav): 0 channels, 8000 Hz, 16 bits, blocks of 0 bytes",
        ),
        (
            raw(0xfffe, 1, 8000, 16, &[22, 0], &[]),
            "unsupported sub-format (x.wav): its extended header names no ordinary format",
        ),
    ] {
        let error = parse(bytes).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(error.kind() == Kind::Data && error.hint_text().is_some());
    }
    let nan: Vec<u8> = [0.5f32, f32::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect();
    let error = parse(raw(3, 1, 8000, 32, &[], &nan)).unwrap_err();
    assert_eq!(error.to_string(), "sound is not finite (x.wav): sample 1 of channel 0 is inf");
    // No header makes the reader panic or reserve memory that is not there.
    let good = raw(1, 2, 8000, 16, &[], &[0; 64]);
    for cut in 0..good.len() {
        let _ = parse(good[..cut].to_vec());
    }
    for at in 0..44 {
        for value in [0u8, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = parse(bad);
        }
    }
}

#[test]
fn flac_is_the_same_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio");
    let (flac, wave) =
        (SoundFile::open(&folder.join("a.flac")).unwrap(), SoundFile::open(&folder.join("a.wav")).unwrap());
    assert_eq!(flac.header().encoding, Encoding::Flac(16));
    assert_eq!(flac.read().unwrap(), wave.read().unwrap());
    assert_eq!(flac.part(100, 5000).unwrap(), wave.part(100, 5000).unwrap());
    let bytes = fs::read(folder.join("a.flac")).unwrap();
    for cut in [5, 40, bytes.len() / 2] {
        let error = parse(bytes[..cut].to_vec()).unwrap_err();
        assert!(error.to_string().contains("FLAC"), "{error}");
    }
    for at in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x55;
        let _ = parse(bad);
    }
}

fn put(path: &Path, rate: u32, frames: usize, channels: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    wav::write_sound(path, &sound(channels, rate, ramp(frames * channels)), WavFormat::Pcm16).unwrap();
}

fn names(clips: &Clips) -> Vec<String> {
    (0..clips.len()).map(|i| clips.name(i)).collect()
}

#[test]
fn numbered_files_are_divided_in_natural_order() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50 {
        put(&dir.path().join(format!("{i}.wav")), 8000, 10 + i, 1);
    }
    let open = |part| Clips::open(dir.path(), part, &AudioSpec::default()).unwrap();
    let (train, validation, test) = (open(Part::Train), open(Part::Validation), open(Part::Test));
    assert_eq!((train.len(), validation.len(), test.len()), (44, 3, 3));
    assert_eq!(
        (train.name(2), validation.name(0), test.name(0)),
        ("2.wav".into(), "44.wav".into(), "47.wav".into())
    );
    assert_eq!((train.shape(), test.shape()), ([1, 53], [1, 59]));
    let clip = train.get(0).unwrap();
    assert_eq!((clip.frames, clip.wave.len()), (10, 53));
    assert!(clip.wave[10..].iter().all(|v| *v == 0.0) && clip.label.is_none());
    let all = open(Part::All);
    assert_eq!(all.len(), 50);
    assert_eq!(all.stats().unwrap().seconds, (0..50).map(|i| f64::from(10 + i) / 8000.0).sum::<f64>());
}

#[test]
fn speech_commands_are_divided_by_their_lists() {
    let dir = tempfile::tempdir().unwrap();
    for digit in ["zero", "two", "nine", "bed"] {
        for name in ["a_nohash_0", "b_nohash_0", "b_nohash_1"] {
            put(&dir.path().join(format!("{digit}/{name}.wav")), 16_000, 100, 1);
        }
    }
    put(&dir.path().join("_background_noise_/hum.wav"), 16_000, 300, 1);
    fs::write(dir.path().join("validation_list.txt"), "two/b_nohash_0.wav\n").unwrap();
    fs::write(
        dir.path().join("testing_list.txt"),
        "nine/a_nohash_0.wav\r\nzero/a_nohash_0.wav\nbed/a_nohash_0.wav\n",
    )
    .unwrap();
    let spec = AudioSpec { layout: Layout::Sc09, ..AudioSpec::default() };
    let test = Clips::open(dir.path(), Part::Test, &spec).unwrap();
    assert_eq!(names(&test), ["nine/a_nohash_0.wav", "zero/a_nohash_0.wav"]);
    assert_eq!((test.shape(), test.classes(), test.rate()), ([1, 16_000], 10, 16_000));
    assert_eq!((test.label(0), test.label(1)), (Some(9), Some(0)));
    assert_eq!(Clips::open(dir.path(), Part::Validation, &spec).unwrap().len(), 1);
    assert_eq!(Clips::open(dir.path(), Part::Train, &spec).unwrap().len(), 6);
    // Without the name of the set, all words are classes, and noise is none.
    let auto = Clips::open(dir.path(), Part::Train, &AudioSpec::default()).unwrap();
    assert_eq!((auto.len(), auto.class_names()), (8, &["bed", "nine", "two", "zero"].map(String::from)[..]));
    fs::remove_file(dir.path().join("testing_list.txt")).unwrap();
    let error = Clips::open(dir.path(), Part::Train, &spec).unwrap_err();
    assert!(error.to_string().starts_with("no testing_list.txt"), "{error}");
}

#[test]
fn long_recordings_become_windows() {
    let dir = tempfile::tempdir().unwrap();
    for (name, frames) in [("1.wav", 35), ("2.wav", 9), ("10.wav", 20)] {
        put(&dir.path().join(name), 8000, frames, 1);
    }
    let spec = AudioSpec { window: Some(Window::Split), length: Some(10), ..AudioSpec::default() };
    let clips = Clips::open(dir.path(), Part::All, &spec).unwrap();
    assert_eq!(names(&clips), ["1.wav@0", "1.wav@10", "1.wav@20", "10.wav@0", "10.wav@10"]);
    assert_eq!(clips.get(1).unwrap().wave, wav_data(&dir.path().join("1.wav"))[10..20]);
    let crop = AudioSpec { window: Some(Window::Crop), ..spec.clone() };
    let crops = Clips::open(dir.path(), Part::All, &crop).unwrap();
    assert_eq!((crops.len(), crops.get(1).unwrap().frames), (3, 9));
    let whole = wav_data(&dir.path().join("1.wav"));
    let starts: std::collections::BTreeSet<usize> = (0..400)
        .map(|key| {
            let clip = crops.get_keyed(0, key).unwrap();
            (0..=25).find(|&s| clip.wave == whole[s..s + 10]).unwrap()
        })
        .collect();
    assert_eq!(starts.len(), 26, "crops start everywhere");
    assert_eq!(crops.get_keyed(0, 7).unwrap(), crops.get_keyed(0, 7).unwrap());
    let error = Clips::open(dir.path(), Part::All, &AudioSpec { length: Some(50), ..spec }).unwrap_err();
    assert!(
        error.to_string().contains("the longest file has 35 samples at 8000 Hz, 50 are wanted"),
        "{error}"
    );
}

fn wav_data(path: &Path) -> Vec<f32> {
    SoundFile::open(path).unwrap().read().unwrap().data
}

#[test]
fn rates_and_channels_are_changed_with_a_notice_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("a.wav"), 16_000, 100, 1);
    put(&dir.path().join("b.wav"), 22_050, 200, 2);
    let spec = AudioSpec::default();
    let clips = Clips::open(dir.path(), Part::All, &spec).unwrap();
    assert_eq!((clips.rate(), clips.shape()), (16_000, [1, 146]));
    assert_eq!(clips.get(1).unwrap().frames, 146);
    let notes = clips.notes().join("\n");
    assert!(
        notes.contains("1 of 2 files are resampled to 16000 Hz") && notes.contains("mixed to one channel"),
        "{notes}"
    );
    let never = AudioSpec { resample: Resampling::Never, ..spec.clone() };
    let error = Clips::open(dir.path(), Part::All, &never).unwrap_err();
    assert!(
        error.to_string().contains("sample rate is 22050 Hz") && error.to_string().contains("b.wav"),
        "{error}"
    );
    let stereo = AudioSpec { channels: Some(2), ..spec };
    let error = Clips::open(dir.path(), Part::All, &stereo).unwrap_err();
    assert!(
        error.to_string().contains("sound has 1 channels") && error.to_string().contains("2 are wanted"),
        "{error}"
    );
    let clips = Clips::open(dir.path(), Part::All, &AudioSpec { duplicate: true, ..stereo }).unwrap();
    let clip = clips.get(0).unwrap();
    assert_eq!(clip.wave[..100], clip.wave[146..246]);
    let (wave, frames, labels) = stack(&[clips.get(0).unwrap(), clips.get(1).unwrap()], 2).unwrap();
    assert_eq!((wave.size(), Vec::<i64>::try_from(frames).unwrap()), (vec![2, 2, 146], vec![100, 146]));
    assert!(labels.is_none());
}

#[test]
fn classes_parts_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["train", "val", "test"] {
        for class in ["b", "a10", "a9"] {
            put(&dir.path().join(format!("set/{part}/{class}/x.wav")), 8000, 10, 1);
        }
    }
    let set = dir.path().join("set");
    let clips = Clips::open(&set, Part::Validation, &AudioSpec::default()).unwrap();
    assert_eq!(names(&clips), ["val/a9/x.wav", "val/a10/x.wav", "val/b/x.wav"]);
    assert_eq!((clips.label(0), clips.label(1), clips.label(2)), (Some(0), Some(1), Some(2)));
    fs::write(dir.path().join("list.txt"), "# few\nset/train/b/x.wav\tbee\n\nset/test/b/x.wav\tant\n")
        .unwrap();
    let clips = Clips::open(&dir.path().join("list.txt"), Part::All, &AudioSpec::default()).unwrap();
    assert_eq!((clips.len(), clips.label(0), clips.label(1)), (2, Some(1), Some(0)));
    fs::write(dir.path().join("bad.txt"), "set/train/b/x.wav\nhello\n").unwrap();
    let error = Clips::open(&dir.path().join("bad.txt"), Part::All, &AudioSpec::default()).unwrap_err();
    assert!(error.to_string().contains("line 2 is `hello`"), "{error}");
    let one = Clips::open(&set.join("train/b/x.wav"), Part::All, &AudioSpec::default()).unwrap();
    assert_eq!((one.len(), one.shape()), (1, [1, 10]));
    fs::create_dir(dir.path().join("none")).unwrap();
    let error = Clips::open(&dir.path().join("none"), Part::All, &AudioSpec::default()).unwrap_err();
    assert!(error.to_string().starts_with("no sound files") && error.kind() == Kind::Data, "{error}");
    for bad in ["rate = 0", "length = 0", "ends = [0.9, 0.8]", "window = \"split\""] {
        let spec: AudioSpec = toml::from_str(bad).unwrap();
        assert_eq!(Clips::open(&set, Part::All, &spec).unwrap_err().kind(), Kind::Usage, "{bad}");
    }
    assert!(toml::from_str::<AudioSpec>("lenght = 3").is_err());
}
