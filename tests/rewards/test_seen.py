from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from messages import names
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from gspo.config.schema_data import CustomRewardConfig, RewardConfig, RewardFunctionConfig
from gspo.groups import Group, Response
from gspo.rewards import RewardError, RewardManager
from gspo.rewards.seen import KeptTokens

WORDS = ["a", "b", "\\boxed{5}", "\\boxed{6}", "<answer>c</answer>", "<unk>"]
Make = Callable[..., Any]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One word a token; <think>, </think> and <eos> are special."""
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    return made


def respond(tokenizer: PreTrainedTokenizerFast, *words: str, stop: str | None = None) -> Response:
    ids = tokenizer.convert_tokens_to_ids(list(words))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Response(ids, [0.0] * len(ids), text if stop is None else text[: text.index(stop)], "stop")


def test_kept_tokens_stay_and_others_do_not(tokenizer: PreTrainedTokenizerFast) -> None:
    kept = KeptTokens(["<think>", "</think>"], tokenizer)
    response = respond(tokenizer, "<think>", "a", "</think>", "b", "<eos>")
    assert "<think>" not in response.text
    assert kept(response).text.replace(" ", "") == "<think>a</think>b"
    assert KeptTokens(["</think>"], tokenizer)(response).text.replace(" ", "") == "a</think>b"


def test_a_text_that_was_cut_stays_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    kept = KeptTokens(["<think>", "</think>"], tokenizer)
    response = respond(tokenizer, "<think>", "a", "b", "</think>", "a", stop="b")
    assert kept(response).text.replace(" ", "") == "<think>a"


def test_a_token_that_is_not_special(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(RewardError) as caught:
        KeptTokens(["<thought>"], tokenizer)
    assert names(caught, "reward.keep_special_tokens", "'<thought>'", "</think>, <eos>, <think>")


def score(tokenizer: Any, config: RewardConfig, group: Group) -> list[float | None]:
    with RewardManager(config, CustomRewardConfig(), tokenizer=tokenizer) as manager:
        manager.score([group])
    return [response.reward for response in group.responses]


def test_format_sees_the_kept_tokens(tokenizer: PreTrainedTokenizerFast, make_group: Make) -> None:
    words = ("<think>", "a", "</think>", "<answer>c</answer>", "<eos>")
    config = RewardConfig(functions=[RewardFunctionConfig(name="format")])
    group = Group(make_group().prompt, [respond(tokenizer, *words), respond(tokenizer, *words[1:])])
    assert score(tokenizer, config, group) == [0.0, 0.0]
    assert score(tokenizer, replace(config, keep_special_tokens=["<think>", "</think>"]), group) == [1.0, 0.0]
    assert "<think>" not in group.responses[0].text  # what is logged is the text as it was sampled


def test_the_prompt_may_open_the_thoughts(make_group: Make) -> None:
    format_ = RewardConfig(functions=[RewardFunctionConfig(name="format")])
    opened = replace(make_group(data_source="math", ground_truth="6").prompt, text="q\n<think>\n")
    text = "a</think><answer>c</answer>"
    assert score(None, format_, Group(opened, [Response([1], [0.0], text, "stop")])) == [1.0]
    boxes = ["\\boxed{6}", "\\boxed{5}</think>\\boxed{6}", "\\boxed{6}</think>\\boxed{5}"]
    group = Group(opened, [Response([1], [0.0], box, "stop") for box in boxes])
    assert score(None, RewardConfig(), group) == [0.0, 1.0, 0.0]
