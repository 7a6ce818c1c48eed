"""Numbers that both sides of a fixture can make: SplitMix64, seeded with FNV-1a-64 of a name."""
import numpy as np


def fnv(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    return h


def bits(seed, n):
    """The first n numbers of 64 bits."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name, n):
    """n numbers in [0, 1) with 53 bits."""
    return (bits(fnv(name), n) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
