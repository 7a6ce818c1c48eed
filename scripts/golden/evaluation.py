"""What pytorch-fid, clean-fid and torch-fidelity say of two small folders (tests/metric_parity.rs).

Usage: python scripts/golden/evaluation.py tests/fixtures/evaluation

Writes the folders `a` (generated) and `b` (real) of images of mixed sizes and kinds, and `golden.json` with
features, FID, KID, Inception Score, precision and recall of every tool; and JPEG files with what PIL makes of them. The Inception weights are those of a formula
(tests/common/formula.rs fills the same network), as the published file is large; the code of the tools is run
unchanged but for the places where they would download weights.

Needs torch, torchvision, pytorch-fid 0.3, clean-fid 0.1.35, torch-fidelity 0.4, scipy, pillow.
"""

import collections
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from formula import bits as stream, fnv

COUNT = 16
COLUMNS = list(range(0, 2048, 157))


def picture(seed, bright):
    """Slopes of three channels with a disc on them."""
    v = [int(a) for a in stream(seed, 16)]
    h, w = 32 + v[0] % 49, 32 + v[1] % 49
    y, x = np.mgrid[:h, :w]
    base = [v[2] % 160, v[3] % 160, v[4] % 160]
    slopes = [(v[5 + c] % 5, v[8 + c] % 5) for c in range(3)]
    out = np.stack([(base[c] + slopes[c][0] * x + slopes[c][1] * y) % 256 for c in range(3)], -1)
    inside = (x - v[11] % w) ** 2 + (y - v[12] % h) ** 2 <= (6 + v[13] % 14) ** 2
    out[inside] = [bright, v[14] % 256, v[15] % 256]
    return out.astype(np.uint8)


def write_images(folder, first, bright):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(COUNT):
        array = picture(first + i, bright)
        image, name = Image.fromarray(array), folder / f"{i:02}.png"
        kind = i % 8
        if kind == 2:
            image.putalpha(Image.fromarray((array[..., 0] // 2 + 64).astype(np.uint8)))
        elif kind == 3:
            image = image.convert("L")
        elif kind == 4:
            image = image.quantize(16, dither=Image.Dither.NONE)
        elif kind == 5:
            image = image.convert("LA")
        image.save(name, optimize=True)


def write_jpeg(folder, seed):
    """JPEG files, and what PIL decodes them to."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, subsampling in enumerate((0, 2)):
        Image.fromarray(picture(seed + i, 250)).save(folder / f"{i}.jpg", quality=92, subsampling=subsampling)
        Image.open(folder / f"{i}.jpg").convert("RGB").save(folder / f"{i}.png", optimize=True)


def formula(name, shape):
    n = int(np.prod(shape))
    u = (stream(fnv(name), n) >> np.uint64(40)).astype(np.float64) / 2**24
    if name.endswith("conv.weight"):
        u = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        u = 0.75 + 0.5 * u
    elif name.endswith("running_var"):
        u = 0.5 + u
    elif name == "fc.weight":
        u = (2 * u - 1) * np.sqrt(6 / 2048)
    elif name == "fc.bias":
        u = 2 * u - 1
    else:
        u = 0.2 * (2 * u - 1)
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def shapes():
    from torchvision.models import inception_v3

    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    return {k: tuple(v.shape) for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


def of_pytorch_fid(a, b, state):
    import pytorch_fid.fid_score as tool
    import pytorch_fid.inception as net

    net.load_state_dict_from_url = lambda *_, **__: state
    model = net.InceptionV3([3])
    out = {}
    for name, folder in (("a", a), ("b", b)):
        files = sorted(f for ext in tool.IMAGE_EXTENSIONS for f in folder.glob(f"*.{ext}"))
        # Images of one batch must be equally large there.
        out[name] = tool.get_activations(files, model, batch_size=1, num_workers=0)
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (out["a"], out["b"])]
    out["fid"] = float(tool.calculate_frechet_distance(*moments[0], *moments[1]))
    return out


def of_clean_fid(a, b, state, mode):
    import cleanfid.features as features
    import cleanfid.fid as tool
    import cleanfid.inception_pytorch as own
    import pytorch_fid.inception as net
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as tf1

    net.load_state_dict_from_url = own.load_state_dict_from_url = lambda *_, **__: state

    class Same(torch.nn.Module):
        """The network of NVIDIA's file: the same graph, fed as that file is."""

        def __init__(self, path, download=True, resize_inside=False):
            super().__init__()
            self.net, self.resize_inside = net.InceptionV3([3], resize_input=False, normalize_input=False), resize_inside

        def forward(self, x):
            if self.resize_inside:
                x = tf1(x.float(), size=(299, 299), align_corners=False)
            return self.net((x - 128) / 128)[0].flatten(1)

    features.InceptionV3W = Same
    model = features.build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
    out = {}
    for name, folder in (("a", a), ("b", b)):
        out[name] = tool.get_folder_features(
            str(folder), model, num_workers=0, batch_size=1, device=torch.device("cpu"), mode=mode, verbose=False
        )
    out["fid"] = float(tool.fid_from_feats(out["a"], out["b"]))
    np.random.seed(0)
    # All of both sets in every subset: the order of drawing does not matter.
    out["kid"] = float(tool.kernel_distance(out["a"].astype(np.float64), out["b"].astype(np.float64), num_subsets=2))
    return out


def of_torch_fidelity(a, b, path):
    import torch_fidelity
    from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

    settings = dict(
        input1=str(a), input2=str(b), cuda=False, batch_size=1, cache=False, verbose=False, samples_find_ext="png,jpg",
        feature_extractor_weights_path=str(path), isc=True, fid=True, kid=True, prc=True, isc_splits=4, kid_subsets=100,
        kid_subset_size=10, feature_extractor="inception-v3-compat",
    )
    metrics = torch_fidelity.calculate_metrics(**settings)
    extractor = create_feature_extractor(
        "inception-v3-compat", ["64", "192", "768", "2048"], **settings
    )
    out = {}
    for i, name in ((1, "a"), (2, "b")):
        found = extract_featuresdict_from_input_id(i, extractor, **settings)
        out[name] = found["2048"].double().numpy()
        for layer in ("64", "192", "768"):
            out[f"{name}{layer}"] = [float(x) for x in found[layer].double().sum(1)]
    return out | {k: float(v) for k, v in metrics.items()}


def main():
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    a, b = root / "a", root / "b"
    write_images(a, 7000, 250)
    write_images(b, 8000, 200)
    write_jpeg(root / "jpeg", 9000)
    state = collections.OrderedDict((k, formula(k, s)) for k, s in shapes().items())
    tools = {"pytorch-fid": of_pytorch_fid(a, b, state)}
    for mode in ("clean", "legacy_pytorch", "legacy_tensorflow"):
        tools[f"clean-fid {mode}"] = of_clean_fid(a, b, state, mode)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(state, path)
        tools["torch-fidelity"] = of_torch_fidelity(a, b, path)
    for found in tools.values():
        for name in "ab":
            found[name] = [[float(f"{v:.8g}") for v in row[COLUMNS]] for row in found[name]]
    packages = ("torch", "pytorch-fid", "clean-fid", "torch-fidelity", "scipy", "pillow", "numpy")
    versions = {p: importlib.metadata.version(p) for p in packages}
    text = json.dumps({"versions": versions, "columns": COLUMNS, "tools": tools}, indent=None)
    (root / "golden.json").write_text(text.replace('], [', '],\n [') + "\n")


if __name__ == "__main__":
    main()
