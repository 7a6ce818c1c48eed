"""Tiny DINOv2 and CLIP networks with random weights and what transformers says of them (tests/vit.rs).

Usage: python scripts/golden/vision_transformers.py tests/fixtures/vit

One folder each, in the form of the published ones (`config.json`, `model.safetensors`), and one file in the layout
of facebookresearch/dinov2. `golden.safetensors` holds the features of two images, from the 8-bit picture on: PIL
resizes, transformers' networks give the class token. DINOv2's own code resizes its table of positions by a scale of
(n + 0.1) / m; transformers does so by size: both are recorded. Needs torch,
transformers, safetensors, and pillow below 13 (see resize.py).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

SHAPES = ((48, 64), (300, 210))


def picture(h, w):
    y, x, c = np.mgrid[:h, :w, :3]
    return Image.fromarray(((7 * x + 13 * y + 29 * c + 90 * ((x // 8 + y // 8) % 2)) % 256).astype(np.uint8))


def normalised(image, mean, std):
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
    return ((x - mean) / std).float()[None]


def dinov2_input(image):
    return normalised(image.resize((224, 224), Image.BICUBIC), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def clip_input(image):
    w, h = image.size
    short = min(w, h)
    size = (224, int(224 * h / w)) if w == short else (int(224 * w / h), 224)
    image = image.resize(size, Image.BICUBIC)
    left, top = (int(round((s - 224) / 2.0)) for s in size)
    image = image.crop((left, top, left + 224, top + 224))
    return normalised(image, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.3 if p.dim() < 2 or "embedding" in name or "token" in name else 0.7 / p.shape[-1] ** 0.5
            value = torch.randn(p.shape, generator=generator) * scale
            if name.endswith("norm1.weight") or name.endswith("norm2.weight") or "lambda1" in name:
                value += 1
            p.copy_(value.half())  # the files are of 16 bits, to be small
    return model.eval()


RENAME = [  # transformers' module names to those of the published files
    ("attention.q_proj", "attention.attention.query"), ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"), ("attention.o_proj", "attention.output.dense"),
    ("mlp.down_proj", "mlp.weights_out"),
]


def published(state):
    out = {}
    for name, value in state.items():
        for a, b in RENAME:
            name = name.replace(a, b)
        out[name] = value.clone().contiguous()
    for name in [n for n in out if "mlp.gate_proj" in n]:
        up = name.replace("gate_proj", "up_proj")
        out[name.replace("gate_proj", "weights_in")] = torch.cat([out.pop(name), out.pop(up)])
    return out


def facebook(state, depth):
    """The layout of facebookresearch/dinov2 (and of torch.hub)."""
    names = {
        "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token",
        "embeddings.position_embeddings": "pos_embed", "embeddings.register_tokens": "register_tokens",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
    }
    out = {b: state[a] for a, b in names.items() if a in state}
    for i in range(depth):
        p, q = f"encoder.layer.{i}.", f"blocks.{i}."
        for part in ("weight", "bias"):
            out[f"{q}attn.qkv.{part}"] = torch.cat(
                [state[f"{p}attention.attention.{n}.{part}"] for n in ("query", "key", "value")]
            )
            pairs = [("norm1", "norm1"), ("norm2", "norm2"), ("attention.output.dense", "attn.proj")]
            pairs += [("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
            pairs += [("mlp.weights_in", "mlp.w12"), ("mlp.weights_out", "mlp.w3")]
            for a, b in pairs:
                if f"{p}{a}.{part}" in state:
                    out[f"{q}{b}.{part}"] = state[f"{p}{a}.{part}"]
        for k in (1, 2):
            out[f"{q}ls{k}.gamma"] = state[f"{p}layer_scale{k}.lambda1"]
    return out


def hub_positions(model, antialias, offset):
    """The table of positions as facebookresearch/dinov2 resizes it."""
    table, patch = model.embeddings.position_embeddings, model.config.patch_size
    side = int((table.shape[1] - 1) ** 0.5)

    def resize(embeddings, height, width):
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        n = height // patch
        how = {"scale_factor": ((n + offset) / side,) * 2} if offset else {"size": (n, n)}
        grid = torch.nn.functional.interpolate(grid, mode="bicubic", antialias=antialias, **how)
        assert grid.shape[-1] == n
        return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)

    return resize


@torch.no_grad()
def main():
    root = Path(sys.argv[1])
    golden = {}
    images = [picture(*s) for s in SHAPES]

    def save(name, model, state):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        config = model.config.to_dict()
        (folder / "config.json").write_text(json.dumps(config, indent=1, default=str, sort_keys=True) + "\n")
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})

    base = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, patch_size=14, image_size=70, qkv_bias=True)
    for name, extra, seed in (("dinov2", {"num_attention_heads": 1}, 1), ("dinov2-giant", {"use_swiglu_ffn": True}, 2)):
        model = randomise(transformers.Dinov2Model(transformers.Dinov2Config(**(base | extra))), seed)
        state = published(model.state_dict())
        save(name, model, state)
        x = torch.cat([dinov2_input(i) for i in images])
        golden[f"{name}/by-size"] = model(x).pooler_output.clone()
        model.embeddings.interpolate_pos_encoding = hub_positions(model, False, 0.1)
        golden[f"{name}/hub"] = model(x).pooler_output.clone()
        if name == "dinov2":
            torch.save({k: v.half() for k, v in facebook(state, 2).items()}, root / "dinov2_vits14.pth")
            golden["dinov2/input-sum"] = x.double().sum((1, 2, 3))

    config = transformers.Dinov2WithRegistersConfig(**base, num_register_tokens=3)
    model = randomise(transformers.Dinov2WithRegistersModel(config), 3)
    save("dinov2-registers", model, published(model.state_dict()))
    golden["dinov2-registers/by-size"] = model(torch.cat([dinov2_input(i) for i in images])).pooler_output.clone()

    text = dict(hidden_size=8, intermediate_size=16, num_attention_heads=1, num_hidden_layers=1, vocab_size=16)
    vision = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2, patch_size=16,
                  image_size=224)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    model = randomise(transformers.CLIPModel(config), 4)
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(197)[None]
    save("clip", model, state)
    x = torch.cat([clip_input(i) for i in images])
    out = model.get_image_features(pixel_values=x)
    golden["clip"] = (out if torch.is_tensor(out) else out.pooler_output).clone()
    save_file({k: v.contiguous() for k, v in golden.items()}, root / "golden.safetensors",
              metadata={"transformers": transformers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
