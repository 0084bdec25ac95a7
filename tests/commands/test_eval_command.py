"""`gspo eval` from the command line's arguments to its tables and files, and what a MODEL can be."""

from __future__ import annotations

import io
import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import names
from rich.console import Console

from gspo.checkpoint import save_checkpoint
from gspo.cli import main
from gspo.commands.evaluate import evaluate_models
from gspo.commands.evaluate.models import Candidate, find_candidates
from gspo.config import load_config, render
from gspo.evaluation.statistics import bootstrap_interval, wilson_interval
from gspo.groups import Prompt
from gspo.models import Policy, load_model
from gspo.models.scratch import make_model_folder
from gspo.rollout import EngineContext, RolloutEngine, ScriptedEngine
from gspo.rollout.local.checking import verify_sampling

SHORT = ["--set", "data.max_response_length=4", "trainer.device=cpu"]
NUMBER_OF_EOS = 2  # of the scratch tokenizer


def write_rows(path: Path, truths: list[str], source: str = "openai/gsm8k") -> Path:
    rows = [
        {"data_source": source, "prompt": f"{number}?", "reward_model": {"ground_truth": truth}}
        for number, truth in enumerate(truths)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "test.jsonl", ["1", "2", "3", "none"])


def arguments(models: list[Path], files: list[Path], out: Path, **changed: Any) -> Namespace:
    defaults = {"n": 1, "temperature": None, "top_p": 1.0, "max_samples": -1, "set": SHORT[1:]}
    return Namespace(models=list(map(str, models)), data=list(map(str, files)), out=str(out), **(defaults | changed))


def answers(*models: dict[str, list[str]]) -> Callable[..., RolloutEngine]:
    """Engines that answer by table, one a model: row of the uid -> the text of each response, "~" cutting it."""
    tables = iter(models)

    def make(context: EngineContext) -> ScriptedEngine:
        assert (context.seed, context.max_num_seqs) == (1, 256)
        table, tokenizer = next(tables), context.tokenizer

        def script(prompt: Prompt, index: int, _: int) -> list[int]:
            text = table[prompt.uid.rpartition(":")[2]][index]
            end = [] if text.endswith("~") else [NUMBER_OF_EOS]
            ids: list[int] = tokenizer(text.removesuffix("~"), add_special_tokens=False)["input_ids"]
            return ids + end

        return ScriptedEngine(script, tokenizer)

    return make


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    return make_model_folder(tmp_path / "twin", hidden_size=32, num_layers=1, max_positions=128, seed=1)


