"""The policy that is trained, and how it and its like are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import Checkpoint, CheckpointError, export_hf
from gspo.config.schema import ModelConfig, OptimConfig
from gspo.models import Policy, load_model, load_tokenizer, output_head, scalar_head, verify_packed_forward
from gspo.trainer.hub import require_hub
from gspo.trainer.trained import Trained

__all__ = ["Actor", "load_actor_tokenizer", "load_policy"]

# A checkpoint's entry of a value head on the actor's backbone.
_VALUE_HEAD = "value_head"


def load_actor_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that `actor_rollout_ref.model` names; the first thing that a command loads."""
    for name in filter(None, (config.tokenizer_path, config.path)):
        require_hub(name)
    return load_tokenizer(
        config.tokenizer_path or config.path,
        chat_template=config.chat_template,
        trust_remote_code=config.trust_remote_code,
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

    Raises:
        ValueError: it cannot be loaded or packed, or it is too small for the tokenizer or the lengths.
    """
    model = load_model(
        config.path,
        dtype=config.dtype,
        device=device,
        override_config=config.override_config,
        gradient_checkpointing=config.enable_gradient_checkpointing and train,
        trust_remote_code=config.trust_remote_code,
        needs_head=needs_head,
        use_fused_kernels=config.use_fused_kernels,
        mixed_precision=config.mixed_precision,
        path_key=path_key,
    )
    policy = Policy(model, scalar_head(model) if with_values else None)
    vocabulary = output_head(model).weight.shape[0]
    if len(tokenizer) > vocabulary:
        mend = (
            "actor_rollout_ref.model.tokenizer_path to the model's own"
            if path_key == "actor_rollout_ref.model.path"
            else f"{path_key} to a model that reads the actor's tokens"
        )
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model in {config.path} only {vocabulary}: "
            f"they do not belong together; set {mend}"
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise ValueError(
            f"the longest prompt and data.max_response_length together are {longest} tokens, and the model in "
            f"{config.path} has {positions} positions: lower data.max_response_length or data.max_prompt_length"
        )
    verify_packed_forward(policy)
    model.requires_grad_(train)
    return policy


class Actor(Trained):
    """A policy that is trained, with the value head on its backbone where it has one.

    In a checkpoint the model is the same with and without a head, which has an entry of its own.

    Args:
        policy: the policy.
        optim: its optimizer's settings.
        total_steps: training steps that update it, for the schedule.
    """

    def __init__(self, policy: Policy, optim: OptimConfig, total_steps: int) -> None:
        module: nn.Module = policy.model
        if policy.value_head is not None:
            module = nn.ModuleDict({"model": policy.model, _VALUE_HEAD: policy.value_head})
        super().__init__(module, optim, total_steps, name="actor", model_key="actor_rollout_ref.model.path")
        self.policy = policy

    def load(self, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
        """Goes back to where a checkpoint was taken.

        Raises:
            CheckpointError: it is of another model, or has a value head where this run has none, or the reverse.
        """
        wanted = self.policy.value_head is not None
        if wanted is not (_VALUE_HEAD in checkpoint.tensors):
            holds, now = ("no", "true") if wanted else ("a", "false")
            raise CheckpointError(
                f"{checkpoint.path} holds {holds} value head on the actor's backbone, and this run has "
                f"critic.shared_backbone={now}: resume with the settings that the run began with, or start again with "
                "trainer.resume_mode=disable"
            )
        super().load(checkpoint, state)

    def _entries(self) -> dict[str, nn.Module]:
        head = self.policy.value_head
        return {"actor": self.policy.model, **({_VALUE_HEAD: head} if head is not None else {})}

    def export(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Writes the model as a Hugging Face folder."""
        export_hf(self.policy.model, tokenizer, folder)
