"""What a user can give wrongly: each ends in one line that names it and exit code 1, or it simply works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from messages import facts, names
from safetensors.torch import load_file, save_file

from gspo.cli import main
from gspo.config import ConfigError
from gspo.models import load_tokenizer
from gspo.models.scratch import make_model_folder

ROW = {"data_source": "tiny", "prompt": "spell ab", "reward_model": {"style": "rule", "ground_truth": "1"}}


@dataclass
class Bench:
    """A folder to spoil things in."""

    folder: Path
    model: Path
    data: Path

    def rows(self, *rows: Any, name: str = "bad.jsonl") -> str:
        """Override with a training file of four good rows and these behind them, a text as it stands."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in (*[ROW] * 4, *rows)]
        return self.file(name, "\n".join(lines) + "\n")

    def file(self, name: str, content: str | bytes, key: str = "data.train_files") -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"{key}={path}"

    def row(self, **changes: Any) -> str:
        return self.rows({**ROW, **changes})

    def copy(self) -> Path:
        return Path(shutil.copytree(self.model, self.folder / "model"))

    def json(self, name: str, **changes: Any) -> str:
        """Override with a copy of the model in one of whose JSON files entries are replaced (None: removed)."""
        path = self.copy() / name
        content = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
        path.write_text(json.dumps(content))
        return f"actor_rollout_ref.model.path={path.parent}"

    def weights(self, change: Callable[[dict[str, Any]], None]) -> str:
        path = self.copy() / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        return f"actor_rollout_ref.model.path={path.parent}"

    def without(self, *names: str) -> str:
        folder = self.copy()
        for name in names:
            (folder / name).unlink()
        return f"actor_rollout_ref.model.path={folder}"

    def smaller_model(self) -> list[str]:
        """Overrides with a model that knows fewer characters than the tokenizer."""
        folder = make_model_folder(self.folder / "small", hidden_size=32, num_layers=1, characters="abc \n")
        return [f"actor_rollout_ref.model.path={folder}", f"actor_rollout_ref.model.tokenizer_path={self.model}"]

    def reward(
        self, body: str, head: str = "def compute_score(data_source, solution_str, ground_truth, extra_info):"
    ) -> str:
        return self.file("bad_reward.py", f"import time\n{head}\n    {body}\n", "custom_reward_function.path")


Case = list[str] | Callable[[Bench], list[str]]
MODEL, ACTOR, ROLLOUT = "actor_rollout_ref.model", "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def _nan(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"][3] = float("nan")


