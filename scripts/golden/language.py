"""Tiny language models with random weights and what transformers says of them (tests/language.rs).

Usage: python scripts/golden/language.py [FOLDER]     (tests/fixtures/language)

One folder for each family, as `save_pretrained` writes it (the weights in 16 bits, which are exact in 32; one is in
shards, one a pickle). `golden.safetensors` holds for each case the logits of two sequences, and, for two prompts of unequal length filled up on the left, the
tokens that greedy search gives. `perplexity.json` has nats per token by sliding windows. Cases of the same family differ in their `config.json` only: `cases.json` has the
changes. `tokenizer.json` is trained here on a few sentences; `text.json` has its tokens and what transformers makes
of conversations with templates in the styles in use.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB, NEW = 96, 12
LENGTHS = (11, 5)

SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
FAMILIES = {
    "gpt2": transformers.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1,
                                    eos_token_id=2, pad_token_id=0),
    "llama": transformers.LlamaConfig(**SMALL),
    "mistral": transformers.MistralConfig(**SMALL | dict(head_dim=16, sliding_window=7)),
    "qwen2": transformers.Qwen2Config(**SMALL | dict(tie_word_embeddings=True)),
    "qwen3": transformers.Qwen3Config(**SMALL | dict(head_dim=16)),
    "gemma": transformers.GemmaConfig(**SMALL | dict(head_dim=16, num_key_value_heads=1)),
    "gemma2": transformers.Gemma2Config(**SMALL | dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=24,
                                                       attn_logit_softcapping=1.5, final_logit_softcapping=4.0)),
}
# name of the case: (family, changes of config.json)
CASES = {name: (name, {}) for name in FAMILIES} | {
    "gpt2-by-block": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 5000.0}}),
    "llama-dynamic": ("llama", {"max_position_embeddings": 16,
                                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
    "llama-llama3": ("llama", {"rope_parameters": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_theta": 10000.0}}),
    "llama-yarn": ("llama", {"rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
                               "layer_types": None}),
    "gemma2-plain": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
}


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    done = set()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.data_ptr() in done:
                continue
            done.add(p.data_ptr())
            vector, table = p.dim() < 2, any(word in name for word in ("embed", "wte", "wpe"))
            scale = 0.2 if vector else 0.1 if table else 2.0 / p.shape[-1] ** 0.5
            value = torch.randn(p.shape, generator=generator) * scale
            if vector and name.endswith("weight") and "gemma" not in type(model).__name__.lower():
                value += 1
            p.copy_(value.half())
    return model.eval()


def changed(folder, changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    return {k: v for k, v in config.items() if v is not None or k not in changes or "softcapping" in k}


@torch.no_grad()
def case(root, name, family, changes, golden):
    folder = root / family
    kept = (folder / "config.json").read_text()
    try:
        (folder / "config.json").write_text(json.dumps(changed(folder, changes)))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    finally:
        (folder / "config.json").write_text(kept)
    tokens = torch.arange(48).mul(37).add(11).remainder(VOCAB - 3).add(3).view(2, 24)
    golden[f"{name}/logits"] = model(tokens).logits
    if "dynamic" in name:
        return  # what transformers keeps of earlier keys depends on the longest text so far
    ids = torch.zeros(2, max(LENGTHS), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, max(LENGTHS) - length:] = tokens[row, :length]
        mask[row, max(LENGTHS) - length:] = 1
    model.generation_config.eos_token_id = None  # so that both go on to the end
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert out.shape[1] == max(LENGTHS) + NEW
    golden[f"{name}/greedy"] = out[:, max(LENGTHS):]


TEXT = """The quick brown fox jumps over the lazy dog. In the beginning there was noise, and the noise was normal.
A model looks back at what was said, and says what it says next; that is all. Caf\u00e9, na\u00efve, \u4f60\u597d, 3.14159!
One two three four five six seven eight nine ten. It's what they'd said they'll do, isn't it?
"""

TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "headers": "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined and false %}\n        {%- set date_string = strftime_now('%d') %}\n    {%- else %}\n        {%- set date_string = '26 Jul 2024' %}\n    {%- endif %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n{{- '<|start|>system<|end|>\\n\\n' }}\n{{- 'Today: ' + date_string + '\\n\\n' }}\n{{- system_message }}\n{%- for message in messages %}\n    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + eos_token }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start|>assistant<|end|>\\n\\n' }}\n{%- endif %}\n",
    "turns": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}",
    "inst": "{%- set ns = namespace(first=true) %}\n{{- bos_token }}\n{%- for message in messages %}\n    {%- if message.role == 'user' %}\n        {%- if ns.first %}{{ '[INST] ' }}{% set ns.first = false %}{% else %}{{ ' [INST] ' }}{% endif %}\n        {{- message.content.strip() + ' [/INST]' }}\n    {%- elif message.role == 'assistant' %}\n        {%- if '</think>' in message.content %}\n            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}\n        {%- else %}\n            {%- set content = message.content %}\n        {%- endif %}\n        {{- ' ' + content.rstrip() + eos_token }}\n    {%- else %}\n        {{- message | tojson }}\n    {%- endif %}\n{%- endfor %}\n",
}
TALKS = {
    "plain": [{"role": "user", "content": " Hello <there> "}],
    "three": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>x</think>\nHello\n"},
              {"role": "user", "content": "Why?\n"}],
    "system": [{"role": "system", "content": "Be brief & \"kind\""}, {"role": "user", "content": "Hi"}],
}


def text(root):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False))
    tok.save(str(root / "tokenizer.json"), pretty=False)
    samples = [TEXT, "Hello, I'm a language model,", "\U0001f600 na\u00efve caf\u00e9\n\n  two  spaces", "</s> the <s>", ""]
    out = {"samples": [[s, tok.encode(s).ids, tok.decode(tok.encode(s).ids, skip_special_tokens=True)] for s in samples]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    out["chats"] = []
    for name, template in TEMPLATES.items():
        for talk, messages in TALKS.items():
            for reply in (True, False):
                try:
                    rendered = fast.apply_chat_template(messages, chat_template=template, tokenize=False,
                                                        add_generation_prompt=reply)
                except Exception as e:
                    rendered = {"refused": str(e)}
                out["chats"].append([name, messages, reply, rendered])
    out["templates"] = TEMPLATES
    (root / "text.json").write_text(json.dumps(out, indent=1) + "\n")


@torch.no_grad()
def perplexity(root):
    """Sliding windows as Hugging Face's guide to the perplexity of models of fixed length has them."""
    text = torch.arange(150).pow(2).mul(13).add(torch.arange(150).mul(7)).remainder(VOCAB)
    out = {"tokens": text.tolist()}
    for name in ("gpt2", "llama"):
        model = AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float64, attn_implementation="eager").eval()
        for context, stride in ((64, 32), (64, 63), (48, 5), (20, 1)):
            total, count, scored = 0.0, 0, 0
            for begin in range(0, len(text), stride):
                end = min(begin + context, len(text))
                ids = text[begin:end].unsqueeze(0)
                labels = ids.clone()
                labels[:, : -(end - scored)] = -100
                valid = int((labels[:, 1:] != -100).sum())
                total += float(model(ids, labels=labels).loss) * valid
                count += valid
                scored = end
                if end == len(text):
                    break
            assert count == len(text) - 1
            out[f"{name}/{context}/{stride}"] = total / count
    (root / "perplexity.json").write_text(json.dumps(out) + "\n")


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "tests/fixtures/language"
    root.mkdir(parents=True, exist_ok=True)
    golden = {}
    for seed, (name, config) in enumerate(FAMILIES.items()):
        model = randomise(AutoModelForCausalLM.from_config(config), seed + 1)
        # bf16 keeps fewer digits: what is saved is what is run.
        dtype = torch.bfloat16 if name == "gemma" else torch.float16
        model.to(dtype).save_pretrained(root / name, max_shard_size="20KB" if name == "llama" else "1GB")
        (root / name / "generation_config.json").unlink(missing_ok=True)
        if name == "qwen2":
            (root / name / "model.safetensors").unlink()
            state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
            torch.save(state, root / name / "pytorch_model.bin")
    for name, (family, changes) in CASES.items():
        if family == "qwen2":
            model = randomise(AutoModelForCausalLM.from_config(FAMILIES["qwen2"]), 4).half()
            model.save_pretrained(root / family)
        case(root, name, family, changes, golden)
        if family == "qwen2":
            for extra in ("model.safetensors", "generation_config.json"):
                (root / family / extra).unlink(missing_ok=True)
    (root / "cases.json").write_text(json.dumps({n: [f, c] for n, (f, c) in CASES.items()}, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in golden.items()}, root / "golden.safetensors",
              metadata={"transformers": transformers.__version__, "torch": torch.__version__})
    text(root)
    perplexity(root)


if __name__ == "__main__":
    main()
