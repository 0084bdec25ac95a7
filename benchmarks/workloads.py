"""The workloads: a model of a given shape with random weights, prompts, and how responses are sampled and trained on.

Everything follows from fixed seeds. This file needs torch, transformers and tokenizers only, so that another library's
environment can read it too.

How long responses are is built into the weights, so that it is the same in every framework and costs none of them
anything: coordinate 0 of the residual stream is the same number at every token (the embedding sets it, no layer writes
to it), and the output head's row of the end token reads that coordinate alone. Its entry there sets the end token's
chance: about `end_rate` at each token, or none at all. Where the embedding is the output head too, the end token's own
entry is the others' with the other sign: then it has no chance.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = [
    "WORKLOADS",
    "Workload",
    "main",
    "make_model",
    "prepare",
    "prepare_apart",
    "read_prompts",
    "read_token_ids",
    "token_reward",
]

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
END = SPECIAL.index("<eos>")
_SEED = 0
_CONSTANT = 1.0  # coordinate 0 of the residual stream; embeddings are 0.02 wide, so it carries most of the norm
_NEVER = -2.0  # the end token's entry where it is to have no chance: a logit of about -40


@dataclass(frozen=True)
class Workload:
    """One step's work.

    Attributes:
        name: W1, W2, ...
        hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size, vocab_size: the Llama's shape.
        tied: whether the embedding is the output head.
        num_prompts: prompts of a step.
        n: responses of each.
        prompt_lengths: shortest and longest prompt, in tokens; lengths in between are equally likely.
        max_tokens: a response is cut after so many tokens.
        end_rate: chance of the end token at each token; None: every response has `max_tokens`.
        mini_batches: optimizer steps of a step.
        discriminator: whether GAD's discriminator is trained too, on a teacher's text for each prompt.
        micro_batch_tokens: most tokens of one pass of this project's update; W3's are those of one group, which is as
            fast as all at a time and takes less memory.
        lr: learning rate; small, so that lengths stay as they are over a measurement.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    num_prompts: int
    n: int
    prompt_lengths: tuple[int, int]
    max_tokens: int
    end_rate: float | None
    mini_batches: int
    discriminator: bool = False
    micro_batch_tokens: int = 16384
    lr: float = 1e-6

    @property
    def mini_batch_prompts(self) -> int:
        """Prompts of an optimizer step."""
        return self.num_prompts // self.mini_batches


_W2 = Workload(
    "W2", hidden_size=384, num_layers=8, num_heads=6, num_kv_heads=6, intermediate_size=1024, vocab_size=4096,
    tied=False, num_prompts=16, n=8, prompt_lengths=(64, 256), max_tokens=256, end_rate=1 / 64, mini_batches=4,
)  # fmt: skip

WORKLOADS = {
    workload.name: workload
    for workload in (
        # 5M parameters, short prompts, responses of one length
        Workload(
            "W1", hidden_size=256, num_layers=6, num_heads=4, num_kv_heads=4, intermediate_size=688, vocab_size=512,
            tied=False, num_prompts=32, n=8, prompt_lengths=(8, 8), max_tokens=64, end_rate=None, mini_batches=4,
        ),
        # 17M parameters, the shape of training on verifiable rewards: prompts and responses of varied length
        _W2,
        # SmolLM2-135M's shape: a large vocabulary
        Workload(
            "W3", hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1536, vocab_size=49152,
            tied=True, num_prompts=4, n=8, prompt_lengths=(128, 128), max_tokens=64, end_rate=None, mini_batches=1,
            micro_batch_tokens=700,
        ),
        # GAD: W2 with a discriminator of the same size
        replace(_W2, name="W4", discriminator=True),
    )
}  # fmt: skip


def token_reward(token_ids: Sequence[int]) -> float:
    """A reward that costs nothing and differs within a group: the sum of the tokens modulo 101, in [0, 1]."""
    return sum(token_ids) % 101 / 100


def make_model(workload: Workload, max_positions: int = 4096) -> LlamaForCausalLM:
    """The model, with the end token's chance set as the workload says.

    Raises:
        ValueError: an end rate is asked for with a tied output head.
    """
    config = LlamaConfig(
        vocab_size=workload.vocab_size,
        hidden_size=workload.hidden_size,
        intermediate_size=workload.intermediate_size,
        num_hidden_layers=workload.num_layers,
        num_attention_heads=workload.num_heads,
        num_key_value_heads=workload.num_kv_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=workload.tied,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<bos>"),
        eos_token_id=END,
    )
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model = LlamaForCausalLM(config)
    _set_end_rate(model, workload)
    return model


