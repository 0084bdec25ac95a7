"""A rollout for verl that needs no inference engine: its responses are drawn from the prompt's tokens and the weights.

verl's own agent loops, reward loop, replay buffer and transfer queue run as they are; the engine behind the server is
replaced. A response depends on the prompt, on how often it was asked, and on how many weight updates there were, so
that two runs can be compared.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import ray
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

END = 1  # the tiny tokenizer's end token
_NAME = "scripted_server"


@ray.remote
class ScriptedServer:
    """Answers `generate`, and does nothing for the calls that manage an engine's memory."""

    def __init__(self) -> None:
        self._asked: Counter[tuple[int, ...]] = Counter()
        self._version = 0

    def set_version(self, version: int | None) -> None:
        self._version = version or 0
        self._asked.clear()

    def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> Any:
        key = tuple(prompt_ids)
        number = self._asked[key]
        self._asked[key] += 1
        draw = hashlib.sha256(repr((key, number, self._version)).encode()).digest()
        tokens = [3 + byte % 40 for byte in draw[: 2 + draw[-1] % 6]]
        if draw[-2] % 4:
            tokens.append(END)
        extra = {"min_global_steps": self._version, "max_global_steps": self._version, "global_steps": self._version}
        return TokenOutput(
            token_ids=tokens, log_probs=[-1.0] * len(tokens), stop_reason="completed", extra_fields=extra
        )

    def nothing(self, *_: Any, **__: Any) -> None:
        return None

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = nothing
    abort_all_requests = resume_generation = start_profile = stop_profile = nothing


class ScriptedReplica(RolloutReplica):
    async def launch_servers(self) -> None:
        server = ScriptedServer.options(name=_NAME, num_cpus=0).remote()
        self.servers = [server]
        self._server_handle, self._server_address = server, "scripted"


class ScriptedRollout(BaseRollout):
    """The side of the rollout that lives in the actor's process: it passes on which version the weights are."""

    async def resume(self, tags: list[str]) -> None:
        del tags

    async def release(self) -> None:
        pass

    async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
        for _name, _tensor in weights:
            pass
        await ray.get_actor(_NAME).set_version.remote(global_steps)


_ROLLOUT_REGISTRY[("scripted", "async")] = "scripted_rollout.ScriptedRollout"
RolloutReplicaRegistry.register("scripted", lambda: ScriptedReplica)
