"""PIL's bicubic resampling of one image, of 8 bits and in floating point (tests/metric_parity.rs).

Usage: python scripts/golden/resize.py tests/fixtures/evaluation/resize.safetensors

Needs pillow below 13, as vision_transformers.py does: from 13 on columns are resampled before rows where the height
shrinks more than the width, which changes pictures of 8 bits by up to 20 levels at hard edges. Published numbers
were made by older versions.
"""

import sys

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file


def main():
    h, w = 37, 53
    y, x, c = np.mgrid[:h, :w, :3]
    image = ((7 * x + 13 * y + 29 * c + 90 * ((x // 8 + y // 8) % 2)) % 256).astype(np.uint8)
    out = {}
    for height, width in ((24, 20), (60, 80), (37, 100), (11, 53), (24, 100)):
        name = f"{height}x{width}"
        out[f"u8-{name}"] = np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))
        plane = Image.fromarray(image[..., 1].astype(np.float32))
        out[f"f32-{name}"] = np.asarray(plane.resize((width, height), Image.BICUBIC))
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, sys.argv[1], {"pillow": PIL.__version__})


if __name__ == "__main__":
    main()
