"""Secrets among the user's own keys: used as they are, and neither printed, logged nor written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from messages import names

from gspo.cli import main
from gspo.commands.compare import make_jobs, parse_variant
from gspo.config import ConfigError, load_config, render, require_keys
from gspo.config.schema import to_dict
from gspo.config.secrets import hidden_keys, is_secret, masked, masked_text
from gspo.config.settings import known_keys

SECRETS = [
    "api_key",
    "openai_api_key",
    "x-api-key",
    "apiKey",
    "api_keys",
    "signing_key",
    "token",
    "hf_token",
    "access_token",
    "token_value",
    "password",
    "db_password",
    "passwd",
    "secret",
    "client_secret",
    "SECRET",
    "aws.credentials",
]
PLAIN = [
    "prompt_key",
    "answer_key",
    "teacher_key",
    "tools_key",
    "reward_fn_key",
    "label_key",
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "stop_tokens",
    "eos_token",
    "pad_token",
    "eos_token_id",
    "token_ids",
    "tokenizer",
    "tokenizer_path",
    "key",
    "monkey",
    "keyword",
]
KWARGS = "custom_reward_function.reward_kwargs"
VALUE = "sk-0123456789"


def test_which_keys_are_secret() -> None:
    assert [key for key in SECRETS if not is_secret(key, VALUE)] == []
    assert [key for key in PLAIN if is_secret(key, VALUE)] == []
    assert [key for key in known_keys() if is_secret(key, "text")] == []


@pytest.mark.parametrize("value", [None, True, False, ""])
def test_what_holds_nothing_is_no_secret(value: Any) -> None:
    assert not is_secret("api_key", value)


def test_a_number_is_no_token_but_may_be_a_password() -> None:
    for number in (512, 1e-3, "512", "1e-3"):
        assert not is_secret("image_token", number)
        assert not is_secret("my_token", number)
        assert is_secret("password", number)


def test_masking_reaches_every_depth_and_changes_nothing_itself() -> None:
    tree = {"a": [{"token": VALUE, "n": 1}], "secret": {"b": VALUE}, "max_tokens": 3}
    kept = json.dumps(tree)
    assert masked(tree) == {"a": [{"token": "***", "n": 1}], "secret": "***", "max_tokens": 3}
    assert json.dumps(tree) == kept
    assert masked(masked(tree)) == masked(tree)
    assert list(hidden_keys({"r": masked(tree)})) == ["r.a[0].token", "r.secret"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a.api_key={VALUE}", "a.api_key=***"),
        (f"+a.token='{VALUE}, x'", "+a.token=***"),
        (f"a.kwargs={{api_key: {VALUE}, n: 2}}", "a.kwargs={api_key: ***, n: 2}"),
        (f"a.kwargs={{b: {{password: '{VALUE} x'}}, max_tokens: 3}}", "a.kwargs={b: {password: ***}, max_tokens: 3}"),
        (f"a=[{{name: x, kwargs: {{auth_token: {VALUE}}}}}]", "a=[{name: x, kwargs: {auth_token: ***}}]"),
        (f"--api-key={VALUE}", "--api-key=***"),
        ("data.prompt_key=question", "data.prompt_key=question"),
        ("actor.ppo_max_token_len_per_gpu=abc", "actor.ppo_max_token_len_per_gpu=abc"),
        ("a.stop=[x,y]", "a.stop=[x,y]"),
    ],
)
def test_overrides(text: str, expected: str) -> None:
    assert masked_text(text) == expected


@pytest.mark.parametrize(
    "override",
    [
        f"trainer.api_key={VALUE}",
        f"data.no_such.password={VALUE}",
        f"{KWARGS}=[{{api_key: {VALUE}}}]",
        f"trainer.seed={{api_key: {VALUE}}}",
        f"trainer.token={VALUE},{VALUE}",
        f"trainer.token={VALUE} {{{VALUE}",
        f"~trainer.token={VALUE}",
        f"trainer@x.token={VALUE}",
    ],
)
def test_messages_hide_them(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    assert VALUE not in str(caught.value)


def test_the_printed_configuration_hides_them_and_asks_for_them_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"{KWARGS}={{api_key: {VALUE}, prompt_key: q, max_tokens: 5}}"]
    config = load_config(overrides=overrides)
    assert config.custom_reward_function.reward_kwargs["api_key"] == VALUE
    assert main(["config", *overrides]) == 0
    assert VALUE not in "".join(capsys.readouterr())
    (tmp_path / "config.yaml").write_text(render(config))
    again = load_config(str(tmp_path), "config")
    assert to_dict(again) == masked(to_dict(config))
    assert again.custom_reward_function.reward_kwargs == {"api_key": "***", "prompt_key": "q", "max_tokens": 5}
    require_keys(config)
    with pytest.raises(ConfigError) as caught:
        require_keys(again)
    assert names(caught, f"{KWARGS}.api_key", "set its value")


REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info, api_key, **kwargs):
    assert api_key.startswith("sk-"), "the function is given another key"
    return len(solution_str) % 3
"""


