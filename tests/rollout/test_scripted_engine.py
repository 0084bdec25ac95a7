"""The scripted fake behaves as an engine does."""

from __future__ import annotations

from gspo.groups import Prompt
from gspo.models.scratch import character_tokenizer
from gspo.rollout import SamplingParams, ScriptedEngine


def test_scripted_engine_plays_its_script() -> None:
    tokenizer = character_tokenizer("abc")
    eos = tokenizer.eos_token_id

    def script(prompt: Prompt, index: int, step: int) -> list[int]:
        assert prompt.uid == "f:0"
        return [4 + index] * step + [eos]

    engine = ScriptedEngine(script, tokenizer)
    (group,) = engine.generate([Prompt("f:0", (4,), "a", "s")], SamplingParams(2), n=2, step=1)
    assert [(r.token_ids, r.text, r.finish_reason) for r in group.responses] == [
        ([4, eos], "a", "stop"),
        ([5, eos], "b", "stop"),
    ]
    told = list[int]()
    (group,) = engine.generate([Prompt("f:0", (4,), "a", "s")], SamplingParams(2), n=1, step=3, on_ended=told.append)
    assert told == [1]
    assert group.responses[0].token_ids == [4, 4]
    assert group.responses[0].finish_reason == "length"
