"""What supervised fine-tuning reads of a configuration made for reinforcement learning, and says of the rest."""

from __future__ import annotations

from gspo.config.checks import about_the_weights, without_effect
from gspo.config.schema import Config
from gspo.config.spelling import reason_without_effect

__all__ = ["supervised_notices"]

# The keys that it reads: these, and all below those that end in a dot.
_KEYS = (
    "actor_rollout_ref.actor.optim.",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    "actor_rollout_ref.model.",
    "data.",
    "trainer.",
)
_NOT_READ = frozenset(
    {
        "data.teacher_key",
        "data.val_batch_size",
        "trainer.critic_warmup",
        "trainer.gad_warmup_epochs",
        "trainer.gad_warmup_lr",
        "trainer.gad_warmup_steps",
        "trainer.log_val_generations",
        "trainer.n_gpus_per_node",
        "trainer.nnodes",
        "trainer.val_only",
    }
)


def supervised_notices(config: Config) -> list[str]:
    """What `gspo sft` says once, at the start: weights that will not move, and the user's keys that it does not use."""
    lines = [*config.notes, *about_the_weights(config), *without_effect(config)]
    unused = sorted(key for key in config.user_set if not _is_read(key) and reason_without_effect(key) is None)
    if unused:
        lines.append(
            f"{', '.join(unused)}: gspo sft does not use {'it' if len(unused) == 1 else 'them'}; one training step is "
            "one optimizer step on data.train_batch_size prompts"
        )
    return lines


def _is_read(key: str) -> bool:
    if key in _NOT_READ:
        return False
    return any(key.startswith(known) if known.endswith(".") else key == known for known in _KEYS)