def test_two_models_to_the_letter(tiny_model_folder: Path, twin: Path, data: Path, tmp_path: Path) -> None:
    first = {"0": ["1", "1"], "1": ["3", "2"], "2": ["3", "1234~"], "3": ["1", "2"]}
    second = {"0": ["1", "5"], "1": ["2", "2"], "2": ["1", "1"], "3": ["1", "2"]}
    out, shown = tmp_path / "out", io.StringIO()
    args = arguments([tiny_model_folder, twin], [data], out, n=2)
    engines = answers(first, second)
    assert evaluate_models(args, make_engine=engines, console=Console(file=shown, highlight=False)) == 0
    lines = [line.split("  ") for line in shown.getvalue().splitlines()]
    texts = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    unread = texts.pop(1)  # said once, for both models
    assert names(unread[0], "1 row has a ground truth that cannot be read", "test.jsonl:3 ('none')")
    summary = "4 prompts x 2; 4 prompts from 4 rows, longest 3 tokens"
    assert texts[:2] == [[f"{model} (Hugging Face folder): {summary}"] for model in (tiny_model_folder, twin)]
    # Of three judged prompts: right shares 1, 1/2, 1/2 and 1/2, 1, 0.
    mine, theirs = bootstrap_interval([1.0, 0.5, 0.5]), bootstrap_interval([0.5, 1.0, 0.0])
    change = bootstrap_interval([-0.5, 0.5, -0.5])
    ranges = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in (mine, theirs)]
    header = ["model", "data source", "prompts", "accuracy", "95 % interval", "pass@2", "maj@2"]
    figures = ["66.7 %", ranges[0], "100.0 %", "66.7 %", "2.2", "12.5 %", "25.0 %"]
    other_figures = ["50.0 %", ranges[1], "66.7 %", "50.0 %", "2.0", "0.0 %", "25.0 %"]
    difference = ["-16.7 %", f"{100 * change[0]:+.1f} to {100 * change[1]:+.1f}"]
    assert texts[2:] == [
        [*header, "mean length", "truncated", "unjudged"],
        [str(tiny_model_folder), "openai/gsm8k", "3", *figures],
        [str(twin), "openai/gsm8k", "3", *other_figures],
        [],
        ["models", "data source", "paired prompts", "difference", "95 % interval"],
        [f"{twin} - {tiny_model_folder}", "openai/gsm8k", "3", *difference],
        [f"written: {out / 'results.json'} and {out / 'responses.jsonl'}"],
    ]
    content = json.loads((out / "results.json").read_text())
    assert content["settings"] == {
        "data": [str(data)],
        "n": 2,
        "max_samples": -1,
        "seed": 1,
        "sampling": {"max_tokens": 4, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
        | {"stop": [], "ignore_eos": False},
        "set": SHORT[1:],
    }
    assert content["results"][0] == {
        "model": str(tiny_model_folder),
        "data_source": "openai/gsm8k",
        "num_prompts": 3,
        "n": 2,
        "accuracy": pytest.approx(2 / 3),
        "interval": list(mine),
        "is_accuracy": True,
        "pass_at": {"1": pytest.approx(2 / 3), "2": 1.0},
        "maj_at": {"1": pytest.approx(2 / 3), "2": pytest.approx(2 / 3)},
        "score": pytest.approx(2 / 3),
        "length": 2.25,
        "truncated": 0.125,
        "unjudged": 0.25,
    }
    assert content["differences"] == [
        {"model": str(twin), "to": str(tiny_model_folder), "data_source": "openai/gsm8k", "num_prompts": 3}
        | {"difference": pytest.approx(-1 / 6), "interval": list(change)}
    ]
    records = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    assert [(r["model"], r["uid"], r["number"], r["response"]) for r in records] == [
        (str(model), f"test.jsonl:{row}", number, text.removesuffix("~"))
        for model, table in ((tiny_model_folder, first), (twin, second))
        for row, texts_of_row in table.items()
        for number, text in enumerate(texts_of_row)
    ]
    common = {"model": str(tiny_model_folder), "data_source": "openai/gsm8k", "error": None}
    assert records[5] == common | {
        "uid": "test.jsonl:2",
        "number": 1,
        "prompt": "2?\n",
        "response": "1234",
        "reward": 0.0,
        "extras": {"acc": 0.0},
        "answer": "1234",
        "abstained": None,
        "finish_reason": "length",
        "length": 4,
    }
    assert records[6]["reward"] is records[6]["answer"] is None
    assert records[6]["abstained"] == "the ground truth 'none' is not a number"


def test_several_files_and_scores(tiny_model_folder: Path, data: Path, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "more" / "test.jsonl", ["1", "1", "1"], source="mine")
    reward = tmp_path / "reward.py"
    reward.write_text("def compute_score(ground_truth, solution_str, **_):\n    return {'1': 0.25}[solution_str]\n")
    shown = io.StringIO()
    settings = [*SHORT[1:], f"custom_reward_function.path={reward}"]
    args = arguments([tiny_model_folder], [data, other], tmp_path / "out", max_samples=2, set=settings)
    engines = answers({"0": ["1"], "1": ["1"]})
    # A terminal has a drawn table.
    console = Console(file=shown, highlight=False, force_terminal=True, width=200, color_system=None)
    assert evaluate_models(args, make_engine=engines, console=console) == 0
    assert "┃ model" in shown.getvalue()
    assert "4 prompts x 1; 7 prompts from 7 rows" in shown.getvalue()
    assert " 4/4 " in next(line for line in reversed(shown.getvalue().splitlines()) if "responses " in line)
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [(r["data_source"], r["num_prompts"], r["accuracy"], r["is_accuracy"], r["interval"]) for r in results] == [
        ("mine", 2, 0.25, False, [None, None]),
        ("openai/gsm8k", 2, 0.25, False, [None, None]),
    ]
    assert "0.250 (score)" in shown.getvalue()


@pytest.mark.parametrize(("setting", "calls"), [("trainer.seed=1", [8, 2]), ("data.val_batch_size=4", [4, 4, 2])])
def test_a_call_of_the_engine_has_more_than_it_samples_at_once(
    setting: str, calls: list[int], tiny_model_folder: Path, tmp_path: Path
) -> None:
    data, found = write_rows(tmp_path / "test.jsonl", ["1"] * 10), list[int]()

    class Counting(ScriptedEngine):
        def generate(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
            found.append(len(prompts))
            return super().generate(prompts, *args, **kwargs)

    def make(context: EngineContext) -> ScriptedEngine:
        assert (context.seed, context.max_num_seqs) == (1, 3)
        return Counting(lambda *_: [NUMBER_OF_EOS], context.tokenizer)

    settings = [*SHORT[1:], "actor_rollout_ref.rollout.max_num_seqs=3", setting]
    args = arguments([tiny_model_folder], [data], tmp_path / "out", n=3, set=settings)
    assert evaluate_models(args, make_engine=make, console=Console(file=io.StringIO())) == 0
    assert found == calls


def test_the_engine_is_checked_at_the_lengths_of_the_evaluation(
    tiny_model_folder: Path, data: Path, tmp_path: Path
) -> None:
    """The longest prompt and the longest response, as training checks it."""
    found: list[int] = []

    def make(context: EngineContext) -> ScriptedEngine:
        found.append(context.longest)
        return ScriptedEngine(lambda *_: [NUMBER_OF_EOS], context.tokenizer)

    args = arguments([tiny_model_folder], [data], tmp_path / "out", set=[*SHORT[1:], "data.max_response_length=90"])
    evaluate_models(args, make_engine=make, console=Console(file=io.StringIO()))
    assert found == [3 + 90]  # the prompts have three tokens


def test_the_local_engine_is_checked_at_that_length(
    tiny_model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def verify(policy: Policy, longest: int) -> float:
        checked.append(longest)
        return verify_sampling(policy, longest)

    monkeypatch.setattr("gspo.rollout.local.verify_sampling", verify)
    command = ["eval", str(tiny_model_folder), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*command, *SHORT, "data.max_response_length=90"]) == 0
    assert checked == [3 + 90]


OWN = """
import beside_eval
from gspo import register_reward
from gspo.rollout import register_engine
from gspo.rollout.local import make_local

@register_reward("mine")
def mine(solution_str):
    return beside_eval.VALUE

@register_engine("loud")
def loud(context):
    print("loud engine")
    return make_local(context)
"""


def test_rewards_and_engines_of_the_users_files(
    tiny_model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    (own / "own.py").write_text(OWN)
    (own / "beside_eval.py").write_text("VALUE = 0.75")
    settings = [
        f"algorithm.external_modules=[{own / 'own.py'}]",
        "reward.functions=[{name: mine}]",
        "actor_rollout_ref.rollout.name=loud",
    ]
    out = tmp_path / "out"
    command = ["eval", str(tiny_model_folder), "--data", str(data), "--out", str(out), *SHORT]
    assert main([*command, *settings]) == 0
    assert "loud engine" in capsys.readouterr().out
    (result,) = json.loads((out / "results.json").read_text())["results"]
    assert (result["accuracy"], result["is_accuracy"]) == (0.75, False)


def test_a_failing_reward_is_said(tiny_model_folder: Path, data: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("def compute_score(solution_str, **_):\n    return {'1': 1.0}[solution_str]\n")
    shown = io.StringIO()
    settings = [*SHORT[1:], f"custom_reward_function.path={reward}"]
    args = arguments([tiny_model_folder], [data], tmp_path / "out", max_samples=2, set=settings)
    console = Console(file=shown, highlight=False)
    evaluate_models(args, make_engine=answers({"0": ["1"], "1": ["2"]}), console=console)
    (line,) = [line for line in shown.getvalue().splitlines() if "a reward failed" in line]
    assert names(line, "unjudged", "test.jsonl:1, response 0", "compute_score", "KeyError: '2'")


def test_the_command_end_to_end(
    tiny_model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The local engine; greedy answers are the same whatever the batch."""
    texts = []
    for number, sequences in enumerate((1, 256)):
        out = tmp_path / str(number)
        further = ["--set", f"actor_rollout_ref.rollout.max_num_seqs={sequences}"]
        assert main(["eval", str(tiny_model_folder), "--data", str(data), "--out", str(out), *SHORT, *further]) == 0
        texts.append((out / "responses.jsonl").read_text())
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 4
    content = json.loads((tmp_path / "1" / "results.json").read_text())
    (result,) = content["results"]
    records = [json.loads(line) for line in texts[0].splitlines()]
    assert result["length"] == sum(record["length"] for record in records) / 4
    correct = sum(record["reward"] or 0 for record in records)
    assert (result["accuracy"], result["interval"]) == (correct / 3, list(wilson_interval(int(correct), 3)))
    assert content["settings"]["sampling"]["temperature"] == 0.0
    assert "pass@" not in capsys.readouterr().out


@pytest.fixture
def run(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A run's folder that began with the tiny model: its config, and a checkpoint with all weights one higher."""
    folder = tmp_path / "run"
    folder.mkdir()
    overrides = [f"actor_rollout_ref.model.path={tiny_model_folder}", "data.train_files=x.parquet"]
    (folder / "config.yaml").write_text(render(load_config(None, None, overrides)))
    weights = load_model(str(tiny_model_folder)).state_dict()
    save_checkpoint(folder, 3, tensors={"actor": {key: value + 1 for key, value in weights.items()}}, state={})
    return folder


def find(*names: Path | str, overrides: tuple[str, ...] = ()) -> list[Candidate]:
    return find_candidates(list(map(str, names)), load_config(None, None, overrides))


def test_a_checkpoint_and_its_run_are_the_trained_weights(run: Path, tiny_model_folder: Path) -> None:
    checkpoint = run / "checkpoints" / "global_step_3"
    expected = {key: value + 1 for key, value in load_model(str(tiny_model_folder)).state_dict().items()}
    for found in find(run, checkpoint):
        assert found.weights is not None
        assert (found.model.path, found.weights.path) == (str(tiny_model_folder), checkpoint)
        assert found.about == "checkpoint after step 3"
        policy = found.policy(found.tokenizer(), "cpu", 64)
        state = policy.model.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
        assert not any(parameter.requires_grad for parameter in policy.model.parameters())


def test_a_finished_run_is_its_export_until_it_goes_on(run: Path, tiny_model_folder: Path) -> None:
    exported = make_model_folder(run / "huggingface", hidden_size=32, num_layers=1)
    (found,) = find(run)
    assert (found.model.path, found.weights, found.about) == (str(exported), None, "run, its huggingface/")
    state = run / "checkpoints" / "global_step_3" / "state.json"
    later = (exported / "config.json").stat().st_mtime + 10
    os.utime(state, (later, later))
    (found,) = find(run)
    assert found.weights is not None
    assert (found.model.path, found.weights.path) == (str(tiny_model_folder), state.parent)


def test_what_the_user_sets_goes_over_the_runs_model(run: Path) -> None:
    (found,) = find(run, overrides=("actor_rollout_ref.model.dtype=bfloat16", "actor_rollout_ref.model.path=other"))
    assert (found.model.dtype, found.model.path) == ("bfloat16", "other")
    (found,) = find("org/name", overrides=("actor_rollout_ref.model.dtype=bfloat16",))
    assert (found.model.dtype, found.model.path, found.about) == ("bfloat16", "org/name", "hub name")


KINDS = "a Hugging Face folder or hub name, a run's folder, or a checkpoint RUN/checkpoints/global_step_N"


def test_names_that_mean_nothing(run: Path, twin: Path, tmp_path: Path) -> None:
    def message(*names: Path | str, **options: tuple[str, ...]) -> str:
        with pytest.raises(ValueError, match=r"^(MODEL|--set) ") as caught:
            find(*names, **options)
        return str(caught.value)

    gone, empty, file = tmp_path / "gone", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    assert message(gone) == f"MODEL {gone}: there is no such folder: give {KINDS}"
    assert message("./gone") == f"MODEL ./gone: there is no such folder: give {KINDS}"
    assert message(file) == f"MODEL {file} is a file: give {KINDS}"
    nothing = "is a folder without config.json, config.yaml or state.json"
    assert message(empty) == f"MODEL {empty} {nothing}: give {KINDS}"
    assert message(twin, twin) == f"MODEL {twin} is named more than once: name each model once"
    assert message(twin, overrides=("actor_rollout_ref.model.path=x",)) == (
        "--set actor_rollout_ref.model.path names the model that a checkpoint's run began with, and no checkpoint is "
        "evaluated: take it out; the models to evaluate are the MODEL arguments"
    )
    (run / "checkpoints" / "global_step_3" / "state.json").unlink()
    state = run / "checkpoints" / "global_step_3" / "state.json"
    assert message(run) == (
        f"MODEL {run} is a run that has neither a huggingface/ folder nor a complete checkpoint yet (passed over "
        f"global_step_3: {state} is missing: global_step_3 is not a complete checkpoint; there is no "
        "whole checkpoint before it): set trainer.save_freq to save while it trains, or let it finish"
    )
    lonely = save_checkpoint(tmp_path / "lonely", 1, tensors={"actor": {}}, state={})
    assert message(lonely) == (
        f"MODEL {lonely}: {tmp_path / 'lonely' / 'config.yaml'} is missing, which names the model that the checkpoint "
        "is of: keep the checkpoint in its run's folder"
    )
    sft = save_checkpoint(tmp_path / "sft", 1, tensors={"other": {}}, state={})
    assert message(sft) == f"MODEL {sft}: {sft} holds no actor.safetensors: give a checkpoint of a training run"


def test_a_model_that_cannot_be_loaded_is_named(run: Path, twin: Path) -> None:
    checkpoint = run / "checkpoints" / "global_step_3"
    (found,) = find(checkpoint, overrides=(f"actor_rollout_ref.model.path={twin}",))
    with pytest.raises(ValueError, match="of another model than") as caught:
        found.policy(found.tokenizer(), "cpu", 64)
    assert str(caught.value).startswith(
        f"{checkpoint}: the weights in {checkpoint} are of another model than {twin}, which the run's config.yaml names"
    )
    (found,) = find(checkpoint, overrides=("actor_rollout_ref.model.path=/gone/model",))
    with pytest.raises(ValueError, match="^" + str(checkpoint)) as caught:
        found.tokenizer()
    assert str(caught.value).endswith(
        "The run began with the model /gone/model: call gspo in the folder where the run was started, or name the "
        "model by --set actor_rollout_ref.model.path=FOLDER"
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--n", "0"], ["--n is 0", "1 or more"]),
        (["--n", "3", "--temperature", "0"], ["--temperature 0", "3 greedy responses", "--n 1"]),
        (["--top-p", "0.5"], ["--top-p 0.5", "--temperature 1.0"]),
        (["--top-p", "2"], ["top_p is 2.0", "(0, 1]"]),
        (["--max-samples", "0"], ["--max-samples is 0", "1 or more"]),
        (["--out", "{data}"], ["--out {data} is a file", "name a folder"]),
        (["--out", "/proc/no/such"], ["--out /proc/no/such", "another folder"]),
        (["--out", "~no_such_user/x"], ["--out=~no_such_user/x", "whole path"]),
        (["--set", "data.max_response_length=200"], ["{model}", "203", "128", "lower data.max_response_length"]),
    ],
)
def test_bad_arguments(
    options: list[str],
    parts: list[str],
    tiny_model_folder: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"data": data, "model": tiny_model_folder}
    given = [option.format(**places) for option in options]
    out = tmp_path / "out"
    assert main(["eval", str(tiny_model_folder), "--data", str(data), "--out", str(out), *SHORT, *given]) == 1
    assert names(capsys.readouterr().err, "gspo: error: ", *(part.format(**places) for part in parts))
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(
    "key", ["trainer.total_epochs=2", "actor_rollout_ref.rollout.val_kwargs.n=2", "data.val_files=x.parquet"]
)
def test_a_key_without_effect_is_refused(
    key: str, tiny_model_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(tiny_model_folder), "--data", str(data), "--set", key]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"gspo: error: --set {key.partition('=')[0]} has no effect on an evaluation: take it out. ")
    assert error.endswith("is said by --n, --temperature and --top-p)\n")
