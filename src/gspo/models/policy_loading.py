"""Loads the policy and its like, as `actor_rollout_ref.model` asks, or takes a model that is handed over."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gspo.config.schema import ModelConfig
from gspo.models.checking import verify_packed_forward
from gspo.models.cpu.fused import undo_fused_kernels
from gspo.models.hub import require_hub
from gspo.models.limits import require_length
from gspo.models.loading import load_model, load_tokenizer, stored_dtype
from gspo.models.policy import Policy
from gspo.models.preparing import prepare_model, randomness
from gspo.models.processor import processor_files
from gspo.models.scalar_head import scalar_head

__all__ = ["load_actor_tokenizer", "load_policy"]

# torch's layer of this name calls its rate p.
_DROPOUT = "dropout"


def load_actor_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that `actor_rollout_ref.model` names; the first thing that a command loads."""
    for name in filter(None, (config.tokenizer_path, config.path)):
        require_hub(name)
    return load_tokenizer(
        config.tokenizer_path or config.path,
        chat_template=config.chat_template,
        trust_remote_code=config.trust_remote_code,
        path_key=config.key("tokenizer_path" if config.tokenizer_path else "path"),
    )


def load_policy(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: str,
    longest: int,
    *,
    train: bool = True,
    needs_head: bool = True,
    path_key: str = "actor_rollout_ref.model.path",
    with_values: bool = False,
    model: PreTrainedModel | None = None,
) -> Policy:
    """The policy that `actor_rollout_ref.model` names, checked to run what the run will ask of it.

    Args:
        config: the `model` section.
        tokenizer: whose tokens it reads.
        device: where it goes.
        longest: tokens of the longest prompt and response together.
        train: whether gradients are wanted.
        needs_head: whether the output head must be among the weights.
        path_key: the configuration's key of the model's path, for messages.
        with_values: give it a value head, which starts at zero.
        model: used in place of reading `config.path`; it is changed in place, and its weights get `config.dtype`.

    Raises:
        ValueError: it cannot be loaded or packed, or it is too small for the tokenizer or the lengths; or there is a
            model and `config.override_config`, which applies where one is read.
    """
    path = config.path if model is None else None
    if model is None:
        model = load_model(
            config.path,
            dtype=config.dtype,
            override_config=config.override_config,
            trust_remote_code=config.trust_remote_code,
            needs_head=needs_head,
            path_key=path_key,
        )
    elif config.override_config:
        raise ValueError(
            "actor_rollout_ref.model.override_config replaces entries where a model is read from a folder, and this "
            "one is an object: set them when you make it, and take override_config out"
        )
    source_dtype = model.dtype if path is None else stored_dtype(path, config.trust_remote_code)
    random = randomness(model)
    compute = prepare_model(
        model,
        dtype=config.dtype if path is None else None,
        device=device,
        gradient_checkpointing=config.enable_gradient_checkpointing and train,
        use_fused_kernels=config.use_fused_kernels,
        mixed_precision=config.mixed_precision,
        mixed_precision_dtype=config.mixed_precision_dtype,
        path=path,
    )
    policy = Policy(model, scalar_head(model) if with_values else None, compute)
    policy.export_dtype = source_dtype
    policy.export_files = processor_files(model, path)
    if random and train:
        rates = ", ".join(f"{_DROPOUT if rate == 'p' else rate} {value:g}" for rate, value in sorted(random.items()))
        policy.notices.append(
            f"{type(model).__name__}: what its training mode draws at random is off ({rates}): a token's "
            "log-probability must be one number"
        )
    name, vocabulary = "that was given" if path is None else f"in {path}", policy.vocabulary_size
    if len(tokenizer) > vocabulary:
        remedy = (
            "actor_rollout_ref.model.tokenizer_path to the model's own"
            if path_key == "actor_rollout_ref.model.path"
            else f"{path_key} to a model that reads the actor's tokens"
        )
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {name} only {vocabulary}: "
            f"they do not belong together; set {remedy}"
        )
    policy.backbone.vocabulary = _known_tokens(tokenizer, vocabulary)
    require_length(model.config, longest, f"the model {name}")
    _verify(policy, longest, train, config.use_fused_kernels)
    model.requires_grad_(train)
    return policy


def _known_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int | None:
    """The number from which on no id of the vocabulary is a token of the tokenizer; None where the last one is."""
    known = 1 + max(tokenizer.get_vocab().values())
    return known if known < vocabulary else None


def _verify(policy: Policy, longest: int, train: bool, fused: bool) -> None:
    """Checks a model, on its own operations where this project's do not serve it."""
    try:
        verify_packed_forward(policy, longest, gradients=train)
    except ValueError as error:
        if not fused:
            raise
        undo_fused_kernels(policy.model)
        policy.backbone.compute = replace(policy.backbone.compute, flex=False)
        verify_packed_forward(policy, longest, gradients=train)
        policy.notices.append(
            f"actor_rollout_ref.model.use_fused_kernels does not serve this model and is off: {error}"
        )
