"""verl's synchronous trainer with a discriminator for a critic (GAD, arXiv 2511.10643)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from gspo.integrations.verl.data_check import check_data
from gspo.integrations.verl.discriminator import Discriminator
from gspo.integrations.verl.losses import discriminator_loss
from gspo.integrations.verl.rows import Cut, Row, Rows
from gspo.integrations.verl.settings import check_config, stages_of
from gspo.integrations.verl.teachers import TeacherTokens
from gspo.integrations.verl.worker import GadActorWorker
from gspo.trainer.gad.schedule import Stage

__all__ = ["GadTrainer"]


@register_trainer("gad")
class GadTrainer(PPOTrainerSync):
    """GAD's three stages in one run: warmup, the discriminator alone, adversarial.

    Of a step's order (sample, old log-probabilities, values, advantages, critic, actor) three parts are others:
    `values` are the discriminator's scores and become rewards; the critic's update is the discriminator's; the actor's
    update is cross-entropy on the teacher's text, nothing, or verl's own, by the stage. The stage is a function of
    verl's global step, so that verl's checkpoints resume it.
    """

    def __init__(self, config: Any) -> None:
        self._gad = check_config(config)
        check_data(config, self._gad)
        self._critic_warmup = int(config.trainer.critic_warmup)
        config = config.copy()
        with open_dict(config):
            # verl asks for this name wherever it must know that nothing is sampled ahead of a step.
            config.trainer.v1.trainer_mode = "sync"
            # verl's own count of these steps would keep `_update_actor` from the warmup.
            config.trainer.critic_warmup = 0
        super().__init__(config)
        self._teacher_rows: list[Row] = []

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self.stages = stages_of(self._gad, self._critic_warmup, self.steps_per_epoch)
        print(f"gad: {self.stages.summary(self.total_training_steps)}")

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            if "actor" in str(role):
                self.role_worker_mapping[role] = ray.remote(GadActorWorker)

    def _setup(self) -> None:
        super()._setup()
        critic = self.config.critic
        self.critic_wg.set_loss_fn(discriminator_loss)
        cut = Cut(
            dp_size=_dp_size(self.critic_wg, "train"),
            use_dynamic_bsz=critic.use_dynamic_bsz,
            max_token_len_per_gpu=critic.ppo_max_token_len_per_gpu,
            micro_batch_size_per_gpu=critic.ppo_micro_batch_size_per_gpu,
        )
        self._discriminator = Discriminator(
            self.critic_wg, self._gad, cut, critic.ppo_mini_batch_size, critic.ppo_epochs
        )
        self._teacher_tokens = TeacherTokens(
            self.tokenizer, self.config.data.max_response_length, self._gad.teacher_key
        )
        if self._has_own_reference and self.global_steps >= self.stages.warmup:
            self.actor_rollout_wg.load_reference(self._reference_folder)

    @property
    def _has_own_reference(self) -> bool:
        """Whether the reference is the student after its warmup, and not the model that the run began with."""
        return bool(self.use_reference_policy and self.stages.warmup)

    @property
    def _reference_folder(self) -> str:
        folder = Path(self.config.trainer.default_local_dir).absolute()
        return str(folder / "gad_reference" / f"global_step_{self.stages.warmup}")

    def _compute_values(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """The discriminator's scores before the step's update, as rewards at the last token of each response."""
        key = self._gad.teacher_key
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["uid", "prompts", "responses", "rm_scores", key],
        )
        prompts, responses, uids = data["prompts"].unbind(), data["responses"].unbind(), _listed(data["uid"])
        texts = _listed(data[key])
        # verl fills a batch up with rows that count nowhere.
        real = [place for place, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        first = {uids[place]: place for place in reversed(real)}
        numbers = {uid: number for number, uid in enumerate(dict.fromkeys(uids[place] for place in real))}
        self._teacher_rows = [Row(prompts[first[uid]], self._teacher_tokens(texts[first[uid]], uid)) for uid in numbers]
        values = self._discriminator.score(
            [Row(prompts[place], responses[place]) for place in real],
            self._teacher_rows,
            [numbers[uids[place]] for place in real],
        )

        rewards = [reward.float().clone() for reward in data["rm_scores"].unbind()]
        shown = [torch.zeros(len(response)) for response in responses]
        for place, value in zip(real, values, strict=True):
            rewards[place][-1] += self._gad.discriminator_weight * value[-1].float()
            shown[place] = value[-len(responses[place]) :].float()
        tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({"rm_scores": _jagged(rewards), "values": _jagged(shown)}, batch_size=len(batch.keys)),
        )
        limit = self.config.data.max_response_length
        lengths = [len(row.response) for row in self._teacher_rows]
        metrics["teacher_length/mean"] = sum(lengths) / len(lengths)
        metrics["teacher_length/clip_ratio"] = sum(length == limit for length in lengths) / len(lengths)
        return batch

    def _update_critic(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """The discriminator's optimizer steps of this step."""
        metrics.update(self._discriminator.update())
        metrics["training/gad_stage"] = int(self.stages.at(self.global_steps))
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Cross-entropy on the teacher's text, nothing, or verl's own update, by the stage."""
        stage = self.stages.at(self.global_steps)
        if stage is Stage.ADVERSARIAL:
            return super()._update_actor(batch, metrics)
        if stage is Stage.WARMUP:
            metrics.update(self._imitate())
            if self.global_steps == self.stages.warmup and self._has_own_reference:
                self.actor_rollout_wg.take_reference(self._reference_folder)
        return batch

    def _imitate(self) -> dict[str, float]:
        """One pass of verl's supervised loss over the teacher's responses; its learning rate is the actor's."""
        actor = self.config.actor_rollout_ref.actor
        dp_size = _dp_size(self.actor_rollout_wg, "actor")
        micro = dp_size * (1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu)
        step = math.lcm(actor.ppo_mini_batch_size, micro)
        rows = Rows(self._teacher_rows, dp_size, step)
        data = rows.batch(
            temperature=1.0,
            calculate_entropy=False,
            mini_batch_size=actor.ppo_mini_batch_size,
            epochs=1,
            seed=actor.data_loader_seed,
            dataloader_kwargs={"shuffle": False},
        )
        self.actor_rollout_wg.imitate(True)
        figures = tu.get(self.actor_rollout_wg.update_actor(data), "metrics")
        self.actor_rollout_wg.imitate(False)
        names = {"loss": "actor/sft_loss", "grad_norm": "actor/grad_norm", "lr": "actor/lr", "mfu": "perf/mfu/actor"}
        return {name: torch.tensor(figures[key], dtype=torch.float64).mean().item() for key, name in names.items()}

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """verl's, without those of a value critic: a discriminator explains no return."""
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        for name in [name for name in metrics if name.startswith(("critic/values/", "critic/vf_explained_var"))]:
            del metrics[name]


def _dp_size(workers: Any, mesh: str) -> int:
    """Data-parallel ranks of a worker group."""
    return int(max(workers._query_dispatch_info(mesh))) + 1


def _listed(column: Any) -> list[Any]:
    """A column that holds no tensors, as a list."""
    return [getattr(value, "data", value) for value in list(column)]


def _jagged(parts: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(parts, layout=torch.jagged)
