//! Sound that cannot be used, and what is said about it.

use std::fs;

use genlib::io::sound::Sound;
use genlib::io::wav::{WavFormat, write_sound};

use super::world::{Transcript, world};

/// Sounds whole and damaged, in a folder that no other test uses.
fn sounds() {
    static MADE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let place = world().join("sounds");
        let put = |name: &str, rate: u32, channels: usize, frames: usize, format: WavFormat| {
            let path = place.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let data = (0..channels * frames).map(|i| ((i * 37 % 101) as f32 - 50.0) / 128.0).collect();
            write_sound(&path, &Sound { channels, rate, data }, format).unwrap();
        };
        for i in 0..6 {
            put(&format!("good/{i}.wav"), 8000, 1, 3000 + 100 * i, WavFormat::Pcm16);
        }
        put("rates/a.wav", 8000, 1, 2000, WavFormat::Pcm16);
        put("rates/b.wav", 22_050, 2, 2000, WavFormat::Pcm24);
        put("stereo.wav", 44_100, 2, 441, WavFormat::F32);
        put("short/0.wav", 8000, 1, 300, WavFormat::Pcm16);
        put("other/x.wav", 8000, 1, 3000, WavFormat::Pcm16);
        fs::create_dir_all(place.join("none")).unwrap();
        let silence = Sound { channels: 1, rate: 8000, data: vec![0.0; 100] };
        write_sound(&place.join("silent.wav"), &silence, WavFormat::Pcm16).unwrap();
        let bytes = fs::read(place.join("good/0.wav")).unwrap();
        let mut mulaw = bytes.clone();
        mulaw[20] = 7;
        fs::write(place.join("mulaw.wav"), mulaw).unwrap();
        fs::write(place.join("cut.wav"), &bytes[..30]).unwrap();
        fs::write(place.join("song.wav"), b"ID3\x03\0\0\0\0").unwrap();
        let float = Sound { channels: 1, rate: 8000, data: vec![0.5, 1.5] };
        let mut nan = genlib::io::wav::encode(&float, WavFormat::F32).unwrap().0;
        let end = nan.len();
        nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(place.join("nan.wav"), nan).unwrap();
        fs::create_dir_all(place.join("bad")).unwrap();
        fs::write(place.join("bad/a.wav"), b"hello").unwrap();
        fs::create_dir_all(place.join("listed/one")).unwrap();
        fs::copy(place.join("good/0.wav"), place.join("listed/one/a.wav")).unwrap();
        fs::write(place.join("listed/validation_list.txt"), "one/b.wav\n").unwrap();
        fs::write(place.join("listed/testing_list.txt"), "one/a.wav\n").unwrap();
    });
}

#[test]
fn files_that_cannot_be_read() {
    sounds();
    let mut t = Transcript::new();
    for file in ["absent.wav", "mulaw.wav", "cut.wav", "song.wav", "nan.wav", "../note.txt"] {
        t.fails(3, &format!("audio info sounds/{file}"));
    }
    t.fails(3, "plot sounds/mulaw.wav --out x.png");
    t.fails(2, "plot sounds/stereo.wav --out x.gif");
    t.fails(2, "plot sounds/stereo.wav --out x.png --n-fft 100");
    t.fails(2, "plot sounds/stereo.wav --out x.png --range 0");
    t.fails(1, "plot sounds/stereo.wav --out /proc/x.png");
    t.fails(2, "plot sounds/stereo.wav");
    t.fails(3, "audio quantize sounds/silent.wav --scale minmax");
    t.fails(2, "audio quantize sounds/stereo.wav --bits 17");
    t.fails(2, "audio quantize sounds/stereo.wav --quant alaw");
    t.fails(1, "audio quantize sounds/stereo.wav --out sounds/silent.wav");
    t.fails(1, "audio convert sounds/stereo.wav sounds/silent.wav");
    t.fails(3, "audio convert sounds/stereo.wav x.wav --channels 3");
    t.fails(2, "audio convert sounds/stereo.wav x.wav --bit-depth 12");
    t.fails(2, "audio convert sounds/stereo.wav x.wav --rate 0");
    t.fails(3, "audio convert sounds/none x");
    t.fails(2, "audio frobnicate");
    t.check("audio-files");
}