def _drop_layer(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _widen(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].repeat(2)


ROWS: dict[str, tuple[Case, str]] = {
    "row is no JSON": (
        lambda b: [b.rows('{"prompt": ')],
        "DIR/bad.jsonl, row 4 (counted from 0): is not valid JSON (...): ... or remove the line",
    ),
    "row is a list": (
        lambda b: [b.rows([1, 2])],
        "DIR/bad.jsonl, row 4 (counted from 0): is a list, not an object: write {...}",
    ),
    "prompt is null": (
        lambda b: [b.row(prompt=None)],
        "DIR/bad.jsonl, row 4 (counted from 0): the prompt is a null: it must be a list of {role, content}, or a text",
    ),
    "prompt is empty": (
        lambda b: [b.row(prompt="  ")],
        "DIR/bad.jsonl, row 4 (counted from 0): the prompt is empty: write a text, or remove the row",
    ),
    "prompt is a number": (
        lambda b: [b.row(prompt=7)],
        "DIR/bad.jsonl, row 4 (counted from 0): the prompt is a int: it must be a list of {role, content}, or a text",
    ),
    "message without content": (
        lambda b: [b.row(prompt=[{"role": "user"}])],
        "DIR/bad.jsonl, row 4 (counted from 0): message 0 of the prompt has no content (its keys: role): add it",
    ),
    "prompt ends with the assistant": (
        lambda b: [b.row(prompt=[{"role": "assistant", "content": "a"}])],
        "DIR/bad.jsonl, row 4 (counted from 0): the prompt ends with the assistant's message: end it with the user's",
    ),
    "data_source is null": (
        lambda b: [b.row(data_source=None)],
        "DIR/bad.jsonl, row 4 (counted from 0): data_source is None: it must be a text, which names the data",
    ),
    "reward_model is a text": (
        lambda b: [b.row(reward_model="rule")],
        "DIR/bad.jsonl, row 4 (counted from 0): reward_model is a str: it must be {style, ground_truth}, or null",
    ),
    "extra_info is a list": (
        lambda b: [b.row(extra_info=[1])],
        "DIR/bad.jsonl, row 4 (counted from 0): extra_info is a list: it must be an object, or null",
    ),
    "prompt too long": (
        lambda b: [b.row(prompt="a" * 50)],
        "DIR/bad.jsonl, row 4 (counted from 0): the prompt has 51 tokens, more than "
        "data.max_prompt_length=40: raise it, or set data.filter_overlong_prompts=true to leave such prompts "
        "out, or data.truncation=left or right to cut them",
    ),
}

FILES: dict[str, tuple[Case, str]] = {
    "no file": (
        lambda b: [f"data.train_files={b.data / 'tran.jsonl'}"],
        "DATA/tran.jsonl does not exist; data files in its folder: test.jsonl, train.jsonl",
    ),
    "no file named": (
        ["data.train_files=[]"],
        "data.train_files is not set: set it, as in data.train_files=train.parquet",
    ),
    "file twice": (
        lambda b: [f"data.train_files=[{b.data / 'train.jsonl'},{b.data / 'train.jsonl'}]"],
        "DATA/train.jsonl is named more than once: name each file once",
    ),
    "file is a folder": (
        lambda b: [f"data.train_files={b.data}"],
        "DATA is a folder: name the files in it (test.jsonl, train.jsonl)",
    ),
    "file of another kind": (
        lambda b: [b.file("rows.csv", "a,b\n")],
        "DIR/rows.csv is not a .parquet, .json or .jsonl file: convert it to one of them",
    ),
    "empty file": (lambda b: [b.file("rows.jsonl", "")], "DIR/rows.jsonl is an empty file: write it again"),
    "no rows": (lambda b: [b.file("rows.json", "[]")], "DIR/rows.json has no rows: it needs at least one"),
    "unreadable parquet": (
        lambda b: [b.file("rows.parquet", "PAR1 no parquet")],
        "DIR/rows.parquet cannot be read as parquet (...): write it again",
    ),
    "not UTF-8": (
        lambda b: [b.file("rows.jsonl", b'{"prompt": "\xff\xfe"}\n')],
        "DIR/rows.jsonl is not UTF-8 text (...): write it again as UTF-8",
    ),
    "missing column": (
        ["data.prompt_key=question"],
        "DATA/train.jsonl has no column 'question'; its columns are data_source, prompt, reward_model, "
        "answer: set data.prompt_key to the prompt's",
    ),
    "all too long": (
        ["data.max_prompt_length=3", "data.filter_overlong_prompts=true"],
        "all 10 prompts are longer than data.max_prompt_length=3 tokens (the longest has 26): raise it",
    ),
    "batch larger than the data": (
        ["data.train_batch_size=64"],
        "10 prompts do not fill one batch of data.train_batch_size=64: set it to 10 or less, or add data",
    ),
    "bad validation file": (
        lambda b: [b.file("val.jsonl", '{"prompt": 1}\n', "data.val_files")],
        "DIR/val.jsonl, row 0 (counted from 0): the prompt is a int: it must be a list of {role, content}, or a text",
    ),
    "run folder is a file": (
        lambda b: [b.file("taken", "", "trainer.default_local_dir")],
        "trainer.default_local_dir=DIR/taken: DIR/taken is a file: name a folder",
    ),
    "run folder below a file": (
        lambda b: [b.file("taken", "", "trainer.default_local_dir") + "/run"],
        "trainer.default_local_dir=DIR/taken/run: DIR/taken is a file: name a folder",
    ),
}

MODELS: dict[str, tuple[Case, str]] = {
    "no model": (
        [f"{MODEL}.path=null"],
        "actor_rollout_ref.model.path is not set: set it, as in actor_rollout_ref.model.path=Qwen/Qwen3-0.6B",
    ),
    "no model folder": (
        lambda b: [f"{MODEL}.path={b.folder}/nothing"],
        "actor_rollout_ref.model.path: there is no folder DIR/nothing: set it to a folder with a Hugging Face"
        " model, or to a hub name",
    ),
    "folder without config.json": (
        lambda b: [b.without("config.json")],
        "DIR/model holds no config.json, so it is not a Hugging Face model folder: set "
        "actor_rollout_ref.model.path to one (a run's is RUN/huggingface)",
    ),
    "folder without weights": (
        lambda b: [b.without("model.safetensors")],
        "no model could be loaded from DIR/model (...): download or export it again, or set "
        "actor_rollout_ref.model.path to another",
    ),
    "folder without a tokenizer": (
        lambda b: [b.without("tokenizer.json", "tokenizer_config.json")],
        "no tokenizer could be loaded from DIR/model (...): put its files there, or set "
        "actor_rollout_ref.model.tokenizer_path to a folder that has them",
    ),
    "config.json is no JSON": (
        lambda b: [f"{MODEL}.path={(p := b.copy(), (p / 'config.json').write_text('{'))[0]}"],
        "DIR/model/config.json is not whole JSON (...): download or export the model again",
    ),
    "unknown architecture": (
        lambda b: [b.json("config.json", model_type="lama")],
        "no model could be loaded from DIR/model (...): download or export it again, or set "
        "actor_rollout_ref.model.path to another",
    ),
    "weights cut off": (
        lambda b: [f"{MODEL}.path={(p := b.copy(), (p / 'model.safetensors').write_bytes(b'abcdefghijk'))[0]}"],
        "no model could be loaded from DIR/model (...): download or export it again, or set "
        "actor_rollout_ref.model.path to another",
    ),
    "NaN weights": (
        lambda b: [b.weights(_nan)],
        "the model in DIR/model has NaN or infinite values in model.norm.weight: download or export the model again",
    ),
    "a weight is missing": (
        lambda b: [b.weights(_drop_layer)],
        "the model in DIR/model lacks 1 of its weights, model.layers.1.mlp.up_proj.weight for one: download "
        "or export the model again",
    ),
    "a weight of another shape": (
        lambda b: [b.weights(_widen)],
        "the model in DIR/model has model.norm.weight of shape [64], and its configuration asks for [32]: the"
        " weights are of another model, or actor_rollout_ref.model.override_config changes a size",
    ),
    "tokenizer without an end token": (
        lambda b: [b.json("tokenizer_config.json", eos_token=None)],
        "the tokenizer in DIR/model has no end token, so no response could ever finish; set its eos_token",
    ),
    "model too small for the tokenizer": (
        lambda b: b.smaller_model(),
        "the tokenizer has 104 tokens and the model in DIR/small only 9: they do not belong together; set "
        "actor_rollout_ref.model.tokenizer_path to the model's own",
    ),
    "too many positions": (
        ["data.max_response_length=110"],
        "the longest prompt and data.max_response_length together are 136 tokens, and the model in MODEL has "
        "128 positions: lower data.max_response_length or data.max_prompt_length",
    ),
    "a size of the configuration is changed": (
        [f"{MODEL}.override_config.vocab_size=50"],
        "the model in MODEL has model.embed_tokens.weight of shape [104, 32], and its configuration asks for "
        "[50, 32]: the weights are of another model, or actor_rollout_ref.model.override_config changes a "
        "size",
    ),
    "unknown model entry": (
        [f"{MODEL}.override_config.hidden=3"],
        "actor_rollout_ref.model.override_config.hidden: LlamaConfig has no such entry",
    ),
    "chat template is no template": (
        [f"{MODEL}.chat_template='{{% for %}}'"],
        "DATA/train.jsonl, row 0 (counted from 0): the chat template refuses the roles [user] (...): change "
        "the messages, or set actor_rollout_ref.model.chat_template",
    ),
    "chat template is no file": (
        [f"{MODEL}.chat_template=chat.jinja"],
        "actor_rollout_ref.model.chat_template: chat.jinja is neither a file nor a Jinja text",
    ),
    "tokenizer has no chat template": (
        lambda b: [b.without("chat_template.jinja")],
        "DATA/train.jsonl, row 0 (counted from 0): a list of messages needs a chat template and the tokenizer"
        " has none: set actor_rollout_ref.model.chat_template, or make the prompt column plain text",
    ),
}

REWARDS: dict[str, tuple[Case, str]] = {
    "unknown reward": (
        ["reward.functions=[{name: gms8k}]", "custom_reward_function.path=null"],
        "reward.functions: there is no reward function 'gms8k'; ... 'gsm8k'? ... gsm8k, math, gym, format, overlong, "
        "custom. ... gspo.register_reward, ... algorithm.external_modules ...",
    ),
    "no reward for the data": (
        ["custom_reward_function.path=null"],
        "no built-in reward is known for data_source='tiny': name one, as in reward.functions=[{name: math}] "
        "(there are gsm8k, math, gym, format, overlong), or set custom_reward_function.path to a file with "
        "your own",
    ),
    "reward file missing": (
        lambda b: [f"custom_reward_function.path={b.folder}/reward.py"],
        "custom_reward_function.path=DIR/reward.py is not a file: name the Python file of your function",
    ),
    "reward file does not run": (
        lambda b: [b.file("r.py", "import no_such_module", "custom_reward_function.path")],
        "DIR/r.py does not run: ModuleNotFoundError: No module named 'no_such_module' (r.py, line 1)",
    ),
    "reward under another name": (
        ["custom_reward_function.name=score"],
        "DATA/reward.py has no function 'score'; its functions: compute_score: set custom_reward_function.name",
    ),
    "reward with other arguments": (
        lambda b: [b.reward("return 1", head="def compute_score(text):")],
        "custom_reward_function: compute_score in DIR/bad_reward.py cannot be called with the keywords "
        "data_source, solution_str, ground_truth, extra_info, prompt_str (missing a required argument: 'text'): give "
        "it ... these parameters, or **kwargs",
    ),
    "reward raises": (
        lambda b: [b.reward("raise KeyError('answer')")],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: compute_score: KeyError: "
        "'answer' (bad_reward.py, line 3). ... the function or the rows",
    ),
    "reward returns None": (
        lambda b: [b.reward("pass")],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: returned None: return "
        "a number, or a dict with `score`. ... the function or the rows",
    ),
    "reward returns NaN": (
        lambda b: [b.reward("return float('nan')")],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: returned nan: a reward"
        " must be a finite number. ... the function or the rows",
    ),
    "reward returns a text": (
        lambda b: [b.reward("return 'good'")],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: returned a str: return"
        " a number, or a dict with `score`. ... the function or the rows",
    ),
    "reward hangs": (
        lambda b: [b.reward("time.sleep(60)"), "reward.timeout=0.2"],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: timed out after 0.2 s "
        "(reward.timeout)... the function or the rows",
    ),
    "reward holds the interpreter's lock": (
        lambda b: [b.reward("return 9 ** 9 ** 9 % 2"), "reward.timeout=0.2"],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: compute_score: timed out after "
        "0.2 s (reward.timeout)... the function or the rows",
    ),
    "reward ends its process": (
        lambda b: [b.reward("import os; os._exit(0)")],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: compute_score: the scoring "
        "process ended by itself with code 0. ... the function or the rows",
    ),
    "reward is beyond float32": (
        lambda b: [b.reward("return 1e308")],
        "the reward failed for all 12 responses; the first, train.jsonl:9, response 0: compute_score: returned 1e+308, "
        "beyond float32 (at most 3.4e+38)... the function or the rows",
    ),
    "reward file ends with an exit": (
        lambda b: [b.reward("return 1\nimport sys\nsys.exit(0)")],
        'DIR/bad_reward.py does not run: SystemExit: 0 (bad_reward.py, line 5)... if __name__ == "__main__":',
    ),
    "reward file ends with an exit, inline": (
        lambda b: [b.reward("return 1\nimport sys\nsys.exit(0)"), "custom_reward_function.inline=true"],
        'DIR/bad_reward.py does not run: SystemExit: 0 (bad_reward.py, line 5)... if __name__ == "__main__":',
    ),
    "reward file ends its process": (
        lambda b: [b.reward("return 1\nimport os\nos._exit(0)")],
        "DIR/bad_reward.py: the scoring process ended by itself with code 0 while it was imported",
    ),
    "reward abstains from all": (
        lambda b: [b.reward("return {'abstained': 'no truth'}")],
        "none of the 12 responses of this step has a reward; the first, train.jsonl:9, response 0: no truth. "
        "... the rows or the reward function",
    ),
    "one reward fails and is to stop the run": (
        lambda b: [b.reward("return 1 if 'a' in solution_str else 1 / 0"), "reward.on_error=raise"],
        "the reward failed for train.jsonl:9, response 0: ZeroDivisionError: division by zero (bad_reward.py,"
        " line 3). The response: 'kUQqNo'. ... the function or the row, or set reward.on_error=exclude to "
        "leave such responses out",
    ),
}

KEYS: dict[str, tuple[Case, str]] = {
    "unknown key": (
        [f"{ACTOR}.optim.learning_rate=1"],
        "unknown key actor_rollout_ref.actor.optim.learning_rate (override "
        "actor_rollout_ref.actor.optim.learning_rate=1): did you mean ...?",
    ),
    "unknown loss": (
        [f"{ACTOR}.policy_loss=gpso"],
        "actor_rollout_ref.actor.policy_loss.loss_mode=gpso is unknown; did you mean gspo? Known: .... One of"
        " your own is found through algorithm.external_modules=[FILE.py] (override "
        "actor_rollout_ref.actor.policy_loss=gpso)",
    ),
    "unknown advantage": (
        ["algorithm.adv_estimator=grop"],
        "algorithm.adv_estimator=grop is unknown; did you mean grpo? Known: .... One of your own is found "
        "through algorithm.external_modules=[FILE.py] (override algorithm.adv_estimator=grop)",
    ),
    "no override that can be read": (
        ["trainer.experiment_name={a"],
        "cannot read the override trainer.experiment_name={a: no viable alternative. Write key=value; a value "
        "with spaces, braces, commas or other signs goes into quotes within the shell's: 'key=\"value\"'",
    ),
    "wrong type": (
        ["data.train_batch_size=four"],
        "data.train_batch_size=four is of type str: expected int (override data.train_batch_size=four)",
    ),
    "learning rate is no number": (
        [f"{ACTOR}.optim.lr=nan"],
        "actor_rollout_ref.actor.optim.lr=nan is not a number: set one (override actor_rollout_ref.actor.optim.lr=nan)",
    ),
    "learning rate that no weight survives": (
        [f"{ACTOR}.optim.lr=1e38"],
        "training has diverged: model.embed_tokens.weight of the actor is NaN or infinite after this step. "
        "Lower actor_rollout_ref.actor.optim.lr; the same command then goes on from the newest checkpoint, "
        "if there is one",
    ),
    "negative seed": (["data.seed=-1"], "the sampler's seed is -1: set data.seed to 0 or more"),
    "two spellings that differ": (
        [f"{ACTOR}.ppo_epochs=1", "actor_rollout_ref.ppo_epochs=2"],
        "actor_rollout_ref.ppo_epochs=2 (override actor_rollout_ref.ppo_epochs=2) and "
        "actor_rollout_ref.actor.ppo_epochs=1 (override actor_rollout_ref.actor.ppo_epochs=1) are two "
        "spellings of actor_rollout_ref.actor.ppo_epochs: keep one",
    ),
    "out of range": (
        [f"{ROLLOUT}.temperature=0"],
        "actor_rollout_ref.rollout.temperature=0.0 is too small: set it above 0 (override "
        "actor_rollout_ref.rollout.temperature=0)",
    ),
    "unknown logger": (
        ["trainer.logger=[jsonl,stdout]"],
        "trainer.logger: stdout is not one of console, jsonl, tensorboard, wandb (override "
        "trainer.logger=[jsonl,stdout])",
    ),
    "no CUDA": (
        ["trainer.device=cuda"],
        "trainer.device=cuda, but torch finds no CUDA device: set trainer.device=cpu",
    ),
    "resume path missing": (
        lambda b: ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={b.folder}/global_step_3"],
        "DIR/global_step_3 does not exist; give the folder of a checkpoint, RUN/checkpoints/global_step_N",
    ),
    "resume path not set": (
        ["trainer.resume_mode=resume_path"],
        "trainer.resume_mode=resume_path needs trainer.resume_from_path: set it to a folder of a checkpoint",
    ),
    "external module missing": (
        lambda b: [f"algorithm.external_modules=[{b.folder}/mine.py]"],
        "algorithm.external_modules: there is no file DIR/mine.py: name the Python file that registers your own",
    ),
    "external module raises": (
        lambda b: [b.file("mine.py", "1 / 0", "algorithm.external_modules")],
        "algorithm.external_modules: DIR/mine.py does not run: ZeroDivisionError: division by zero (mine.py, "
        "line 1): fix it",
    ),
    "external module ends with an exit": (
        lambda b: [b.file("mine.py", "import sys\nsys.exit(0)", "algorithm.external_modules")],
        "algorithm.external_modules: DIR/mine.py does not run: SystemExit: 0 (mine.py, line 2): fix it",
    ),
    "external module lacks the loss": (
        lambda b: [b.file("mine.py", "", "algorithm.external_modules"), f"{ACTOR}.policy_loss=mine"],
        "actor_rollout_ref.actor.policy_loss.loss_mode=mine is unknown: no file of algorithm.external_modules"
        " registers it; known: ...",
    ),
    "external module lacks the advantage": (
        lambda b: [b.file("mine.py", "", "algorithm.external_modules"), "algorithm.adv_estimator=mine"],
        "algorithm.adv_estimator=mine is unknown: no file of algorithm.external_modules registers it; known: ...",
    ),
}


@pytest.fixture
def bench(tmp_path: Path, tiny_model_folder: Path, tiny_data: Path) -> Bench:
    folder = tmp_path / "inputs"
    folder.mkdir()
    return Bench(folder, tiny_model_folder, tiny_data)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    assert main(arguments) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("gspo: ")]
    assert "Traceback" not in error
    assert len(lines) == 1, error
    assert error.endswith(lines[0] + "\n"), error
    return lines[0].removeprefix("gspo: error: ")


