#!/usr/bin/env python3
"""Makes data/spoken-digits/spoken-digits.zip: spoken digits synthesised by espeak-ng.

    python3 scripts/make_spoken_digits.py [OUT.zip]

Needs espeak-ng (Debian: apt-get install espeak-ng; 1.51 made the shipped file) and the Python packages numpy, scipy
and soundfile. Every clip is one word of one voice at one pitch and speed: 22,050 Hz from espeak-ng, resampled to
8,000 Hz, silence trimmed, brought to a peak that depends on the clip, FLAC of 16 bits. Voices are an accent of English with a variant of the speaker; those of the three parts differ.
The same version of espeak-ng gives the same samples.
"""

import hashlib
import io
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from math import gcd

import numpy as np
import soundfile
from scipy.signal import resample_poly

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE = 8000
LONGEST = 4096
ACCENTS = ["en-gb", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-029"]
PARTS = {
    "train": ["m1", "m3", "m4", "m5", "m7", "f1", "f2", "f4", "Alex", "linda"],
    "validation": ["m2", "f5"],
    "test": ["m6", "f3"],
}
# Pitch (espeak's scale, 0 to 99) and speed (words a minute); each voice has one of each.
PITCHES = [35, 45, 55, 65]
SPEEDS = [190, 205, 220, 235]


def digest(text):
    return hashlib.sha256(text.encode()).digest()


def say(word, accent, variant, pitch, speed):
    """Samples f64 in [-1, 1] at RATE, trimmed."""
    command = ["espeak-ng", "-v", f"{accent}+{variant}", "-p", str(pitch), "-s", str(speed), "--stdout", word]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    data, rate = soundfile.read(io.BytesIO(patched(out)), dtype="float64")
    common = gcd(rate, RATE)
    x = resample_poly(data, RATE // common, rate // common)
    loud = np.flatnonzero(np.abs(x) > 0.01 * np.abs(x).max())
    x = x[max(loud[0] - 160, 0) : loud[-1] + 240]
    # Short ramps, so that nothing clicks.
    ramp = np.minimum(np.arange(len(x)) + 1, 80) / 80
    return x * ramp * ramp[::-1]


def patched(wav):
    """The WAV file of a pipe, whose lengths were not known when its header was written."""
    wav = bytearray(wav)
    at = wav.index(b"data") + 4
    wav[at : at + 4] = (len(wav) - at - 4).to_bytes(4, "little")
    wav[4:8] = (len(wav) - 8).to_bytes(4, "little")
    return bytes(wav)


def clip(job):
    part, word, accent, variant, pitch, speed = job
    name = f"{word}/{accent}_{variant.lower()}_p{pitch}_s{speed}.flac"
    x = say(word, accent, variant, pitch, speed)
    # Peaks between 0.2 and 0.6, by the name, as levels differ between real recordings.
    level = 0.2 + 0.4 * digest(name)[0] / 255
    codes = np.round(x / np.abs(x).max() * level * 32767).astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, codes, RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return part, name, len(codes), out.getvalue()


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else "data/spoken-digits/spoken-digits.zip"
    jobs = []
    for part, variants in PARTS.items():
        for variant in variants:
            for accent in ACCENTS if part == "train" else ACCENTS[1:4]:
                pick = digest(f"{accent} {variant}")
                pitch, speed = PITCHES[pick[0] % 4], SPEEDS[pick[1] % 4]
                jobs += [(part, word, accent, variant, pitch, speed) for word in WORDS]
    with ThreadPoolExecutor() as pool:
        clips = sorted(pool.map(clip, jobs), key=lambda c: (WORDS.index(c[1].split("/")[0]), c[1]))
    dropped = [c for c in clips if c[2] > LONGEST]
    clips = [c for c in clips if c[2] <= LONGEST]
    lists = {"validation": "validation_list.txt", "test": "testing_list.txt"}
    with zipfile.ZipFile(target, "w") as archive:

        def add(name, content):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)

        for part, name in lists.items():
            add(name, "".join(f"{c[1]}\n" for c in clips if c[0] == part))
        for _, name, _, content in clips:
            add(name, content)
    counts = {part: sum(c[0] == part for c in clips) for part in PARTS}
    lengths = np.array([c[2] for c in clips])
    print(f"{target}: {counts}, {lengths.sum() / RATE:.0f} s; clips of {lengths.min()} to {lengths.max()} samples,")
    print(f"mean {lengths.mean():.0f}; {len(dropped)} longer than {LONGEST} left out; {sum(len(c[3]) for c in clips)} bytes")


if __name__ == "__main__":
    main()
