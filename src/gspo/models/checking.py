"""The check of a model when it is loaded: packed groups against the model's own forward pass, at the run's lengths.

Guards against a decoder that does more with its attention or its logits than this project knows of. What is compared:
a short group, a prompt of nearly the longest length with short responses, and a short prompt with a response of that
length, so that both sides of a sliding window and of a change with the length are seen; and the gradients of the
short group. A large model is compared on fewer tokens, as many as a second or two allow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from gspo.config.texts import first_line
from gspo.groups import Group, Prompt, Response
from gspo.models.backbone import Inputs, Read, evaluation_mode
from gspo.models.packing import pack
from gspo.models.policy import Policy

__all__ = ["FURTHEST", "TOLERANCE", "checked_length", "made_group", "verify_packed_forward"]

# Another order of the same sums differs by about 1e-5 (models compute norms in float32 whatever their dtype); a wrong
# mask or head differs by far more.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 5e-2}
# Of many tokens one may be off by this many times as much: rounding adds up over a long row.
FURTHEST = 10.0
# Of a gradient, as a part of its size.
_GRADIENT_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.5}
# Gradients of parameters of up to so many numbers: all of a small model, norms, biases and some layers of a large one.
_SMALL_PARAMETER = 2**20

_SHORT = 9
_FEW = 8
# Operations of one pass of all the tokens: about a second on two cores, and on a GPU.
_OPERATIONS = {"cpu": 1e11, "cuda": 1e13}
# To see both sides of a sliding window is worth this many times as much.
_WORTH = 4.0
# Scores of one layer, which the model's own attention holds whole.
_SCORES = 2**27


def verify_packed_forward(policy: Policy, longest: int = _SHORT, *, gradients: bool = False) -> float:
    """Compares the packed forward with the model's own, and returns the largest difference in nats.

    Args:
        policy: the model.
        longest: tokens of the longest prompt and response together.
        gradients: compare gradients too.

    Raises:
        ValueError: the model cannot run packed groups, or they differ by more than rounding; says why.
    """
    name = type(policy.model).__name__
    try:
        with torch.no_grad():
            furthest = _compare(policy, [_short(policy)], 1.0)
            _require_one_number(policy)
            length = checked_length(policy, longest)
            if length > _SHORT:
                furthest = max(furthest, _compare(policy, [_short(policy), *_long(policy, length)], FURTHEST))
        if gradients:
            # The model's own backward pass would recompute under this project's attention, which needs a context.
            with evaluation_mode(policy.model):
                _compare_gradients(policy)
    except _Differs as error:
        raise ValueError(f"{name}: {error}{_why(policy)}") from None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's own code raises where it is not called as it expects
        raise ValueError(
            f"{name} cannot run packed groups: {first_line(error)}{_why(policy)}; train a model of another family "
            "(Llama, Qwen, Gemma, Mistral, ...)"
        ) from error
    return furthest


def checked_length(policy: Policy, longest: int) -> int:
    """On how many tokens to compare: the longest, or for a large model as many as a second or two allow.

    Args:
        policy: the model.
        longest: tokens of the longest prompt and response together.
    """
    text = policy.model.config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    size = sum(parameter.numel() for parameter in policy.model.parameters())
    budget = _OPERATIONS.get(policy.device.type, _OPERATIONS["cpu"])

    def fits(length: int, operations: float) -> bool:
        return 2.0 * size * 5 * length <= operations and heads * length**2 <= _SCORES

    window = getattr(text, "sliding_window", None)
    beyond = min(longest, window + _FEW) if isinstance(window, int) and window < longest else 0
    wanted = [longest, *(longest >> halvings for halvings in range(1, 32))]
    affordable = next(length for length in [*wanted, 0] if fits(length, budget))
    return max(affordable, beyond) if fits(beyond, _WORTH * budget) else affordable


def made_group(policy: Policy, seed: int, prompt: int, *responses: int) -> Group:
    """A group of random tokens that a text may hold: none that opens an image or the like.

    Args:
        policy: whose tokens.
        seed: of the tokens.
        prompt: its number of tokens.
        responses: the number of tokens of each.
    """
    draw = random.Random(seed)
    config = policy.model.config
    sections = [config, config.get_text_config()]
    named = [value for section in sections for key, value in vars(section).items() if key.endswith(_TOKEN_KEYS)]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    plain = [token for token in range(policy.vocabulary_size) if token not in special] or [0]

    def tokens(count: int) -> list[int]:
        return [draw.choice(plain) for _ in range(count)]

    return Group(
        Prompt(f"check:{seed}", tuple(tokens(prompt)), "", ""),
        [Response(tokens(count), [0.0] * count, "", "stop") for count in responses],
    )


_TOKEN_KEYS = ("token_id", "token_index", "token_ids")


def _short(policy: Policy) -> Group:
    return made_group(policy, 0, 4, 5, 2, 3)


def _long(policy: Policy, length: int) -> list[Group]:
    few = min(_FEW, length // 2)
    return [made_group(policy, 1, length - few, few, 3), made_group(policy, 2, 4, length - 4)]


class _Differs(ValueError):
    """Packed groups and the model's own forward pass are not the same."""


