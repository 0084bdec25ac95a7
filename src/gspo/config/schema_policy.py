"""`actor_rollout_ref`: the model that is trained, how it is updated, how it is sampled, and its reference."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gspo.config.fields import COMMANDS, ConfigError, Section, option, section
from gspo.config.method_lines import AGGREGATION_LINE, CLIP_LINE, LOSS_LINE
from gspo.config.paths import is_jinja
from gspo.methods import AGGREGATIONS, DEFAULT_LOSS

__all__ = [
    "ActorConfig",
    "ActorOptimConfig",
    "ActorRolloutRefConfig",
    "ModelConfig",
    "OptimConfig",
    "PolicyLossConfig",
    "RefConfig",
    "RolloutConfig",
    "ValKwargsConfig",
]

KL_ESTIMATORS = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """Which model is trained, and how it is loaded."""

    KEY: ClassVar[str] = "actor_rollout_ref.model"
    READ_BY: ClassVar[tuple[str, ...]] = COMMANDS

    path: str | None = option(
        None, "Folder or hub name of the causal language model to train.", example="Qwen/Qwen3-0.6B", path=True
    )
    tokenizer_path: str | None = option(None, "Folder or hub name of the tokenizer; null: the model's own.", path=True)
    dtype: str = option(
        "float32", "Type of the weights; bfloat16 loses small updates.", choices=("float32", "bfloat16")
    )
    mixed_precision: bool | None = option(
        None, "Matrix products in 16 bits over float32 weights; null: on a GPU that has the type."
    )
    mixed_precision_dtype: str = option(
        "bfloat16",
        "Type of those products; float16 rounds eight times finer and has a loss scale (arXiv 2510.26788).",
        choices=("bfloat16", "float16"),
    )
    override_config: dict[str, Any] = option({}, "Entries that replace those of the model's own configuration.")
    enable_gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    use_fused_kernels: bool = option(
        True, "Faster operations of the same values: on a CPU in float32, and flex_attention on a GPU in bfloat16."
    )
    trust_remote_code: bool = option(False, "Run Python code that comes with the model. Only for models you trust.")
    chat_template: str | None = option(
        None,
        "Jinja text or file of the chat template; null: the tokenizer's own.",
        path=lambda text: not is_jinja(text),
    )


@dataclass(frozen=True, kw_only=True)
class PolicyLossConfig(Section):
    """Which policy loss, with the numbers that only one of them has."""

    KEY: ClassVar[str] = "actor_rollout_ref.actor.policy_loss"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    loss_mode: str = option(DEFAULT_LOSS, LOSS_LINE)
    tau_pos: float = option(1.0, "SAPO's temperature for positive advantages (arXiv 2511.20347).", above=0)
    tau_neg: float = option(1.05, "SAPO's temperature for negative advantages (arXiv 2511.20347).", above=0)


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Section):
    """AdamW and its schedule; the actor and the critic have one each."""

    lr: float = option(1e-6, "Peak learning rate.", at_least=0)
    betas: list[float] = option([0.9, 0.999], "AdamW's two decay rates.")
    eps: float = option(1e-8, "AdamW's epsilon.", above=0)
    weight_decay: float = option(0.01, "AdamW's weight decay; norms and biases have none.", at_least=0)
    clip_grad: float = option(1.0, "Largest gradient norm of an optimizer step.", above=0)
    lr_warmup_steps: int = option(-1, "Steps of linear warmup; -1: take lr_warmup_steps_ratio.", at_least=-1)
    lr_warmup_steps_ratio: float = option(0.0, "Warmup as a part of all steps.", at_least=0, at_most=1)
    lr_scheduler_type: str = option(
        "constant", "Learning rate after the warmup.", choices=("constant", "cosine", "linear")
    )
    min_lr_ratio: float = option(0.0, "Where cosine and linear end, as a part of lr.", at_least=0, at_most=1)
    total_training_steps: int = option(-1, "Steps of the schedule; -1: the length of the run.", at_least=-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"{self.key('betas')}={self.betas} must be two numbers of at least 0 and below 1: set [0.9, 0.999]",
                self.key("betas"),
            )


@dataclass(frozen=True, kw_only=True)
class ActorOptimConfig(OptimConfig):
    """AdamW and the schedule of the actor."""

    KEY: ClassVar[str] = "actor_rollout_ref.actor.optim"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "sft")


@dataclass(frozen=True, kw_only=True)
class ActorConfig(Section):
    """How the policy is updated."""

    KEY: ClassVar[str] = "actor_rollout_ref.actor"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    policy_loss: PolicyLossConfig = section(
        PolicyLossConfig, "The policy loss; `policy_loss: gspo` is short for its loss_mode."
    )
    clip_ratio: float | None = option(None, CLIP_LINE, above=0)
    clip_ratio_low: float | None = option(None, "Clip range below 1; null: clip_ratio.", above=0)
    clip_ratio_high: float | None = option(None, "Clip range above 1; null: clip_ratio.", above=0)
    clip_ratio_c: float = option(3.0, "Dual clip of vanilla: bounds the loss where the advantage is negative.", above=1)
    loss_agg_mode: str | None = option(
        None,
        AGGREGATION_LINE,
        choices=AGGREGATIONS,
    )
    loss_scale_factor: float | None = option(
        None, "Divisor of seq-mean-token-sum-norm, in tokens; null: data.max_response_length.", above=0
    )
    entropy_coeff: float = option(0.0, "Weight of the entropy bonus; 0: entropy is measured, not rewarded.")
    skip_zero_advantages: bool = option(
        True, "Do not run groups whose advantages are all zero, where no other term of the loss reads them."
    )
    use_kl_loss: bool = option(False, "Add the divergence from the reference model to the loss.")
    kl_loss_coef: float = option(0.001, "Weight of that divergence.", at_least=0)
    kl_loss_type: str = option(
        "low_var_kl",
        "Its estimator; a trailing + takes the value of the estimator and the gradient of k2.",
        choices=KL_ESTIMATORS + tuple(f"{name}+" for name in KL_ESTIMATORS),
    )
    ppo_mini_batch_size: int | None = option(
        None,
        "PROMPTS per optimizer step (times rollout.n responses), train_batch_size at most; null: 256.",
        at_least=1,
    )
    ppo_micro_batch_size_per_gpu: int | None = option(
        None,
        "RESPONSES per forward pass; null: as many as fit in ppo_max_token_len_per_gpu. Never changes the update.",
        at_least=1,
        read_by=("train", "sft"),
    )
    use_dynamic_bsz: bool | None = option(
        None,
        "Split by tokens rather than by responses; always where ppo_micro_batch_size_per_gpu is null.",
        read_by=("train", "sft"),
    )
    ppo_max_token_len_per_gpu: int = option(
        16384, "Unique tokens per forward and backward pass.", at_least=1, read_by=("train", "sft")
    )
    ppo_epochs: int = option(1, "Passes over each batch of rollouts.", at_least=1)
    shuffle: bool = option(False, "Shuffle the groups of a batch before they are cut into mini-batches.")
    optim: ActorOptimConfig = section(ActorOptimConfig, "Optimizer and schedule of the actor.")


@dataclass(frozen=True, kw_only=True)
class ValKwargsConfig(Section):
    """How validation samples."""

    KEY: ClassVar[str] = "actor_rollout_ref.rollout.val_kwargs"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    n: int = option(1, "Responses per validation prompt; pass@k and maj@k need several.", at_least=1)
    do_sample: bool = option(False, "Sample in validation; false: greedy, whatever the temperature.")
    temperature: float = option(0.0, "Temperature of validation, where do_sample is true.", at_least=0)
    top_p: float = option(1.0, "Smallest probability mass to sample from in validation.", above=0, at_most=1)
    top_k: int = option(
        -1, "Most likely tokens to sample from in validation; -1 or 0: all.", at_least=-1, read_by=("train", "eval")
    )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(Section):
    """How training samples."""

    KEY: ClassVar[str] = "actor_rollout_ref.rollout"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    name: str = option(
        "local",
        "Engine that samples; local: batched sampling on the trainer's own weights; or one of yours.",
        read_by=("train", "eval"),
    )
    n: int = option(1, "Responses per prompt: the size of a group. GRPO needs several, better 8 or 16.", at_least=1)
    temperature: float = option(
        1.0, "Sampling temperature; also the one at which log-probabilities are taken.", above=0
    )
    top_p: float = option(1.0, "Smallest probability mass to sample from.", above=0, at_most=1)
    top_k: int = option(-1, "Most likely tokens to sample from; -1 or 0: all.", at_least=-1)
    min_p: float = option(0.0, "Drop tokens less likely than this part of the most likely one.", at_least=0, at_most=1)
    stop: list[str] = option(
        [],
        "Texts that end a response, special tokens too; the response keeps its tokens, its text is cut there.",
        read_by=("train", "eval"),
    )
    ignore_eos: bool = option(
        False, "Sample on after the end token, up to the length limit.", read_by=("train", "eval")
    )
    max_num_seqs: int = option(256, "Responses that are sampled at once.", at_least=1, read_by=("train", "eval"))
    log_prob_max_token_len_per_gpu: int = option(
        16384, "Unique tokens per pass that takes old log-probabilities.", at_least=1
    )
    val_kwargs: ValKwargsConfig = section(ValKwargsConfig, "How validation samples.")


@dataclass(frozen=True, kw_only=True)
class RefConfig(Section):
    """The reference model."""

    KEY: ClassVar[str] = "actor_rollout_ref.ref"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    log_prob_max_token_len_per_gpu: int = option(
        16384, "Unique tokens per pass of the reference model, used with use_kl_loss or use_kl_in_reward.", at_least=1
    )
    sync_steps: int | None = option(
        None, "Steps after which the reference becomes the current policy, each time; null: it is frozen.", at_least=1
    )


@dataclass(frozen=True, kw_only=True)
class ActorRolloutRefConfig(Section):
    """The policy: its model, its updates, its samples and its reference."""

    KEY: ClassVar[str] = "actor_rollout_ref"

    model: ModelConfig = section(ModelConfig, "The model.")
    actor: ActorConfig = section(ActorConfig, "How it is updated.")
    rollout: RolloutConfig = section(RolloutConfig, "How it is sampled.")
    ref: RefConfig = section(RefConfig, "The reference model: the actor at the start, or as of the last sync.")
