"""An engine that plays back given token sequences: for tests of what surrounds an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, Prompt, Response
from gspo.models import Ends, Policy
from gspo.rollout.engine import SamplingParams

__all__ = ["ScriptedEngine"]


class ScriptedEngine:
    """Answers every prompt by a function instead of a model.

    Args:
        script: (prompt, number of the response, step) -> token ids, with the end token where the response ends.
        tokenizer: decodes the responses and names the end tokens.

    Attributes:
        versions: every weight version that was loaded, in order.
    """

    def __init__(self, script: Callable[[Prompt, int, int], list[int]], tokenizer: PreTrainedTokenizerBase) -> None:
        self._script = script
        self._tokenizer = tokenizer
        self._ends = Ends.of(tokenizer)
        self.versions: list[int] = []

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        n: int,
        step: int,
        on_ended: Callable[[int], None] | None = None,
    ) -> list[Group]:
        """See `RolloutEngine`. Log-probabilities are zero."""
        groups = []
        for prompt in prompts:
            responses = [self._respond(self._script(prompt, i, step), sampling) for i in range(n)]
            groups.append(Group(prompt, responses))
            if on_ended is not None:
                on_ended(n)
        return groups

    def load_weights(self, policy: Policy, version: int) -> None:
        """Notes the version."""
        del policy
        self.versions.append(version)

    def close(self) -> None:
        """Nothing is held."""

    def _respond(self, token_ids: list[int], sampling: SamplingParams) -> Response:
        token_ids = token_ids[: sampling.max_tokens]
        ended = bool(token_ids) and token_ids[-1] in self._ends.ids
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return Response(token_ids, [0.0] * len(token_ids), text, "stop" if ended else "length")
