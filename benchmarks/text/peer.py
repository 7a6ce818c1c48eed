"""The peer of gen's language models: transformers on the CPU, random weights.

`save` writes a folder: GPT-2 of 124 M parameters, or a Llama of about the same size (`--kind llama`). `time` loads
it and times, for each batch and dtype, the prompt and greedy decoding one token at a time with kept keys and values;
one line of JSON each, the best of `--repeats` after a short run that is not counted. The loop is the plain one:
`model(input_ids, past_key_values, use_cache=True)`, argmax, next. `--generate` times `model.generate` instead, which
users call and which does more for each token. `--compile` compiles the step (a static cache, as transformers
recommends for it). `one` loads it and says one token, for start-up.
"""

import argparse
import json
import resource
import time

import torch
import transformers

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def save(args):
    torch.manual_seed(0)
    if args.kind == "gpt2":
        config = transformers.GPT2Config()
    else:
        config = transformers.LlamaConfig(
            vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
            num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True)
    if args.tiny:
        config = transformers.GPT2Config(vocab_size=256, n_positions=256, n_embd=64, n_layer=2, n_head=4,
                                         bos_token_id=1, eos_token_id=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.to(DTYPES[args.dtypes[0]]).save_pretrained(args.model)


def prompt(config, batch, length):
    return torch.arange(batch * length).mul(7919).remainder(config.vocab_size).view(batch, length)


def plain(model, tokens, new):
    start = time.perf_counter()
    out = model(tokens, use_cache=True, logits_to_keep=1)
    middle = time.perf_counter()
    for _ in range(new):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
    return middle - start, time.perf_counter() - middle


def generate(model, tokens, new):
    def run(n):
        start = time.perf_counter()
        model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n, min_new_tokens=n, do_sample=False,
                       pad_token_id=0)
        return time.perf_counter() - start
    prefill = run(1)
    return prefill, run(new + 1) - prefill


def static(model, tokens, new):
    """Fixed memory for keys and values, and a compiled step."""
    if not hasattr(model, "compiled"):
        model.compiled = torch.compile(model.forward)
    batch, length = tokens.shape
    cache = transformers.StaticCache(config=model.config, max_cache_len=length + new + 1)
    start = time.perf_counter()
    out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    middle = time.perf_counter()
    for i in range(new):
        token = out.logits[:, -1:].argmax(-1)
        place = torch.full((batch, 1), length + i)
        out = model.compiled(token, past_key_values=cache, use_cache=True, position_ids=place)
    return middle - start, time.perf_counter() - middle


@torch.no_grad()
def measure(args):
    torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    way = generate if args.generate else static if args.compile else plain
    for dtype in args.dtypes:
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPES[dtype]).eval()
        ready = time.perf_counter() - begun
        for batch in args.batch:
            tokens = prompt(model.config, batch, args.prompt)
            way(model, tokens, 2)
            runs = [way(model, tokens, args.new) for _ in range(args.repeats)]
            prefill, decode = (min(run[i] for run in runs) for i in (0, 1))
            print(json.dumps({
                "who": "transformers" + (", generate" if args.generate else ", torch.compile" if args.compile else ""),
                "dtype": dtype, "batch": batch, "prompt": args.prompt, "new": args.new, "threads": args.threads,
                "prefill_tokens_per_s": batch * args.prompt / prefill, "decode_tokens_per_s": batch * args.new / decode,
                "ready_s": ready, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }), flush=True)


@torch.no_grad()
def one(args):
    torch.set_num_threads(args.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPES[args.dtypes[0]]).eval()
    print(model(torch.tensor([[97]])).logits[0, -1].argmax().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["save", "time", "one", "versions"])
    parser.add_argument("--model")
    parser.add_argument("--kind", choices=["gpt2", "llama"], default="gpt2")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["f32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.what == "versions":
        print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}))
    else:
        {"save": save, "time": measure, "one": one}[args.what](args)


if __name__ == "__main__":
    main()
