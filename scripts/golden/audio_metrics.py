"""Golden numbers of sound (tests/audio_golden.rs): spectra of librosa and torchaudio, resampling and quantisation of
torchaudio, distances of auraloss; and one sound as WAV and as FLAC.

Usage: python scripts/golden/audio_metrics.py [tests/fixtures/audio]
"""

import sys
from pathlib import Path

import auraloss
import librosa
import numpy as np
import soundfile
import torch
import torchaudio
from safetensors.torch import save_file


def sound(rate, n, seed):
    """A chirp, a tone and a little noise, f32."""
    t = np.arange(n) / rate
    rng = np.random.RandomState(seed)
    x = 0.4 * np.sin(2 * np.pi * (200 * t + 800 * t * t)) + 0.2 * np.sin(2 * np.pi * 1000 * t)
    return (x * np.minimum(1, t * 50) + 0.01 * rng.randn(n)).astype(np.float32)


def philsyn(x):
    """Mel spectrogram of philsyn/DiffWave-Vocoder (Tacotron 2)."""
    magnitude = np.abs(librosa.stft(np.pad(x, 512, mode="reflect"), n_fft=1024, hop_length=256, center=False))
    bank = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0.0, fmax=8000.0)
    return np.log(np.maximum(bank @ magnitude, 1e-5))


def lmnt(x):
    """Mel spectrogram of lmnt-com/diffwave."""
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=22050, n_fft=1024, win_length=1024, hop_length=256, f_min=20.0, f_max=11025.0, n_mels=80,
        power=1.0, normalized=True,
    )
    mel = transform(torch.from_numpy(x)).numpy()
    return np.clip((20 * np.log10(np.maximum(mel, 1e-5)) - 20 + 100) / 100, 0.0, 1.0)


def sc09(x):
    """Input of the SC09 classifier."""
    mel = librosa.feature.melspectrogram(y=x, sr=16000, n_mels=32, n_fft=2048, hop_length=512)
    return librosa.power_to_db(mel, ref=np.max)


class Embedder(torch.nn.Module):
    """Frames of 64 samples to 4 numbers each, and 3 logits a sound."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randn(64, 4, generator=generator))
        self.register_buffer("v", torch.randn(4, 3, generator=generator))

    def forward(self, x):
        frames = x.unfold(1, 64, 64) @ self.w
        return frames, frames.abs().mean(1) @ self.v


def main():
    here = Path(__file__).resolve().parents[2] / "tests/fixtures/audio"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else here
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    x = sound(22050, 2600, 0)
    tensors["x22"] = x
    tensors["philsyn"] = philsyn(x)
    tensors["lmnt"] = lmnt(x)
    x = sound(16000, 16000, 1)
    codes = np.round(x * 32767).astype(np.int16)
    tensors["x16"] = codes
    tensors["sc09"] = sc09(codes.astype(np.float32) / 32768)
    tensors["mel_slaney"] = librosa.filters.mel(sr=16000, n_fft=512, n_mels=20, fmin=100.0, fmax=7000.0)
    tensors["mel_htk"] = torchaudio.functional.melscale_fbanks(257, 100.0, 7000.0, 20, 16000).T.contiguous().numpy()

    wave = torch.from_numpy(sound(44100, 1500, 2))
    tensors["x44"] = wave.numpy()
    best = dict(resampling_method="sinc_interp_kaiser", lowpass_filter_width=64, rolloff=0.9475937167399596,
                beta=14.769656459379492)
    for name, source, target, options in [
        ("fast_44100_16000", 44100, 16000, {}),
        ("fast_16000_44100", 16000, 44100, {}),
        ("fast_48000_8000", 48000, 8000, {}),
        ("best_44100_16000", 44100, 16000, best),
    ]:
        tensors[name] = torchaudio.functional.resample(wave.double(), source, target, **options).float().numpy()[:1500]
    line = torch.linspace(-1.2, 1.2, 1001)
    tensors["mulaw_codes"] = torchaudio.functional.mu_law_encoding(line, 256).to(torch.int16).numpy()
    tensors["mulaw_decoded"] = torchaudio.functional.mu_law_decoding(torch.arange(256), 256).numpy()

    # Distances of a noisy sound from its target.
    target = torch.from_numpy(sound(16000, 8000, 3)).reshape(1, 2, 4000)
    noisy = target * 0.8 + 0.02 * torch.from_numpy(np.random.RandomState(4).randn(1, 2, 4000).astype(np.float32))
    tensors["target"], tensors["noisy"] = target[0].numpy(), noisy[0].numpy()
    distances = [
        auraloss.freq.MultiResolutionSTFTLoss()(noisy.double(), target.double()),
        -auraloss.time.SISDRLoss(eps=1e-12)(noisy.double(), target.double()),
    ]
    tensors["distances"] = np.array([float(d) for d in distances])

    n = np.arange(6000)
    rng = np.random.RandomState(0)
    pair = [9000 * np.sin(n * 0.05) + 300 * rng.randn(6000), 5000 * np.sin(n * 0.031) + 100 * rng.randn(6000)]
    for name in ("a.wav", "a.flac"):
        soundfile.write(out / name, np.stack(pair, 1).astype(np.int16), 8000, subtype="PCM_16")

    torch.jit.save(torch.jit.script(Embedder()), str(out / "embedder.pt"))

    versions = {"auraloss": "0.4.0", "librosa": librosa.__version__, "torchaudio": torchaudio.__version__, "numpy": np.__version__}
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}
    tensors = {k: v.float() if v.dtype == torch.float64 else v for k, v in tensors.items()}
    save_file(tensors, str(out / "audio.safetensors"), metadata=versions)


if __name__ == "__main__":
    main()
