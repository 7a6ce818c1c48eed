"""What transformers' beam search, and contrastive search by its formula, make of the tiny models (tests/search.rs).

Usage: python scripts/golden/search.py [FILE]     (tests/fixtures/language/search.json)

Runs on the folders that `language.py` writes. The tokens that end a text are picked among those that beams without an
end would say, so that many beams do end. transformers has moved contrastive search out of the library: here it is the
plain loop, one whole pass for every candidate, nothing kept.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2] / "tests/fixtures/language"
NEW, VOCAB = 12, 96
PROMPTS = [[(i * 37 + 11) % (VOCAB - 3) + 3 for i in range(start, start + n)] for start, n in ((0, 11), (24, 5), (3, 1))]
BEAMS = [
    dict(num_beams=2), dict(num_beams=4), dict(num_beams=4, early_stopping=True),
    dict(num_beams=4, early_stopping="never"), dict(num_beams=3, length_penalty=0.0),
    dict(num_beams=3, length_penalty=2.0, early_stopping="never"), dict(num_beams=3, length_penalty=2.0),
    dict(num_beams=3, length_penalty=-1.0, early_stopping="never"), dict(num_beams=5, min_new_tokens=6),
    dict(num_beams=4, repetition_penalty=1.3), dict(num_beams=4, no_repeat_ngram_size=2, early_stopping=True),
    dict(num_beams=4, ends=2), dict(num_beams=6, ends=3, early_stopping="never", length_penalty=0.5),
]
CONTRASTIVE = [(0.6, 4), (0.3, 8), (0.9, 3), (0.0, 5), (1.0, 2)]


def load(family):
    return AutoModelForCausalLM.from_pretrained(ROOT / family, dtype=torch.float32, attn_implementation="eager").eval()


def beams(model, prompt, settings, eos):
    settings = dict(settings)
    settings.pop("ends", None)
    ids = torch.tensor([prompt])
    model.generation_config.eos_token_id = eos or None
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0,
                         eos_token_id=eos or None, num_return_sequences=settings["num_beams"],
                         return_dict_in_generate=True, output_scores=True, **settings)
    texts = []
    for row in out.sequences[:, len(prompt):].tolist():
        stop = next((i for i, token in enumerate(row) if token in eos), None)
        texts.append(row[:NEW] if stop is None else row[:stop])
    return texts, out.sequences_scores.tolist()


def contrastive(model, prompt, alpha, k):
    def run(tokens):
        ids = torch.tensor([tokens])
        return model.base_model(ids).last_hidden_state[0].double(), model(ids).logits[0, -1].double()
    said = list(prompt)
    gap = float("inf")
    for _ in range(NEW):
        hidden, logits = run(said)
        unit = hidden / hidden.norm(dim=-1, keepdim=True)
        p, tokens = logits.softmax(-1).topk(k)
        scores = []
        for q, token in zip(p.tolist(), tokens.tolist()):
            last = run([*said, token])[0][-1]
            scores.append((1 - alpha) * q - alpha * (unit @ (last / last.norm())).max().item())
        order = sorted(scores)
        gap = min(gap, order[-1] - order[-2])
        said.append(tokens[scores.index(order[-1])].item())
    assert gap > 1e-5, f"two candidates are nearly the same: {gap}"
    return said[len(prompt):]


@torch.no_grad()
def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "search.json"
    out = {"transformers": transformers.__version__, "prompts": PROMPTS, "new": NEW, "beams": [], "contrastive": []}
    torch.set_num_threads(1)
    ended = 0
    for family in ("gpt2", "llama", "gemma2"):
        model = load(family)
        for i, prompt in enumerate(PROMPTS):
            free, _ = beams(model, prompt, dict(num_beams=6), [])
            later = [token for text in free for token in text[2:]]
            common = sorted(set(later), key=lambda token: (-later.count(token), token))
            for settings in BEAMS:
                eos = common[:settings.get("ends", 1)]
                texts, scores = beams(model, prompt, settings, eos)
                ended += sum(len(text) < NEW for text in texts)
                kept = {k: v for k, v in settings.items() if k != "ends"}
                out["beams"].append([family, i, kept, eos, texts, scores])
            for alpha, k in CONTRASTIVE:
                out["contrastive"].append([family, i, alpha, k, contrastive(model, prompt, alpha, k)])
    print(f"{ended} beams of {sum(len(row[4]) for row in out['beams'])} end by a token", file=sys.stderr)
    head = {k: v for k, v in out.items() if k not in ("beams", "contrastive")}
    lines = [f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in out[key]) + "\n]" for key in ("beams", "contrastive")]
    path.write_text(json.dumps(head)[:-1] + ",\n" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
