"""Frechet distances of the small experiment on deterministic shapes (tests/metric_shapes.rs).

Prints one line per row. The trace of the root is the nuclear norm of the product of the centred features, which
keeps full accuracy where covariances are close to singular; square roots of eigenvalues that round to 1e-17 do
not (they are off by 5e-6 for the collapsed set). Needs numpy.
"""

import numpy as np

from formula import bits as stream


def shape(i):
    v = [int(a) for a in stream(1000 + i, 9)]
    y, x = np.mgrid[:32, :32]
    inside = (x - 8 - v[0] % 16) ** 2 + (y - 8 - v[1] % 16) ** 2 <= (3 + v[2] % 6) ** 2
    colour = [np.array([c % 256 for c in part]) for part in (v[3:6], v[6:9])]
    return np.where(inside[..., None], colour[0], colour[1]).astype(np.uint8)


def noise(images, a):
    out = np.empty_like(images)
    for j, image in enumerate(images):
        shift = (stream(5_000_000 + j, 3072) % np.uint64(2 * a + 1)).astype(int) - a
        out[j] = np.clip(image.reshape(-1).astype(int) + shift, 0, 255).reshape(32, 32, 3)
    return out


def blur(images):
    p = np.pad(images.astype(int), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return sum(p[:, dy : dy + 32, dx : dx + 32] for dy in range(3) for dx in range(3)) // 9


def features(images):
    return images.reshape(-1, 8, 4, 8, 4, 3).astype(float).mean((2, 4)).reshape(len(images), -1) / 255


def frechet(a, b):
    (m1, m2), (n1, n2) = (a.mean(0), b.mean(0)), (len(a) - 1, len(b) - 1)
    x, y = (a - m1) / np.sqrt(n1), (b - m2) / np.sqrt(n2)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return ((m1 - m2) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * root


def main():
    real = features(np.stack([shape(i) for i in range(1000)]))
    clean = np.stack([shape(i) for i in range(1000, 2000)])
    rows = {
        "clean": clean,
        "noise 16": noise(clean, 16),
        "noise 64": noise(clean, 64),
        "noise 128": noise(clean, 128),
        "blur 3x3": blur(clean),
        "reversed": clean[..., ::-1],
        "collapse10": clean[np.arange(1000) % 10],
        "grey": np.repeat(clean.astype(int).sum(-1, keepdims=True) // 3, 3, -1),
    }
    for name, images in rows.items():
        print(f"{name:12s} {frechet(real, features(images)):.10f}")
    for n in (250, 500, 750):
        print(f"first {n:6d} {frechet(real, features(clean[:n])):.10f}")


if __name__ == "__main__":
    main()
