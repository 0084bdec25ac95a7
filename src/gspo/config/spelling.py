"""Other spellings of keys and values, and the verl keys that this project does not have.

People bring files written for verl. A key that only says how verl is built (its sharding, its engine) is accepted and
reported once as without effect; one whose loss would change the run is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gspo.methods import loss_named

__all__ = [
    "MOVED",
    "NO_EFFECT",
    "REFUSED",
    "canonical",
    "canonical_value",
    "is_namespace",
    "reason_without_effect",
    "refusal",
]

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_MODEL = "actor_rollout_ref.model"

# Keys that are elsewhere here. A lone text under `policy_loss` is its loss_mode.
MOVED: Mapping[str, str] = MappingProxyType(
    {
        "actor_rollout_ref.ppo_mini_batch_size": f"{_ACTOR}.ppo_mini_batch_size",
        "actor_rollout_ref.ppo_micro_batch_size_per_gpu": f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
        "actor_rollout_ref.ppo_epochs": f"{_ACTOR}.ppo_epochs",
        f"{_ACTOR}.grad_clip": f"{_ACTOR}.optim.clip_grad",
        "critic.grad_clip": "critic.optim.clip_grad",
        "reward.custom_reward_function.path": "custom_reward_function.path",
        "reward.custom_reward_function.name": "custom_reward_function.name",
        "reward.custom_reward_function.reward_kwargs": "custom_reward_function.reward_kwargs",
    }
)

_ENGINE = "the local engine samples on the trainer's own weights and has no such setting"
_SHARDING = "nothing is sharded: each process holds the whole model"
_PACKED = "every pass is packed, without padding and with each prompt once per group"
_MIXED = f"set {_MODEL}.mixed_precision: products in bfloat16 over float32 weights"
_TYPE = f"set {_MODEL}.dtype for the weights, and {_MODEL}.mixed_precision for products in bfloat16 over float32 ones"
_LOG_PROB = "passes are split by tokens: set log_prob_max_token_len_per_gpu, next to it"
_RAY = "there is no Ray: the loop runs in one process"
_COLUMNS = "the columns are fixed; the data section names those that can be chosen"
_ONE_PROCESS = "the loop runs in one process"

# A key means everything beneath it.
NO_EFFECT: Mapping[str, str] = MappingProxyType(
    {
        "ray_kwargs": _RAY,
        "ray_init": _RAY,
        "hydra": "the run's folder is trainer.default_local_dir",
        "global_profiler": "there is no profiler; timings are logged as timing_s/*",
        "transfer_queue": _RAY,
        "actor_rollout_ref.hybrid_engine": "sampling and training always share one process",
        "actor_rollout_ref.nccl_timeout": _ONE_PROCESS,
        "actor_rollout_ref.model.use_remove_padding": _PACKED,
        "actor_rollout_ref.model.use_shm": "weights are read where they are",
        "actor_rollout_ref.model.use_liger": "logits are taken in chunks already",
        "actor_rollout_ref.model.enable_activation_offload": "set enable_gradient_checkpointing to save memory",
        "actor_rollout_ref.model.external_lib": "set algorithm.external_modules to load files of your own",
        f"{_ACTOR}.strategy": _SHARDING,
        f"{_ACTOR}.fsdp_config": _SHARDING,
        f"{_ACTOR}.fsdp_config.mixed_precision": _MIXED,
        f"{_ACTOR}.fsdp_config.dtype": _TYPE,
        f"{_ACTOR}.fsdp_config.model_dtype": _TYPE,
        f"{_ACTOR}.megatron": _SHARDING,
        f"{_ACTOR}.ulysses_sequence_parallel_size": _SHARDING,
        f"{_ACTOR}.use_torch_compile": "nothing is compiled",
        f"{_ACTOR}.use_remove_padding": _PACKED,
        f"{_ACTOR}.entropy_from_logits_with_chunking": "logits are taken in chunks already",
        f"{_ACTOR}.entropy_checkpointing": "logits are recomputed in the backward pass already",
        f"{_ACTOR}.calculate_entropy": "entropy is always measured",
        f"{_ACTOR}.checkpoint": "a checkpoint always holds model, optimizer, schedule, sampler and random states",
        f"{_ACTOR}.data_loader_seed": "set data.seed or trainer.seed",
        f"{_ACTOR}.rollout_n": f"set {_ROLLOUT}.n",
        f"{_ACTOR}.profiler": "there is no profiler; timings are logged as timing_s/*",
        f"{_ACTOR}.optim.optimizer": "the optimizer is AdamW",
        f"{_ACTOR}.optim.warmup_style": "set lr_scheduler_type, next to it",
        f"{_ACTOR}.optim.num_cycles": "cosine goes down once, over half a period",
        f"{_ROLLOUT}.mode": _ENGINE,
        f"{_ROLLOUT}.do_sample": "training always samples",
        f"{_ROLLOUT}.prompt_length": "set data.max_prompt_length",
        f"{_ROLLOUT}.response_length": "set data.max_response_length",
        f"{_ROLLOUT}.dtype": f"{_TYPE}; sampling follows",
        f"{_ROLLOUT}.gpu_memory_utilization": _ENGINE,
        f"{_ROLLOUT}.tensor_model_parallel_size": _ENGINE,
        f"{_ROLLOUT}.data_parallel_size": _ENGINE,
        f"{_ROLLOUT}.pipeline_model_parallel_size": _ENGINE,
        f"{_ROLLOUT}.enforce_eager": _ENGINE,
        f"{_ROLLOUT}.free_cache_engine": _ENGINE,
        f"{_ROLLOUT}.load_format": _ENGINE,
        f"{_ROLLOUT}.max_num_batched_tokens": f"{_ENGINE}; set max_num_seqs to bound its memory",
        f"{_ROLLOUT}.max_model_len": _ENGINE,
        f"{_ROLLOUT}.enable_chunked_prefill": _ENGINE,
        f"{_ROLLOUT}.enable_prefix_caching": "a prompt is always prefilled once for its n responses",
        f"{_ROLLOUT}.disable_log_stats": _ENGINE,
        f"{_ROLLOUT}.engine_kwargs": _ENGINE,
        f"{_ROLLOUT}.layered_summon": _ENGINE,
        f"{_ROLLOUT}.skip_tokenizer_init": _ENGINE,
        f"{_ROLLOUT}.calculate_log_probs": "the sampled tokens' log-probabilities are always kept",
        f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": _LOG_PROB,
        f"{_ROLLOUT}.log_prob_use_dynamic_bsz": _LOG_PROB,
        f"{_ROLLOUT}.agent": _ENGINE,
        "actor_rollout_ref.ref.strategy": _SHARDING,
        "actor_rollout_ref.ref.fsdp_config": _SHARDING,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": _MIXED,
        "actor_rollout_ref.ref.fsdp_config.dtype": _TYPE,
        "actor_rollout_ref.ref.fsdp_config.model_dtype": _TYPE,
        "actor_rollout_ref.ref.megatron": _SHARDING,
        "actor_rollout_ref.ref.ulysses_sequence_parallel_size": _SHARDING,
        "actor_rollout_ref.ref.use_torch_compile": "nothing is compiled",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": _LOG_PROB,
        "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": _LOG_PROB,
        "critic.strategy": _SHARDING,
        "critic.ulysses_sequence_parallel_size": _SHARDING,
        "critic.model.fsdp_config": _SHARDING,
        "critic.model.fsdp_config.mixed_precision": _MIXED,
        "critic.model.fsdp_config.dtype": _TYPE,
        "critic.model.fsdp_config.model_dtype": _TYPE,
        "critic.model.use_remove_padding": _PACKED,
        "critic.model.enable_gradient_checkpointing": "the critic follows actor_rollout_ref.model",
        "critic.model.trust_remote_code": "the critic follows actor_rollout_ref.model",
        "critic.model.tokenizer_path": "the critic reads the actor's tokens",
        "critic.forward_micro_batch_size_per_gpu": "set ppo_max_token_len_per_gpu, next to it",
        "critic.forward_max_token_len_per_gpu": "set ppo_max_token_len_per_gpu, next to it",
        "critic.use_dynamic_bsz": "split by tokens where ppo_micro_batch_size_per_gpu is null",
        "critic.rollout_n": f"set {_ROLLOUT}.n",
        "critic.checkpoint": "a checkpoint always holds everything",
        "data.return_raw_chat": "the messages are always kept",
        "data.return_raw_input_ids": "the prompt's tokens are always kept",
        "data.return_full_prompt": "the prompt's text is always kept",
        "data.reward_fn_key": "the column is data_source",
        "data.image_key": _COLUMNS,
        "data.video_key": _COLUMNS,
        "data.dataloader_num_workers": "a data set is tokenised once, when it is read",
        "data.filter_overlong_prompts_workers": "a data set is tokenised once, when it is read",
        "data.use_shm": "files are read where they are",
        "data.validation_shuffle": "validation covers the whole set in its own order",
        "data.trust_remote_code": "the tokenizer follows actor_rollout_ref.model.trust_remote_code",
        "data.tokenizer": "set actor_rollout_ref.model.tokenizer_path",
        "reward_model.model": "a reward model cannot score here; set custom_reward_function.path",
        "reward_model.micro_batch_size_per_gpu": "a reward model cannot score here; set custom_reward_function.path",
        "reward_model.launch_reward_fn_async": "all responses of a batch are scored at the same time",
        "reward_model.num_workers": "set reward.num_workers",
        "reward_model.reward_manager": "rewards are set by reward.functions or custom_reward_function",
        "trainer.balance_batch": "micro-batches are filled by tokens",
        "trainer.esi_redundant_time": "there is no such scheduler here",
        "trainer.default_hdfs_dir": "runs are kept in trainer.default_local_dir",
        "trainer.del_local_ckpt_after_load": "checkpoints are deleted by max_actor_ckpt_to_keep only",
        "trainer.max_critic_ckpt_to_keep": "actor and critic are one checkpoint: set max_actor_ckpt_to_keep",
        "trainer.ray_wait_register_center_timeout": _RAY,
        "trainer.use_legacy_worker_impl": "there are no workers",
        "trainer.rollout_data_dir": "samples are written to samples.jsonl in the run's folder",
        "trainer.validation_data_dir": "samples are written to samples.jsonl in the run's folder",
    }
)

_LATER = "this is not available"

# Keys that would change the run, with the values that ask for nothing.
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType(
    {
        "reward_model.enable": ((False, None), "a reward model cannot score here; set custom_reward_function.path"),
        "actor_rollout_ref.model.lora_rank": ((0, None), f"{_LATER}; take it out to train all weights"),
        "actor_rollout_ref.rollout.multi_turn.enable": ((False, None), f"{_LATER}; take it out"),
        "actor_rollout_ref.actor.freeze_vision_tower": ((False, None), "models with images cannot be trained"),
        "actor_rollout_ref.actor.router_replay.mode": (
            ("disabled", None),
            "routing is not replayed; GSPO trains a Mixture-of-Experts without it",
        ),
        "data.custom_cls.path": ((None,), "rows are read by the built-in reader; bring them into its columns"),
        "data.sampler.class_path": ((None,), "prompts are drawn in a shuffled order; take it out"),
        "data.tool_config_path": ((None,), f"{_LATER}; take it out"),
        "algorithm.pf_ppo.reweight_method": ((None,), f"{_LATER}; take it out"),
        "algorithm.use_pf_ppo": ((False, None), f"{_LATER}; take it out"),
        "critic.model.lora_rank": ((0, None), f"{_LATER}; take it out to train all weights"),
    }
)


def canonical(key: str) -> str:
    """The key under which the schema has it."""
    return MOVED.get(key, key)


def canonical_value(key: str, value: Any) -> Any:
    """The value under which the schema knows it: a loss under its name, where an alias is given (`ppo`)."""
    if key == f"{_ACTOR}.policy_loss.loss_mode" and isinstance(value, str) and (loss := loss_named(value)):
        return loss.name
    return value


def is_namespace(key: str) -> bool:
    """Whether keys of these tables lie beneath this one, so that it is read as a mapping."""
    return any(name.startswith(f"{key}.") for table in (MOVED, NO_EFFECT, REFUSED) for name in table)


def reason_without_effect(key: str) -> str | None:
    """Why a verl key does nothing here, or None where it is no such key."""
    parts = key.split(".")
    if parts[-1] in ("_target_", "_convert_", "_recursive_"):
        return "it names verl's own class of the section"
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    reason = next((NO_EFFECT[prefix] for prefix in prefixes if prefix in NO_EFFECT), None)
    return "it asks for nothing" if reason is None and key in REFUSED else reason


def refusal(key: str, value: Any) -> str | None:
    """Why a verl key cannot be set to this value here, or None where that asks for nothing or is no such key."""
    if key not in REFUSED:
        return None
    harmless, reason = REFUSED[key]
    return None if value in harmless else reason
