"""The report: its figures, its reading of healthy and sick runs, and that a model's text cannot become markup."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gspo.observe.report import build_report
from gspo.observe.report.charts import chart_groups
from gspo.observe.report.findings import find
from gspo.observe.report.folder import read_curves
from gspo.observe.report.meanings import MEANINGS, Band
from gspo.observe.report.plots import Area, Line
from gspo.observe.report.ranges import CLIP_FRACTIONS
from gspo.observe.report.readings import Verdict, read_run

CONFIG = """
actor_rollout_ref:
  model: {path: tiny/model}
  actor: {policy_loss: {loss_mode: LOSS}, ppo_mini_batch_size: MINI, ppo_epochs: 1}
  rollout: {n: 8}
data: {train_batch_size: 32}
trainer: {experiment_name: "a <b>name</b>"}
"""


def write_run(folder: Path, steps: list[dict[str, Any]], loss: str = "gspo", mini: int = 8) -> Path:
    lines = [json.dumps({"step": number, **metrics}) for number, metrics in enumerate(steps)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "config.yaml").write_text(CONFIG.replace("LOSS", loss).replace("MINI", str(mini)))
    return folder


def states(folder: Path) -> dict[str, str]:
    return {verdict.key: verdict.status for verdict in verdicts(folder)}


def verdicts(folder: Path) -> list[Verdict]:
    run = read_curves(folder)
    return read_run(run, find(run))


def test_headline_and_summary_say_the_run_s_figures(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [{"val-core/gsm8k/acc/mean@1": 0.125}]
    for step in range(1, 21):
        steps.append({"critic/score/mean": step / 20, "timing_s/step": 30.0, "perf/total_num_tokens": 5000.0})
    steps[10]["val-core/gsm8k/acc/mean@1"] = 0.4
    steps[20]["val-core/gsm8k/acc/mean@1"] = 0.625
    page = build_report(write_run(tmp_path, steps)).read_text()
    assert "Held-out accuracy, gsm8k: rose from 12.5 % to 62.5 %. Reward rose from 0.075 to 0.975." in page
    assert "Every metric that can be judged is in its healthy range." in page
    tiles = re.findall(r'"name">(.*?)</div><div class="figure">(.*?)</div><div class="note">(.*?)</div>', page)
    assert tiles == [
        ("Held-out accuracy, gsm8k", "62.5 %", "from 12.5 %, best 62.5 %"),
        ("Reward", "0.975", "from 0.075; means of the first and last tenth"),
        ("Steps", "20", "gspo updates"),
        ("Training time", "10m 00s", "30s a step"),
        ("Tokens", "100.0k", "prompts and responses"),
    ]


def test_names_config_and_model_text_are_escaped(tmp_path: Path) -> None:
    attack = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    sample = {
        "step": 1,
        "split": "val",
        "prompt": attack,
        "response": attack,
        "reward": 0.5,
        "length": 3,
        "error": attack,
    }
    write_run(tmp_path, [{}, {"critic/score/mean": 0.5, "val-core/</script><b>/acc/mean@1": 0.5, attack: 1.0}])
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    page = build_report(tmp_path).read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>name" not in page
    assert "a &lt;b&gt;name&lt;/b&gt;" in page
    assert page.count("</script>") == 1  # the page's own
    assert "&lt;/pre&gt;&lt;/script&gt;&lt;script&gt;alert(1)" in page


def test_page_forbids_the_network(tmp_path: Path) -> None:
    page = build_report(write_run(tmp_path, [{"critic/score/mean": 0.5}])).read_text()
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)\s*=\s*"', page)


def test_samples_are_spread_over_the_run_and_long_text_says_it_is_cut(tmp_path: Path) -> None:
    write_run(tmp_path, [{"critic/score/mean": 0.5}])
    rows = [
        {
            "step": step,
            "split": "train",
            "prompt": f"prompt {step}.",
            "response": "x" * 7000,
            "reward": None,
            "length": 9,
        }
        | {"finish_reason": "length"}
        for step in range(1, 11)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = build_report(tmp_path).read_text()
    assert re.findall(r'class="step">Step (\d+)', page) == ["1", "4", "7", "10"]
    assert "prompt 4." in page
    assert "prompt 5." not in page
    assert "… (1000 more characters in samples.jsonl)" in page
    assert "9 tokens, cut" in page


def test_samples_of_a_step_are_of_different_prompts(tmp_path: Path) -> None:
    write_run(tmp_path, [{"critic/score/mean": 0.5}])
    row = {"step": 1, "split": "val", "length": 9}
    rows = [
        {**row, "uid": f"v:{uid}", "prompt": prompt, "response": f"{prompt}-{number}", "reward": float(number)}
        for uid, prompt in enumerate(("first", "first", "second", "third", "fourth"))
        for number in range(2)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = build_report(tmp_path).read_text()
    shown = re.findall(r"<tr><td><pre>(.*?)</pre></td><td><pre>(.*?)</pre>", page)
    assert shown == [("first", "first-0"), ("second", "second-0"), ("third", "third-0")]
    assert "1 of 4, mean 0.5" in page  # two rows of one text are one prompt
    assert "1 of 2, mean 0.5" in page


def test_clip_fraction_is_judged_by_the_policy_loss(tmp_path: Path) -> None:
    steps = [{"actor/pg_clipfrac": 0.15}] * 10
    assert states(write_run(tmp_path, steps, "gspo")) == {"actor/pg_clipfrac": "healthy"}
    assert states(write_run(tmp_path, steps, "vanilla")) == {"actor/pg_clipfrac": "watch"}
    tiny = [{"actor/pg_clipfrac": 0.0013}] * 10
    assert states(write_run(tmp_path, tiny, "vanilla")) == {"actor/pg_clipfrac": "healthy"}
    [verdict] = verdicts(write_run(tmp_path, tiny, "gspo_token"))
    assert (verdict.status, verdict.text) == (
        "watch",
        "Lately 0.0013, below 0.01 from the start. Updates seldom reach the range of 0.0003 / 0.0004.",
    )
    [verdict] = verdicts(write_run(tmp_path, [{"actor/pg_clipfrac": 0.0}] * 10, "gspo", mini=32))
    assert verdict.status == "unknown"
    assert verdict.text.startswith("One optimizer step per rollout")


@pytest.mark.parametrize(
    ("key", "values", "status"),
    [
        ("response_length/clip_ratio", [0.04] * 8, "healthy"),
        ("response_length/clip_ratio", [0.5] * 8 + [0.1] * 8, "watch"),
        ("response_length/clip_ratio", [0.2] * 8, "problem"),
        ("group/zero_spread", [0.8] * 4, "problem"),
        ("actor/entropy", [1.0] * 10 + [0.5] * 10, "healthy"),
        ("actor/entropy", [1.0] * 10 + [0.2] * 10, "watch"),
        ("actor/entropy", [1.0] * 10 + [0.05] * 10, "problem"),
        ("actor/grad_norm", [1.0, 1.2, 0.9, 1.1], "healthy"),
        ("actor/grad_norm", [1.0, 1.2, 9.0, 1.1], "watch"),
        ("actor/grad_norm", [1.0, 0.0, 1.0, 1.1], "watch"),
        ("actor/grad_norm", [1.0, None, 1.0, 1.1], "problem"),
        ("critic/score/mean", [0.1, 0.2], "unknown"),
        ("critic/score/mean", [0.1, 0.3] * 10, "watch"),
        ("critic/score/mean", [number / 20 for number in range(20)], "healthy"),
        ("critic/score/mean", [1 - number / 20 for number in range(20)], "problem"),
        ("actor/ppo_kl", [0.05] * 4, "watch"),
        ("actor/ppo_kl", [-0.5] * 4, "problem"),
    ],
)
def test_states(tmp_path: Path, key: str, values: list[float | None], status: str) -> None:
    assert states(write_run(tmp_path, [{key: value} for value in values])) == {key: status}


@pytest.mark.parametrize(
    ("values", "status", "text"),
    [
        ([0.1, 0.5], "healthy", "s: rose from 10.0 % to 50.0 %."),
        ([0.5, 0.1], "problem", "s: fell from 50.0 % to 10.0 %."),
        ([0.1, 0.105], "watch", "s: hardly moved, from 10.0 % to 10.5 %."),
        ([0.1, 0.6, 0.4], "watch", "s: went from 10.0 % to 40.0 %, below its best of 60.0 % at step 1."),
        ([0.1], "unknown", "s: 10.0 %, measured once."),
    ],
)
def test_held_out_reading(tmp_path: Path, values: list[float], status: str, text: str) -> None:
    [verdict] = verdicts(write_run(tmp_path, [{"val-core/s/acc/mean@1": value} for value in values]))
    assert (verdict.status, verdict.text) == (status, text)


def test_length_that_grows_alone_is_watched(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [{"response_length/mean": 100.0 + 20 * number} for number in range(10)]
    steps[0]["val-core/s/acc/mean@1"] = steps[9]["val-core/s/acc/mean@1"] = 0.3
    assert states(write_run(tmp_path, steps))["response_length/mean"] == "watch"
    steps[9]["val-core/s/acc/mean@1"] = 0.5
    assert states(write_run(tmp_path, steps))["response_length/mean"] == "healthy"


def test_charts_hold_the_curves(tmp_path: Path) -> None:
    steps = [{"timing_s/gen": 2.0, "timing_s/step": 3.0, "actor/pg_clipfrac": 0.1 * n} for n in range(1, 4)]
    steps[1]["timing_s/testing"] = 1.0
    groups = chart_groups(read_curves(write_run(tmp_path, steps)))
    assert [(name, [chart.title for chart in charts]) for name, charts in groups] == [
        ("Policy", ["Clip fraction, tokens"]),
        ("Time", ["Where the time goes"]),
    ]
    [clip], [time] = groups[0][1], groups[1][1]
    [line] = clip.plot.shapes
    assert isinstance(line, Line)
    assert (line.x, line.y) == ([0, 1, 2], [0.1, 0.2, 0.3])
    assert clip.healthy == "0.01 to 0.3, with the clip at 0.0003 / 0.0004"
    areas = {area.name: (area.low, area.high) for area in time.plot.shapes if isinstance(area, Area)}
    assert areas == {"gen": ([0, 0, 0], [2, 2, 2]), "testing": ([2, 2, 2], [2, 3, 2])}


def test_long_curves_are_thinned_to_means(tmp_path: Path) -> None:
    run = read_curves(write_run(tmp_path, [{"actor/entropy": float(number)} for number in range(1200)]))
    [(_, [chart])] = chart_groups(run)
    raw, smooth = chart.plot.shapes
    assert isinstance(raw, Line)
    assert isinstance(smooth, Line)
    assert raw.x[:2] == [1, 3]
    assert raw.y[:2] == [0.5, 2.5]
    assert len(raw.y) == len(smooth.y) == 600


def test_run_without_steps_or_config_has_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    page = build_report(tmp_path).read_text()
    assert "No step has been logged yet" in page
    assert "<script>" not in page


def test_unreadable_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl: give the folder of a run"):
        build_report(tmp_path)
    write_run(tmp_path, [{}])
    (tmp_path / "config.yaml").write_text("- a\n- b\n")
    with pytest.raises(ValueError, match=r"config\.yaml is not a mapping of keys"):
        build_report(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML"):
        build_report(tmp_path)


def test_every_meaning_is_complete() -> None:
    for key, meaning in MEANINGS.items():
        assert meaning.text.endswith("."), key
        assert meaning.healthy or meaning.band or key in CLIP_FRACTIONS, key
        assert meaning.too_high or meaning.too_low or key == "critic/d_loss", key


def test_band_words_and_states() -> None:
    band = Band(low=0.01, high=0.3, ceiling=0.5)
    assert [band.status(value) for value in (0.0, 0.01, 0.3, 0.4, 0.6)] == [
        "watch",
        "healthy",
        "healthy",
        "watch",
        "problem",
    ]
    assert [str(band), str(Band(high=0.5)), str(Band(low=2))] == ["0.01 to 0.3", "at most 0.5", "at least 2"]


def test_a_discriminators_score_is_not_judged_and_its_accuracy_is(tmp_path: Path) -> None:
    def steps(accuracy: float) -> list[dict[str, Any]]:
        return [{"critic/score/mean": -step / 20, "critic/d_acc": accuracy} for step in range(21)]

    for accuracy, status in ((0.5, "watch"), (0.8, "healthy"), (0.99, "watch")):
        found = states(write_run(tmp_path, steps(accuracy)))
        assert found == {"critic/score/mean": "unknown", "critic/d_acc": status}
    (reading,) = [verdict for verdict in verdicts(tmp_path) if verdict.key == "critic/score/mean"]
    assert reading.text.endswith("A discriminator's score moves with its updates: it is no measure of progress.")


def test_a_supervised_run_is_called_one(tmp_path: Path) -> None:
    lines = [{"step": step, "train/loss": 4.0 / step, "val/loss": 5.0 / step, "actor/lr": 1e-3} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text("algorithm: {adv_estimator: grpo}\nactor_rollout_ref: {rollout: {n: 1}}\n")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "supervised fine-tuning" in page
    assert "Held-out loss" in page
    assert "from 5.00 nats a token" in page
    assert "<b>grpo</b>" not in page


def test_groups_without_a_signal_are_judged_where_groups_are_compared(tmp_path: Path) -> None:
    line = {"step": 1, "critic/score/mean": 1.0, "group/zero_spread": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    for estimator, n, judged in (("grpo", 8, True), ("gae", 8, False), ("grpo", 1, False)):
        text = f"algorithm: {{adv_estimator: {estimator}}}\nactor_rollout_ref: {{rollout: {{n: {n}}}}}\n"
        (tmp_path / "config.yaml").write_text(text)
        page = build_report(tmp_path).read_text(encoding="utf-8")
        assert ("Problems: groups without a signal" in page) == judged
