"""Which of transformers' model families work: a tiny random model of each, made from its configuration.

Each is prepared and checked as `gspo train` does it: log-probabilities and gradients of packed groups against the
model's own forward pass, and cached decoding against both; then greedy sampling is compared with transformers'
`generate`, token for token. Without arguments the table of all families is printed (some minutes); `--write` puts it
into docs/models.md.

    python benchmarks/families.py llama gemma2
    python benchmarks/families.py --write docs/models.md
"""

from __future__ import annotations

import argparse
import copy
import inspect
import logging
import re
import string
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gspo.groups import Prompt
from gspo.models import Policy, prepare_model, verify_packed_forward
from gspo.models.scratch import character_tokenizer
from gspo.rollout import LocalEngine, SamplingParams
from gspo.rollout.local.checking import verify_sampling

__all__ = ["FAMILIES", "Verdict", "judge", "table", "tiny_config"]

FAMILIES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
"""The names (`model_type`) of all families with a causal language model."""

WORKS, UNFUSED, REFUSED, UNMADE = "works", "works without fused kernels", "refused", "no tiny model"

# Parameters of a tiny model; more come from a default that no size below replaces.
_LARGEST = 1e8
# Sizes by the names that configurations have for them.
_HIDDEN, _LAYERS, _HEADS, _POSITIONS, _WINDOW = 32, 4, 4, 128, 12
_SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": _HIDDEN, "d_model": _HIDDEN, "n_embd": _HIDDEN, "dim": _HIDDEN,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "ffn_hidden_size": 48, "decoder_ffn_dim": 48,
    "shared_intermediate_size": 48, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
    "intermediate_size_mlp": 48, "expert_ffn_hidden_size": 24, "moe_ffn_hidden_size": 24, "dense_intermediate_size": 48,
    "num_hidden_layers": _LAYERS, "n_layer": _LAYERS, "n_layers": _LAYERS, "num_layers": _LAYERS,
    "decoder_layers": _LAYERS, "encoder_layers": _LAYERS,
    "num_attention_heads": _HEADS, "n_head": _HEADS, "n_heads": _HEADS, "num_heads": _HEADS,
    "decoder_attention_heads": _HEADS, "encoder_attention_heads": _HEADS, "num_key_value_heads": 2,
    "head_dim": 8, "kv_channels": 8, "global_head_dim": 8, "attention_head_dim": 8,
    "max_position_embeddings": _POSITIONS, "n_positions": _POSITIONS, "max_seq_len": _POSITIONS,
    "original_max_position_embeddings": _POSITIONS,
    "sliding_window": _WINDOW, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "n_shared_experts": 1, "num_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "index_topk": 64, "index_n_heads": 2,
    "index_head_dim": 16, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "state_size": 8, "ssm_state_size": 8, "n_groups": 1, "mamba_n_groups": 1, "time_step_rank": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "lru_width": _HIDDEN, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96,
    "query_pre_attn_scalar": 8, "laurel_rank": 4, "max_window_layers": 2, "word_embed_proj_dim": _HIDDEN,
    "embedding_size": _HIDDEN,
}  # fmt: skip
# What a family needs besides.
_SPECIAL: dict[str, dict[str, Any]] = {
    "phi3": {"rope_parameters": None},
    "qwen2": {"use_sliding_window": True},
    "gemma3n_text": {"num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * _LAYERS},
    "gemma3n": {"num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * _LAYERS},
    "olmo": {"clip_qkv": 0.5},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
}


@dataclass(frozen=True)
class Verdict:
    """What became of a family.

    Attributes:
        family: its `model_type`.
        model: the class of its causal language model.
        outcome: one of WORKS, UNFUSED, REFUSED and UNMADE.
        why: the reason of the last two, and of UNFUSED.
    """

    family: str
    model: str
    outcome: str
    why: str = ""


def tiny_config(family: str) -> PreTrainedConfig:
    """The configuration of a tiny model: its class's own defaults, with small sizes wherever it has a size."""
    return _sized(CONFIG_MAPPING[family], _SPECIAL.get(family, {}))


def _sized(kind: Any, special: dict[str, Any]) -> PreTrainedConfig:
    names = {*inspect.signature(kind.__init__).parameters, *(getattr(kind, "attribute_map", None) or {}).values()}
    given: dict[str, Any] = {name: value for name, value in _SIZES.items() if name in names}
    parts = getattr(kind, "sub_configs", None) or {}
    for name in ("text_config", "llm_config"):
        if name in parts and inspect.isclass(parts[name]) and name in names:
            given[name] = _sized(parts[name], special).to_dict()
            given = {key: value for key, value in given.items() if key == name}
    for name in ("vision_config", "audio_config"):
        if name in parts and inspect.isclass(parts[name]) and parts[name] is not AutoConfig and name in names:
            given[name] = {**_sized(parts[name], {}).to_dict(), "image_size": 28, "patch_size": 14}
    if "kv_lora_rank" in given and "num_key_value_heads" in given:
        given["num_key_value_heads"] = _HEADS  # latent attention has keys for every head
    if "layer_types" in names and getattr(kind, "layer_types", None):
        given["layer_types"] = [list(kind.layer_types)[number % len(kind.layer_types)] for number in range(_LAYERS)]
    return kind(**given, **{key: value for key, value in special.items() if key in names or not parts})


def _tiny_model(family: str) -> PreTrainedModel:
    """Random weights, larger than usual, so that attention and logits are far from uniform."""
    config = tiny_config(family)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if size > _LARGEST:
        raise ValueError(f"its sizes go by other names: {size / 1e6:.0f}M parameters")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in name:
                parameter.normal_(std=0.15)
    return model


def judge(family: str) -> Verdict:
    """Makes a tiny model of a family and puts it through everything."""
    torch.manual_seed(0)
    name = str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
    try:
        model = _tiny_model(family)
    except Exception as error:
        return Verdict(family, name, UNMADE, _line(error))
    name, failures = type(model).__name__, []
    for fused in (True, False):
        try:
            _put_through(copy.deepcopy(model), fused)
        except Exception as error:
            failures.append(_line(error).removeprefix(f"{name}: ").removeprefix(name).strip())
        else:
            return Verdict(family, name, UNFUSED if failures else WORKS, "".join(failures))
    return Verdict(family, name, REFUSED, failures[-1])


def _put_through(model: PreTrainedModel, fused: bool) -> None:
    plain, longest = copy.deepcopy(model), 40
    policy = Policy(model, compute=prepare_model(model, use_fused_kernels=fused))
    verify_packed_forward(policy, longest, gradients=True)
    verify_sampling(policy, longest)
    tokenizer = character_tokenizer(string.ascii_letters)
    engine = LocalEngine(policy, tokenizer)
    prompts = [Prompt("f:0", (5, 9, 7, 30), "", ""), Prompt("f:1", tuple(range(8, 26)), "", "")]
    plain.config._attn_implementation = "eager"
    for group in engine.generate(prompts, SamplingParams(16, temperature=0, ignore_eos=True), n=1, step=1):
        ids = torch.tensor([group.prompt.token_ids])
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 16, "min_new_tokens": 16}
        expected: Any = plain.generate(ids, **given, do_sample=False, eos_token_id=None, pad_token_id=0)
        if group.responses[0].token_ids != expected[0, ids.shape[1] :].tolist():
            raise ValueError("greedy sampling differs from transformers' generate")


def _line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\s+", " ", text).split("; train a model of another")[0].split(": train a model of another")[0]


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table."""
    rows = [f"| `{v.family}` | {v.model} | {v.outcome} | {v.why.replace('|', '/')} |" for v in verdicts]
    return "\n".join(["| `model_type` | model | outcome | why |", "|---|---|---|---|", *rows])


def _judged(families: Sequence[str]) -> Iterator[Verdict]:
    for number, family in enumerate(families, 1):
        verdict = judge(family)
        print(f"{number}/{len(families)} {family}: {verdict.outcome} {verdict.why}", file=sys.stderr, flush=True)
        yield verdict


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="model_type of transformers; default: all")
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the table behind the last line of this page")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    unknown = sorted({*args.families} - {*FAMILIES})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    text = table(list(_judged(args.families or FAMILIES)))
    if args.write is None:
        print(text)
    else:
        page = args.write.read_text(encoding="utf-8")
        args.write.write_text(page[: page.index("| `model_type`")] + text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
