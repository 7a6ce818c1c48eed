"""What transformers' samplers keep of 1000 random distributions (tests/samplers.rs).

Usage: python scripts/golden/samplers.py [FILE]     (tests/fixtures/language/samplers.json)

The logits are those of a formula that the test evaluates too: sums of three numbers of SplitMix64, times a scale,
some of them rounded to quarters so that many tie. The file has the settings of each case and the set that is left, as
a number in hex with bit v for token v. One case in four puts all settings through the list that `generate` makes of
them, in its order.
"""

import json
import random
import sys
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as warpers

VOCAB, CASES, WORD = 50, 1000, (1 << 64) - 1


def stream(seed):
    """SplitMix64, the upper 24 bits as a number in [0, 1)."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & WORD
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        yield ((z ^ (z >> 31)) >> 40) / (1 << 24)


def logits(seed, scale, ties):
    numbers = stream(seed)
    out = []
    for _ in range(VOCAB):
        z = (next(numbers) + next(numbers) + next(numbers) - 1.5) * scale
        out.append(float(int((z + 64) * 4) / 4 - 64) if ties else z)
    return torch.tensor([out], dtype=torch.float64)


def some(pick, keys):
    """Random values of the settings `keys`; exact in f32, in which transformers keeps some of them."""
    share = lambda low, high: round(pick.uniform(low, high) * 4096) / 4096
    return {key: {
        "temperature": lambda: pick.choice([0.25, 0.5, 0.75, 1.25, 1.5, 2.0]),
        "top_h": lambda: share(0.05, 0.98), "top_k": lambda: pick.randint(1, 60), "top_p": lambda: share(0.02, 0.99),
        "min_p": lambda: share(0.01, 0.9), "typical_p": lambda: share(0.02, 0.99),
        "epsilon_cutoff": lambda: share(0.002, 0.3), "eta_cutoff": lambda: share(0.002, 0.6),
    }[key]() for key in keys}


def alone(settings, keep):
    made = {
        "temperature": lambda v: warpers.TemperatureLogitsWarper(v), "top_h": lambda v: warpers.TopHLogitsWarper(v),
        "top_k": lambda v: warpers.TopKLogitsWarper(v, min_tokens_to_keep=keep),
        "top_p": lambda v: warpers.TopPLogitsWarper(v, min_tokens_to_keep=keep),
        "min_p": lambda v: warpers.MinPLogitsWarper(v, min_tokens_to_keep=keep),
        "typical_p": lambda v: warpers.TypicalLogitsWarper(v, min_tokens_to_keep=keep),
        "epsilon_cutoff": lambda v: warpers.EpsilonLogitsWarper(v, min_tokens_to_keep=keep),
        "eta_cutoff": lambda v: warpers.EtaLogitsWarper(v, min_tokens_to_keep=keep),
    }
    return [made[key](value) for key, value in settings.items()]


def main():
    default = Path(__file__).resolve().parents[2] / "tests/fixtures/language/samplers.json"
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    pick = random.Random(20)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=8, n_embd=4, n_layer=1, n_head=1))
    keys = ["top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"]
    rows, sizes = [], []
    for case in range(CASES):
        scale, ties = pick.choice([1.0, 2.0, 4.0, 8.0, 16.0]), case % 5 == 4
        z = logits(case, scale, ties)
        if case % 4 == 3:
            settings = some(pick, ["temperature", *(key for key in keys if pick.random() < 0.4)])
            keep = 1
            config = GenerationConfig(do_sample=True, **({"top_k": 0} | settings))
            chain = model._get_logits_processor(config, input_ids_seq_length=1, encoder_input_ids=None,
                                                prefix_allowed_tokens_fn=None, logits_processor=[], device="cpu")
        else:
            key = keys[(case - case // 4 - 1) % len(keys)]
            settings = some(pick, [key] if case % 8 else ["temperature", key])
            keep = 1 if key == "top_h" else pick.choice([1, 1, 1, 2, 3, 7])
            chain = alone(settings, keep)
        for warper in chain:
            z = warper(None, z)
        kept = [v for v in range(VOCAB) if z[0, v] > -float("inf")]
        sizes.append(len(kept))
        rows.append([case, scale, ties, keep, settings, f"{sum(1 << v for v in kept):x}"])
    assert 1 == min(sizes) and max(sizes) > 40 and len(set(sizes)) > 30
    head = {"transformers": transformers.__version__, "torch": torch.__version__, "vocab": VOCAB}
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