#[test]
fn sets_that_cannot_be_used() {
    sounds();
    let mut t = Transcript::new();
    for set in ["absent", "none", "bad", "listed", "../note.txt", "mulaw.wav"] {
        t.fails(3, &format!("audio stats sounds/{set}"));
    }
    t.fails(3, "audio stats sounds/rates --no-resample");
    t.fails(3, "audio stats sounds/rates --channels 2");
    t.fails(2, "audio stats sounds/good --window split");
    t.fails(3, "audio stats sounds/good --window split --length 9000");
    t.fails(3, "audio stats sounds/good --layout sc09");
    t.fails(2, "audio stats sounds/good --rate 0");
    t.check("audio-sets");
}

#[test]
fn evaluations_that_are_not_defined() {
    sounds();
    let mut t = Transcript::new();
    let eval = "eval-audio --audio sounds/good";
    t.fails(2, "eval-audio");
    t.fails(2, eval);
    t.fails(2, &format!("{eval} --metrics fad --ref sounds/good"));
    t.fails(2, &format!("{eval} --metrics stft"));
    t.fails(2, &format!("{eval} --metrics mos --ref sounds/good"));
    t.fails(2, &format!("{eval} --features vggish --ref sounds/good"));
    t.fails(4, &format!("{eval} --features torchscript:absent.pt --ref sounds/good"));
    t.fails(4, &format!("{eval} --features torchscript:note.txt --ref sounds/good"));
    t.fails(4, &format!("{eval} --features resnext:absent.pth --ref sounds/good"));
    t.fails(4, &format!("{eval} --features resnext:models/whole.safetensors --ref sounds/good"));
    t.fails(4, &format!("{eval} --features mel-cnn:models/whole.safetensors --ref sounds/good"));
    t.fails(3, &format!("{eval} --metrics stft --ref sounds/absent"));
    t.fails(3, &format!("{eval} --metrics stft --ref sounds/other --ref-split all"));
    t.fails(3, "eval-audio --audio sounds/short --metrics stft --ref sounds/good --ref-split all");
    t.fails(2, &format!("{eval} --baseline lpc:0 --split test"));
    t.fails(2, &format!("{eval} --baseline lpc:32 --split train"));
    t.fails(1, &format!("{eval} --baseline lpc:2 --split test --max 0.1"));
    t.fails(2, &format!("{eval} --metrics lsd --ref sounds/good --ref-split all --max 1"));
    t.check("audio-evaluations");
}

#[test]
fn what_works() {
    sounds();
    let mut t = Transcript::new();
    t.works("audio info sounds/good/0.wav sounds/stereo.wav sounds/silent.wav");
    t.works("audio stats sounds/good");
    t.works("audio stats sounds/rates");
    t.works("audio convert sounds/rates out/rates --rate 16000 --channels 1 --bit-depth 24");
    t.works("audio info out/rates/a.wav out/rates/b.wav");
    t.works("audio convert sounds/stereo.wav out/loud.wav --normalize rms --bit-depth 32f");
    t.works("audio quantize sounds/good/0.wav --quant linear --bits 6 --out out/six.wav");
    t.works("plot sounds/stereo.wav --out out/stereo.png");
    t.works("plot sounds/silent.wav --out out/silent.svg --width 100");
    t.works("eval-audio --audio sounds/good --ref sounds/good --ref-split all --metrics stft,si-sdr,lsd");
    t.works("eval-audio --audio sounds/good --split test --baseline lpc:4 --quant linear --bits 6");
    t.check("audio-works");
    let picture = image::open(world().join("out/stereo.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (876, 436));
}
