import json
import re
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import reasoning_gym

from gspo.data import gym_source
from gspo.data.gym_source import write_reasoning_gym
from gspo.rewards import guards, gym
from gspo.rewards.gym import extract_answer, score_gym


def rows(tmp_path: Path, task: str, **config: Any) -> list[dict[str, Any]]:
    (train,) = write_reasoning_gym(task, tmp_path, 2, 0, 1, config)
    table: list[dict[str, Any]] = pq.read_table(train.path).to_pylist()
    return table


def score(text: str, row: dict[str, Any]) -> dict[str, float | str]:
    info = row["extra_info"]
    return score_gym(text, info["task"], info["task_config"], info["entry"])


# puzzle24's scorer reads the task's settings; most of the others let Python or sympy evaluate the answer.
@pytest.mark.parametrize(
    "task",
    [
        "chain_sum",
        "puzzle24",
        "countdown",
        "simple_integration",
        "intermediate_integration",
        "polynomial_multiplication",
        "number_sorting",
        "spiral_matrix",
        "bitwise_arithmetic",
        "letter_counting",
    ],
)
def test_stored_entries_are_scored_as_the_tasks_own(task: str, tmp_path: Path) -> None:
    for row in rows(tmp_path, task):
        full = {"score": 1.0, "acc": 1.0, "pred": row["answer"]}
        assert score(row["answer"], row) == full
        assert score(f"so <answer>\n{row['answer']} </answer>.", row) == full
        wrong = score("surely not", row)
        assert (wrong["acc"], wrong["pred"]) == (0.0, "surely not")


def test_a_part_of_the_score_is_not_accuracy(tmp_path: Path) -> None:
    row = rows(tmp_path, "chain_sum")[0]
    assert score(f"it is {row['answer']}", row) == {
        "score": len(row["answer"]) / len(f"it is {row['answer']}"),
        "acc": 0.0,
        "pred": f"it is {row['answer']}",
    }


def test_the_tasks_settings_reach_the_scorer(tmp_path: Path) -> None:
    # The scorer of puzzle24 refuses numbers beyond the task's largest.
    row = rows(tmp_path, "puzzle24")[0]
    assert score(row["answer"], row)["acc"] == 1.0
    row["extra_info"]["task_config"] = '{"min_value": 1, "max_value": 1}'
    assert score(row["answer"], row)["acc"] == 0.0


def test_tuples_survive_the_file() -> None:
    entry = {"answer": "x", "metadata": {"grid": ((1, 2), (3, [4, (5,)])), "list": [[1]], "none": None}}
    assert json.loads(json.dumps(gym_source._tag(entry)), object_hook=gym._untag) == entry


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 3 \n", "3"),
        ("<answer>3</answer>", "3"),
        ("<answer>1</answer> no <answer>\n2\n</answer>.", "2"),
        ("<answer>3", "<answer>3"),
    ],
)
def test_extract_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


ATTACK = "__import__('pathlib').Path('{}').touch()"


@pytest.mark.parametrize("task", [name.rpartition(".")[2] for name in guards.GUARDED_MODULES])
def test_an_answer_is_never_run(task: str, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    assert score(ATTACK.format(flag), rows(tmp_path, task)[0])["acc"] == 0.0
    assert not flag.exists()


@pytest.mark.parametrize("task", [name.rpartition(".")[2] for name in guards.GUARDED_MODULES])
@pytest.mark.parametrize(
    "answer", ["9**9**9**9", "(" * 3000 + "1" + ")" * 3000, "[" * 3000 + "]" * 3000, "-" * 5000 + "1"]
)
def test_a_costly_answer_is_wrong_at_once(task: str, answer: str, tmp_path: Path) -> None:
    row = rows(tmp_path, task)[0]
    before = time.process_time()
    assert score(answer, row)["acc"] == 0.0
    assert time.process_time() - before < 1.0


def test_an_honest_list_is_still_read(tmp_path: Path) -> None:
    row = rows(tmp_path, "string_insertion")[0]
    listed = str(list(row["answer"]))
    assert score(listed, row) == {"score": 0.1, "acc": 0.0, "pred": listed}  # what the task gives for a list


def test_every_evaluating_scorer_of_the_installed_version_is_guarded() -> None:
    root = Path(reasoning_gym.__file__).parent
    pattern = re.compile(r"\beval\((answer|expected|entry)|(?<!def )\bparse_expr\((answer|entry)")
    found = {
        ".".join(("reasoning_gym", *path.relative_to(root).with_suffix("").parts))
        for path in root.rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(guards.GUARDED_MODULES)


@pytest.mark.parametrize("text", ["1 + 2*3", "-x**2/3 + C", "exp(x)*sin(2*x)", " (1 + 2) - 3.5 ", "log(Abs(x))"])
def test_formulas(text: str) -> None:
    guards.check_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "x.y",
        "f(1)",
        "'a'",
        "x[0]",
        "__x",
        "lambda: 1",
        "[1]",
        "True",
        "sin(x, evaluate=1)",
        "(sin)(x)(y)",
        "(" * 9999,
        "9**9**9**9",
        "((9**9999)**9999)**x",
        "factorial(factorial(9))**99999",
    ],
)
def test_what_is_not_a_formula(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a (sound )?formula"):
        guards.check_formula(text)