def _compare(policy: Policy, groups: list[Group], allowed: float) -> float:
    """The largest difference of a log-probability.

    Raises:
        _Differs: a response is off by more than the tolerance on average, or a token by `allowed` times as much.
    """
    ours = _packed(policy, groups)
    tolerance, furthest = TOLERANCE[policy.product_dtype], 0.0
    for own, packed in zip(_own(policy, groups), ours, strict=True):
        difference = (packed - own).abs()
        most = float(difference.max())
        if not (most <= allowed * tolerance and float(difference.mean()) <= tolerance):
            raise _Differs(
                f"log-probabilities from packed groups differ from the model's own forward by {most:.2g} nats "
                f"(rounding would explain {tolerance:.0e}); the model does something in its attention or its output "
                "head that packing does not know, or its weights are not finite"
            )
        furthest = max(furthest, most)
    return furthest


def _require_one_number(policy: Policy) -> None:
    """Raises where two passes over the same tokens differ: what is drawn at random in a model cannot be trained on."""
    first, second = (torch.cat(_packed(policy, [_short(policy)])) for _ in range(2))
    if not float((first - second).abs().max()) <= TOLERANCE[policy.product_dtype]:
        raise _Differs("two passes over the same tokens give different log-probabilities; it draws something at random")


def _packed(policy: Policy, groups: list[Group]) -> tuple[Tensor, ...]:
    """Log-probabilities of each response's tokens, from packed groups."""
    row = pack(groups, device=policy.device)
    log_probs = policy.backbone(policy.backbone.inputs(row), Read(row.sources, row.targets)).log_probs
    return tuple(log_probs.split([len(response) for group in groups for response in group.responses]))


def _own(policy: Policy, groups: list[Group]) -> Iterator[Tensor]:
    """The same from the model's own forward of every sequence."""
    for group in groups:
        for response in group.responses:
            sequence = torch.tensor([[*group.prompt.token_ids, *response.token_ids]], device=policy.device)
            logits = policy.backbone(Inputs(sequence), Read()).logits[0, len(group.prompt.token_ids) - 1 : -1]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            picked = torch.tensor(response.token_ids, device=policy.device)[:, None]
            yield logits.log_softmax(-1).gather(1, picked)[:, 0]


@torch.enable_grad()
def _compare_gradients(policy: Policy) -> None:
    """Raises where a gradient of the short group is not the model's own."""
    small = [(n, p) for n, p in policy.model.named_parameters() if p.requires_grad and p.numel() <= _SMALL_PARAMETER]
    if not small:
        return
    groups, parameters = [_short(policy)], [parameter for _, parameter in small]
    found = []
    for parts in (_packed(policy, groups), tuple(_own(policy, groups))):
        values = torch.cat(parts)
        weights = torch.linspace(-1.0, 1.0, len(values), dtype=values.dtype, device=values.device)
        gradients = torch.autograd.grad((weights * values).sum(), parameters, allow_unused=True)
        found.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)])
    sizes = [float(own.double().norm()) for own in found[1]]
    for (name, _), packed, own, size in zip(small, *found, sizes, strict=True):
        # A gradient that is small next to the others is the rounding of theirs.
        off = float((packed.double() - own.double()).norm()) / max(size, 1e-2 * max(sizes), 1e-12)
        if not off <= _GRADIENT_TOLERANCE[policy.product_dtype]:
            raise _Differs(
                f"the gradient of {name} from packed groups differs from the model's own by {off:.1%} of its size; the "
                "model does something in its layers that packing does not know"
            )


def _why(policy: Policy) -> str:
    """What is known of the reason why a model cannot be packed, to add to the refusal."""
    kinds = getattr(policy.model.config.get_text_config(), "layer_types", None) or []
    others = sorted({str(kind) for kind in kinds if "attention" not in str(kind) or "linear" in str(kind)})
    if others:
        return f" (it has layers of {' and '.join(others)}, which packed groups would run into one)"
    return "" if _is_causal(policy) else " (a token's log-probability depends on the tokens behind it)"


@torch.no_grad()
def _is_causal(policy: Policy) -> bool:
    """Whether the model's own log-probabilities stay where the sequence goes on; taken to be so where it cannot run."""
    group = made_group(policy, 0, 4, 8)
    (response,) = group.responses
    begun = Group(group.prompt, [Response(response.token_ids[:4], [0.0] * 4, "", "stop")])
    try:
        whole, part = next(_own(policy, [group])), next(_own(policy, [begun]))
    except Exception:
        return True
    return not float((whole[:4] - part).abs().max()) > TOLERANCE[policy.product_dtype]