@torch.no_grad()
def _set_end_rate(model: LlamaForCausalLM, workload: Workload) -> None:
    if workload.tied and workload.end_rate is not None:
        raise ValueError(f"{workload.name}: with a tied output head the end token cannot be given a rate")
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding[:, 0] = _CONSTANT
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    if workload.tied:
        embedding[END, 0] = -_CONSTANT
        return
    head[:, 0] = 0.0
    head[END] = 0.0
    if workload.end_rate is None:
        head[END, 0] = _NEVER
        return
    # On random tokens: by how much the end token has to stand out, with what the others' logits are.
    ids = _draw(torch.Generator().manual_seed(_SEED), workload.vocab_size, 4 * 64).view(4, 64)
    hidden = model.model(input_ids=ids).last_hidden_state.flatten(0, 1)
    others = (hidden @ head.t())[:, torch.arange(workload.vocab_size) != END].logsumexp(-1)
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        rate = float((middle * hidden[:, 0] - others).sigmoid().mean())
        low, high = (middle, high) if rate < workload.end_rate else (low, middle)
    head[END, 0] = (low + high) / 2


def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    """Token i is the word "wI"; texts are such words with spaces between them."""
    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def make_rows(workload: Workload) -> list[dict[str, Any]]:
    """The prompts of a step, as rows of a data file: `prompt`, `data_source`, and `teacher_response` for GAD.

    A teacher's text is as long as a student's response is by chance: geometric, and cut.
    """
    draw, teacher = (torch.Generator().manual_seed(_SEED + number) for number in (1, 2))
    shortest, longest = workload.prompt_lengths
    rows: list[dict[str, Any]] = []
    for _ in range(workload.num_prompts):
        length = int(torch.randint(shortest, longest + 1, (), generator=draw))
        row = {"prompt": _words(_draw(draw, workload.vocab_size, length)), "data_source": "benchmark"}
        if workload.discriminator:
            assert workload.end_rate is not None
            length = int(torch.empty(()).geometric_(workload.end_rate, generator=teacher))
            row["teacher_response"] = _words(
                _draw(teacher, workload.vocab_size, max(1, min(length, workload.max_tokens - 1)))
            )
        rows.append(row)
    return rows


def _draw(generator: torch.Generator, vocab_size: int, count: int) -> Tensor:
    return torch.randint(len(SPECIAL), vocab_size, (count,), generator=generator)


def _words(token_ids: Tensor) -> str:
    return " ".join(f"w{number}" for number in token_ids.tolist())


def prepare(workload: Workload, folder: Path) -> Path:
    """Writes `model/` (a Hugging Face folder) and `prompts.jsonl`, where they are not there yet.

    Args:
        workload: what to write.
        folder: of all workloads; each has one of its own in it.

    Returns:
        the workload's folder.
    """
    folder = folder / workload.name
    stamp = folder / "workload.json"
    text = json.dumps(vars(workload))
    if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    make_model(workload).save_pretrained(folder / "model")
    make_tokenizer(workload.vocab_size).save_pretrained(folder / "model")
    rows = "".join(json.dumps(row) + "\n" for row in make_rows(workload))
    (folder / "prompts.jsonl").write_text(rows, encoding="utf-8")
    stamp.write_text(text, encoding="utf-8")
    return folder


def prepare_apart(workload: Workload, folder: Path) -> Path:
    """`prepare` in a process of its own, so that its memory is not this one's."""
    command = [sys.executable, __file__, "--workload", workload.name, "--work", str(folder)]
    subprocess.run(command, stdout=sys.stderr, check=True)
    return folder / workload.name


def read_prompts(folder: Path) -> list[dict[str, Any]]:
    """The rows that `prepare` wrote."""
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def read_token_ids(folder: Path, column: str = "prompt") -> list[list[int]]:
    """The tokens of each row's text, as `make_tokenizer` reads it."""
    return [[int(word.removeprefix("w")) for word in row[column].split()] for row in read_prompts(folder)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes workloads."""
    parser = argparse.ArgumentParser(description="Write the models and prompts of workloads.")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), nargs="+", default=sorted(WORKLOADS))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder to write to")
    options = parser.parse_args(arguments)
    for name in options.workload:
        print(prepare(WORKLOADS[name], options.work))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