def test_a_run_uses_them_and_writes_none_and_another_is_no_change(
    tmp_path: Path, run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(REWARD)
    for steps in (1, 2):
        more = [
            f"custom_reward_function.path={tmp_path / 'own.py'}",
            f"+{KWARGS}.api_key={VALUE}-{steps}",
            f"trainer.total_training_steps={steps}",
            "trainer.logger=[console,jsonl,tensorboard]",
        ]
        assert main(["train", *run_overrides(*more)]) == 0
    said = "".join(capsys.readouterr())
    assert "api_key" not in said
    assert "trainer.total_training_steps: 1 -> 2" in said
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert {"config.yaml", "config-until-step-1.yaml", "report.html"} <= {file.name for file in files}
    assert [file for file in files if VALUE.encode() in file.read_bytes()] == []
    assert "api_key: '***'" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_comparison_goes_on_with_another_secret(tmp_path: Path) -> None:
    def job(value: str) -> Any:
        overrides = [f"+{KWARGS}.api_key={value}", "actor_rollout_ref.model.path=m", "data.train_files=x.jsonl"]
        return make_jobs(None, None, overrides, {"a": []}, [1], tmp_path)[0]

    first = job(VALUE)
    first.folder.mkdir(parents=True)
    (first.folder / "config.yaml").write_text(render(first.config))
    assert not first.is_finished
    assert not job("sk-other").is_finished


def test_an_evaluation_writes_none(tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(REWARD)
    (tmp_path / "data.jsonl").write_text('{"prompt": "a"}\n')
    command = ["eval", str(tiny_model_folder), "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out")]
    own = [f"custom_reward_function.path={tmp_path / 'own.py'}", f"+{KWARGS}.api_key={VALUE}"]
    assert main([*command, "--set", "data.max_response_length=4", *own]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["settings"]["set"] == ["data.max_response_length=4", own[0], f"+{KWARGS}.api_key=***"]
    assert VALUE not in "".join([json.dumps(content), *capsys.readouterr()])


def test_the_command_line_and_variants_hide_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", f"--api-key={VALUE}"])
    with pytest.raises(ConfigError) as caught:
        parse_variant(f"a b:{KWARGS}.api_key={VALUE}")
    assert VALUE not in str(caught.value) + "".join(capsys.readouterr())


def test_a_configuration_that_is_shown_in_a_notebook_hides_them() -> None:
    kwargs = f"{{api_key: {VALUE}, model: m, more: [{{password: {VALUE}}}]}}"
    functions = f"reward.functions=[{{name: custom, kwargs: {{auth_token: {VALUE}}}}}]"
    config = load_config(overrides=[f"{KWARGS}={kwargs}", functions, "data.max_response_length=7"])
    for text in (repr(config), str(config), repr(config.custom_reward_function), repr(config.reward.functions)):
        assert VALUE not in text
    assert "'api_key': '***', 'model': 'm'" in repr(config)
    assert "max_response_length=7" in repr(config.data)
    assert repr(config.data).startswith("DataConfig(train_files=")
    assert config.custom_reward_function.reward_kwargs["api_key"] == VALUE  # used as it is