@pytest.mark.parametrize(("case", "message"), (ALL := {**ROWS, **FILES, **MODELS, **REWARDS, **KEYS}).values(), ids=ALL)
def test_it_is_refused_by_name(
    case: Case, message: str, bench: Bench, run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(["train", *run_overrides(*(case(bench) if callable(case) else case))], capsys)
    line = line.replace(str(bench.folder), "DIR").replace(str(bench.data), "DATA").replace(str(bench.model), "MODEL")
    assert names(line, *facts(message))


def trains(folder: Path, arguments: list[str]) -> list[dict[str, Any]]:
    """The metrics of a run that is to go through, step by step."""
    assert main(["train", *arguments]) == 0
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_tokenizer_without_a_pad_token_works(
    bench: Bench, tmp_path: Path, run_overrides: Callable[..., list[str]]
) -> None:
    model = bench.json("tokenizer_config.json", pad_token=None)
    path = Path(model.partition("=")[2]) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": None}))
    steps = trains(tmp_path, run_overrides(model, "trainer.save_hf=true"))
    assert [step["actor/skipped_steps"] for step in steps] == [0.0, 0.0]
    assert load_tokenizer(str(tmp_path / "run" / "huggingface")).pad_token is None


def test_one_response_a_prompt_is_said_and_works(
    tmp_path: Path, run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = trains(tmp_path, run_overrides(f"{ROLLOUT}.n=1"))
    said = "rollout.n=1 leaves grpo without a baseline: a response is compared with the others of its prompt"
    assert said in capsys.readouterr().out
    for step in steps:  # a group of one keeps its reward as its advantage
        assert step["critic/advantages/max"] == pytest.approx(step["critic/rewards/max"], rel=1e-5)


def test_groups_of_equal_rewards_teach_nothing_and_are_counted(
    bench: Bench, tmp_path: Path, run_overrides: Callable[..., list[str]]
) -> None:
    steps = trains(tmp_path, run_overrides(bench.reward("return 0.25"), f"{ACTOR}.optim.weight_decay=0"))
    for step in steps:
        assert step["group/zero_spread"] == 1.0
        assert step["critic/score/mean"] == 0.25
        assert (step["critic/advantages/min"], step["critic/advantages/max"]) == (0.0, 0.0)
        assert (step["actor/pg_loss"], step["actor/grad_norm"]) == (0.0, 0.0)


def test_a_batch_of_cut_responses_works_and_is_counted(tmp_path: Path, run_overrides: Callable[..., list[str]]) -> None:
    steps = trains(tmp_path, run_overrides("data.max_response_length=1", f"{ROLLOUT}.ignore_eos=true"))
    assert [step["response_length/clip_ratio"] for step in steps] == [1.0, 1.0]
    assert [step["response_length/max"] for step in steps] == [1.0, 1.0]


def test_some_failing_rewards_are_left_out_counted_and_told_once(
    bench: Bench, tmp_path: Path, run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    body = "return len(solution_str) / (0 if ground_truth in '2468' else 1)"
    steps = trains(tmp_path, run_overrides(bench.reward(body), "data.train_batch_size=10"))
    assert [step["reward/errors"] for step in steps] == [0.4, 0.4]
    told = [line for line in capsys.readouterr().out.splitlines() if "a reward failed" in line]
    assert len(told) == 1
    assert "ZeroDivisionError: division by zero (bad_reward.py, line 3)" in told[0]


def test_what_a_reward_prints_is_kept_in_the_folder_of_the_run(
    bench: Bench, tmp_path: Path, run_overrides: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    steps = trains(tmp_path, run_overrides(bench.reward("print('judged', len(solution_str)); return 1.0")))
    lines = (tmp_path / "run" / "reward_output.txt").read_text().splitlines()
    assert len(lines) == 12 * len(steps)
    assert all(line.startswith("judged ") for line in lines)
    assert "judged" not in "".join(capfd.readouterr())


def test_overlong_prompts_are_left_out_where_it_is_asked_for(
    bench: Bench, tmp_path: Path, run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    trains(tmp_path, run_overrides(bench.row(prompt="a" * 50), "data.filter_overlong_prompts=true"))
    assert "4 prompts from 5 rows, longest 51 tokens; 1 left out as too long" in capsys.readouterr().out


def test_gradients_that_are_not_finite_are_left_out_counted_and_told_once(
    bench: Bench, tmp_path: Path, run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    loss = """
import torch
from gspo.algorithms import register_policy_loss

@register_policy_loss("broken")
def broken(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    return (log_prob * torch.inf).sum(), {}
"""
    module = bench.file("broken.py", loss, "algorithm.external_modules")
    # All of its steps are left out, which is no run that has gone well.
    assert main(["train", *run_overrides(module, f"{ACTOR}.policy_loss=broken")]) == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("actor/skipped_steps") for line in lines][-2:] == [1.0, 1.0]
    output = capsys.readouterr()
    assert names(output.err, "every optimizer step of the actor", f"{ACTOR}.optim.lr")
    told = [line for line in output.out.splitlines() if "a gradient was NaN or infinite" in line]
    assert len(told) == 1
    assert told[0].startswith("warning, step 1: a gradient was NaN or infinite, and its optimizer step was left out")


def test_debug_shows_the_traceback(run_overrides: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"unknown key trainer\.epochs"):
        main(["--debug", "train", *run_overrides("trainer.epochs=2")])


def test_messages_as_json_text_are_said_once_for_each_kind_of_data(
    bench: Bench, run_overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = json.dumps([{"role": "user", "content": "spell ab"}])
    val = bench.file("val.jsonl", json.dumps({**ROW, "prompt": spelled}), "data.val_files")
    trains(tmp_path, run_overrides(bench.row(prompt=spelled), val))
    said = [line for line in capsys.readouterr().out.splitlines() if "JSON text" in line]
    assert [("1 are JSON text" in line, "validation: 1 prompts" in line) for line in said] == [
        (True, False),
        (False, True),
    ]
