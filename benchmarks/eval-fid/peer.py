"""The peers of `gen eval-fid`: pytorch-fid and clean-fid, each on two folders of images.

`prepare DIR` writes the folders and Inception weights made by a formula (the published ones are a download; the work is
the same). The tools' code runs unchanged but for the places where they would download weights.
"""

import argparse
import collections
import importlib.metadata
import json
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts/golden"))
import evaluation


def prepare(args):
    import numpy as np
    from PIL import Image

    for name, seed in (("a", 1), ("b", 2)):
        folder = args.dir / name
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        y, x = np.mgrid[:32, :32]
        for i in range(args.images):
            slopes, base = random.integers(0, 6, (2, 3)), random.integers(0, 200, 3)
            image = base + x[..., None] * slopes[0] + y[..., None] * slopes[1] + random.integers(0, 30, (32, 32, 3))
            Image.fromarray((image % 256).astype(np.uint8)).save(folder / f"{i:05}.png")
    state = collections.OrderedDict((k, evaluation.formula(k, s)) for k, s in evaluation.shapes().items())
    torch.save(state, args.dir / "inception.pth")


def pytorch_fid(args, state):
    import pytorch_fid.fid_score as tool
    import pytorch_fid.inception as net

    net.load_state_dict_from_url = lambda *_, **__: state
    return tool.calculate_fid_given_paths([str(args.dir / "a"), str(args.dir / "b")], 50, "cpu", 2048, args.threads)


def clean_fid(args, state):
    import cleanfid.features as features
    import cleanfid.fid as tool
    import pytorch_fid.inception as net

    net.load_state_dict_from_url = lambda *_, **__: state

    class Same(torch.nn.Module):
        """The network of NVIDIA's file: the same graph, fed as that file is."""

        def __init__(self, path, download=True, resize_inside=False):
            super().__init__()
            self.net = net.InceptionV3([3], resize_input=False, normalize_input=False)

        def forward(self, x):
            return self.net((x - 128) / 128)[0].flatten(1)

    features.InceptionV3W = Same
    return tool.compute_fid(str(args.dir / "a"), str(args.dir / "b"), mode="clean", device=torch.device("cpu"),
                            use_dataparallel=False, num_workers=args.threads, batch_size=50, verbose=False)


def statistics(args):
    """Two files of statistics of 2048 features."""
    import numpy as np

    random = np.random.default_rng(0)
    for name in ("a", "b"):
        x = random.standard_normal((4096, 2048)) * np.linspace(0.1, 1, 2048)
        np.savez(args.dir / f"{name}.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))


def root(args):
    """The distance between two such files: nearly all of the time goes into the root of the product."""
    import numpy as np
    import pytorch_fid.fid_score as tool

    # Its command line would build the network even for two files of statistics.
    files = [np.load(args.dir / name) for name in ("a.npz", "b.npz")]
    return tool.calculate_frechet_distance(*(file[key] for file in files for key in ("mu", "sigma")))


parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["prepare", "statistics", "pytorch-fid", "clean-fid", "root", "versions"])
parser.add_argument("--dir", type=pathlib.Path)
parser.add_argument("--images", type=int, default=256)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)
if args.what == "prepare":
    prepare(args)
elif args.what == "versions":
    names = ("torch", "pytorch-fid", "clean-fid", "scipy", "pillow")
    print(json.dumps({name: importlib.metadata.version(name) for name in names}))
elif args.what == "statistics":
    statistics(args)
elif args.what == "root":
    print(json.dumps({"fid": float(root(args))}))
else:
    state = torch.load(args.dir / "inception.pth")
    value = (pytorch_fid if args.what == "pytorch-fid" else clean_fid)(args, state)
    print(json.dumps({"fid": float(value)}))
