"""Makes the report of a run folder."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from gspo.observe.report.charts import chart_groups
from gspo.observe.report.readings import Verdict, read_run
from gspo.observe.report.run import Curve, Run, read_curves
from gspo.observe.sparkline import duration, quantity

__all__ = ["build_report", "render_page"]

_SAMPLE_STEPS = 4  # spread evenly from the first step with samples to the last
_SAMPLES_PER_STEP = 3
_LONGEST_TEXT = 6000  # characters of a prompt or response; the end of a long text is what was cut, and is said to be
_SPLITS = {"val": "Held-out prompts", "train": "Training prompts"}


def build_report(run_dir: str | Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    The page is one file with everything in it; a content policy in it forbids any network access. It may be made while
    the run is going on. A run of verl, or a file of verl's metrics, is read as well.

    Raises:
        ValueError: the folder has no `metrics.jsonl`, or one of its files cannot be read.
    """
    run = read_curves(Path(run_dir))
    verdicts = read_run(run)
    groups = chart_groups(run)
    charts = [chart for _, found in groups for chart in found]
    page = render_page(
        "page.html.jinja",
        title=run.setting("trainer.experiment_name") or run.folder.resolve().name,
        facts=_facts(run),
        tiles=_tiles(run),
        summary=_summary(run, verdicts),
        verdicts=verdicts,
        loss=run.loss,
        groups=groups,
        figures=[chart.figure for chart in charts],
        status={verdict.key: verdict.status for verdict in verdicts},
        samples=_samples(run),
        table=_all_metrics(run),
        config=run.config_text,
    )
    path = run.folder / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def render_page(template: str, **values: Any) -> str:
    """A page of this folder's template, with plotly in it where there are `figures` to draw."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values, plotly=_plotly() if values["figures"] else "")


@cache
def _plotly() -> str:
    return str(get_plotlyjs())


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was trained, as far as the config tells."""
    estimator = run.setting("algorithm.adv_estimator")
    per_prompt = run.setting("actor_rollout_ref.rollout.n")
    facts = {
        "model": run.setting("actor_rollout_ref.model.path"),
        "policy loss": run.loss.name if run.config else None,
        "advantages": estimator,
        "responses per prompt": per_prompt,
        "prompts per step": run.setting("data.train_batch_size"),
        "learning rate": run.setting("actor_rollout_ref.actor.optim.lr"),
        "folder": str(run.folder),
    }
    if run.is_supervised:
        facts = {key: facts[key] for key in ("model", "prompts per step", "learning rate", "folder")}
        facts["trained by"] = "supervised fine-tuning"
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Headline figures: name, figure, what it is."""
    tiles = []
    for source, curve in run.held_out.items():
        first, last = curve.finite[0], curve.finite[-1]
        note = f"from {100 * first:.1f} %, best {100 * max(curve.finite):.1f} %" if len(curve.finite) > 1 else "once"
        tiles.append((f"Held-out accuracy, {source}", f"{100 * last:.1f} %", note))
    if run.has("critic/score/mean"):
        start, end = run.curves["critic/score/mean"].ends()
        tiles.append(("Reward", quantity(end), f"from {quantity(start)}; means of the first and last tenth"))
    if run.is_supervised:
        for key, name in (("train/loss", "Training loss"), ("val/loss", "Held-out loss")):
            if run.has(key):
                curve = run.curves[key]
                tiles.append((name, quantity(curve.finite[-1]), f"from {quantity(curve.finite[0])} nats a token"))
    tiles.append(("Steps", str(_last_step(run)), "supervised" if run.is_supervised else f"{run.loss.name} updates"))
    if run.has("timing_s/step"):
        seconds = run.curves["timing_s/step"].finite
        tiles.append(("Training time", duration(sum(seconds)), f"{duration(sum(seconds) / len(seconds))} a step"))
    if run.has("perf/total_num_tokens"):
        tiles.append(("Tokens", quantity(sum(run.curves["perf/total_num_tokens"].finite)), "prompts and responses"))
    return tiles


def _last_step(run: Run) -> int:
    return max((curve.steps[-1] for curve in run.curves.values()), default=0)


def _summary(run: Run, verdicts: list[Verdict]) -> str:
    """The run in a few sentences."""
    if not run.curves:
        return "No step has been logged yet: metrics.jsonl is empty. Make the report again after the first step."
    texts = {verdict.key: verdict.text for verdict in verdicts}
    parts = [f"Held-out accuracy, {texts['held-out']}"] if "held-out" in texts else []
    if text := texts.get("critic/score/mean"):
        parts.append(f"Reward {text[0].lower()}{text[1:]}")
    for status, words in (("problem", "Problems"), ("watch", "Worth watching")):
        if names := [verdict.meaning.label.lower() for verdict in verdicts if verdict.status == status]:
            parts.append(f"{words}: {', '.join(names)}.")
    if verdicts and all(verdict.status in ("healthy", "unknown") for verdict in verdicts):
        parts.append("Every metric that can be judged is in its healthy range.")
    return " ".join(parts)


def _samples(run: Run) -> list[tuple[str, list[tuple[int, list[dict[str, Any]]]]]]:
    """Responses at a few steps, held-out ones first; the same prompts where they come again, so that change shows."""
    sections = []
    for split, title in _SPLITS.items():
        by_step: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for sample in run.samples:
            if sample.get("split") == split:
                by_step[sample["step"]].append(sample)
        if not by_step:
            continue
        steps = sorted(by_step)
        places = {round(place * (len(steps) - 1) / (_SAMPLE_STEPS - 1)) for place in range(_SAMPLE_STEPS)}
        chosen = [steps[place] for place in sorted(places)]
        sections.append((title, [(step, [_shown(s) for s in by_step[step][:_SAMPLES_PER_STEP]]) for step in chosen]))
    return sections


def _shown(sample: dict[str, Any]) -> dict[str, Any]:
    reward = sample.get("reward")
    return {
        "prompt": _cut(str(sample.get("prompt", ""))),
        "response": _cut(str(sample.get("response", ""))),
        "reward": "none" if reward is None else f"{reward:.3g}",
        "good": reward is not None and reward > 0,
        "length": sample.get("length"),
        "cut": sample.get("finish_reason") == "length",
        "trouble": sample.get("error") or sample.get("abstained") or "",
    }


def _cut(text: str) -> str:
    left_out = len(text) - _LONGEST_TEXT
    return text if left_out <= 0 else f"{text[:_LONGEST_TEXT]} … ({left_out} more characters in samples.jsonl)"


def _all_metrics(run: Run) -> list[tuple[str, list[str]]]:
    """Every metric: first, last, smallest and largest value."""

    def figures(curve: Curve) -> list[str]:
        ends = [quantity(value) for value in (curve.values[0], curve.values[-1])]
        finite = curve.finite
        return [*ends, *([quantity(min(finite)), quantity(max(finite))] if finite else ["-", "-"])]

    return [(name, figures(run.curves[name])) for name in sorted(run.curves)]
