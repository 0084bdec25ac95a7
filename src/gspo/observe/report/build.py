"""Makes the report of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gspo.observe.report.charts import chart_groups
from gspo.observe.report.drawing import draw, read_out
from gspo.observe.report.excerpts import excerpts
from gspo.observe.report.findings import Finding, find
from gspo.observe.report.folder import read_curves
from gspo.observe.report.numbers import plain
from gspo.observe.report.ranges import clip_words
from gspo.observe.report.readings import Verdict, read_run
from gspo.observe.report.run import Curve, Run
from gspo.observe.sparkline import duration

__all__ = ["build_report", "render_page", "write_report"]

_ACTOR = "actor_rollout_ref.actor"


def build_report(run_dir: str | Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    The page is one file with everything in it; a content policy in it forbids any network access. It may be made while
    the run is going on, and of a folder that is damaged: the page then says what could not be read. A run of verl, or a
    file of verl's metrics, is read as well.

    Raises:
        ValueError: the folder has no `metrics.jsonl`, or its config cannot be read.
    """
    return write_report(read_curves(Path(run_dir)))


def write_report(run: Run) -> Path:
    """Writes the report of a run that has been read into its folder, and returns its path."""
    findings = find(run)
    verdicts = read_run(run, findings)
    groups = chart_groups(run)
    page = render_page(
        "page.html.jinja",
        title=run.setting("trainer.experiment_name") or run.folder.resolve().name,
        facts=_facts(run),
        tiles=_tiles(run),
        damage=run.damage,
        summary=_summary(run, verdicts, findings),
        findings=findings,
        stages=_stages(run),
        verdicts=verdicts,
        groups=groups,
        plots=[chart.plot for _, charts in groups for chart in charts],
        status={verdict.key: verdict.status for verdict in verdicts},
        samples=excerpts(run),
        table=_all_metrics(run),
        config=run.config_text,
    )
    path = run.folder / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def render_page(template: str, **values: Any) -> str:
    """A page of this folder's template, with the script that reads its `plots` out."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    read_outs = [read_out(plot) for plot in values["plots"]]
    return environment.get_template(template).render(**values, draw=draw, read_outs=read_outs)


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was trained, as far as the config tells."""
    clips = run.config and run.loss.clip is not None
    facts = {
        "model": run.setting("actor_rollout_ref.model.path"),
        "policy loss": run.loss.name if run.config else None,
        "clip": clip_words(run) if clips else None,
        "advantages": run.setting("algorithm.adv_estimator"),
        "KL term": _kl_term(run) if run.config else None,
        "responses per prompt": run.setting("actor_rollout_ref.rollout.n"),
        "prompts per step": run.setting("data.train_batch_size"),
        "learning rate": run.setting(f"{_ACTOR}.optim.lr"),
        "folder": str(run.folder),
    }
    if run.is_supervised:
        facts = {key: facts[key] for key in ("model", "prompts per step", "learning rate", "folder")}
        facts["trained by"] = "supervised fine-tuning"
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _kl_term(run: Run) -> str:
    parts = []
    if run.setting(f"{_ACTOR}.use_kl_loss"):
        parts.append(f"{run.setting(f'{_ACTOR}.kl_loss_coef')} in the loss")
    if run.setting("algorithm.use_kl_in_reward"):
        parts.append(f"{run.setting('algorithm.kl_ctrl.kl_coef')} in the reward")
    return " and ".join(parts) or "off"


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Headline figures: name, figure, what it is."""
    tiles = []
    for source, curve in run.held_out.items():
        first, last = curve.finite[0], curve.finite[-1]
        note = f"from {100 * first:.1f} %, best {100 * max(curve.finite):.1f} %" if len(curve.finite) > 1 else "once"
        tiles.append((f"Held-out accuracy, {source}", f"{100 * last:.1f} %", note))
    if run.has("val-aux/gad/rouge_l"):
        overlap = run.curves["val-aux/gad/rouge_l"].finite
        tiles.append(("Overlap with the teacher", plain(overlap[-1]), f"ROUGE-L, from {plain(overlap[0])}"))
    if run.has("critic/score/mean") and (curve := run.policy_curve("critic/score/mean")).finite:
        start, end = curve.ends()
        name = "Discriminator's score" if run.has_discriminator else "Reward"
        tiles.append((name, plain(end), f"from {plain(start)}; means of the first and last tenth"))
    if run.is_supervised:
        for key, name in (("train/loss", "Training loss"), ("val/loss", "Held-out loss")):
            if run.has(key):
                losses = run.curves[key].finite
                tiles.append((name, plain(losses[-1]), f"from {plain(losses[0])} nats a token"))
    tiles.append(("Steps", str(_last_step(run)), _end(run)))
    if run.has("timing_s/step"):
        seconds = run.curves["timing_s/step"].finite
        tiles.append(("Training time", duration(sum(seconds)), f"{duration(sum(seconds) / len(seconds))} a step"))
    if run.has("perf/total_num_tokens"):
        tiles.append(("Tokens", plain(sum(run.curves["perf/total_num_tokens"].finite)), "prompts and responses"))
    return tiles


def _end(run: Run) -> str:
    """Whether the run came to its end, where the config says how long it is."""
    kind = "supervised" if run.is_supervised else f"{run.loss.name} updates"
    total = run.setting("trainer.total_training_steps")
    if isinstance(total, int) and total > 0 and _last_step(run) < total:
        return f"of {total}: the run is not finished"
    return kind


def _last_step(run: Run) -> int:
    return max((curve.steps[-1] for curve in run.curves.values()), default=0)


def _stages(run: Run) -> str:
    """GAD's stages in a sentence."""
    parts = [f"{stage.name}, steps {stage.first} to {stage.last}" for stage in run.stages]
    return "; ".join(parts)


def _summary(run: Run, verdicts: list[Verdict], findings: list[Finding]) -> str:
    """The run in a few sentences."""
    if not run.curves:
        return "No step has been logged yet: metrics.jsonl is empty. Make the report again after the first step."
    texts = {verdict.key: verdict.text for verdict in verdicts}
    parts = [f"{finding.title}." for finding in findings if finding.status == "problem"]
    if "held-out" in texts:
        parts.append(f"Held-out accuracy, {texts['held-out']}")
    if (text := texts.get("val-aux/gad/rouge_l")) is not None:
        parts.append(f"Overlap with the teacher: {text[0].lower()}{text[1:]}")
    if (text := texts.get("critic/score/mean")) is not None and not run.has_discriminator:
        parts.append(f"Reward {text[0].lower()}{text[1:]}")
    for status, words in (("problem", "Problems"), ("watch", "Worth watching")):
        if names := [_inline(verdict.meaning.label) for verdict in verdicts if verdict.status == status]:
            parts.append(f"{words}: {', '.join(names)}.")
    statuses = {verdict.status for verdict in verdicts} | {finding.status for finding in findings}
    if verdicts and statuses <= {"healthy", "unknown"}:
        parts.append("Every metric that can be judged is in its healthy range.")
    return " ".join(parts)


def _inline(label: str) -> str:
    """A label within a sentence; one that begins with an acronym keeps it."""
    return label if label[:2].isupper() else label[0].lower() + label[1:].replace(", ", " of ")


def _all_metrics(run: Run) -> list[tuple[str, list[str]]]:
    """Every metric: first, last, smallest and largest value."""

    def figures(curve: Curve) -> list[str]:
        ends = [plain(value) for value in (curve.values[0], curve.values[-1])]
        finite = curve.finite
        return [*ends, *([plain(min(finite)), plain(max(finite))] if finite else ["-", "-"])]

    return [(name, figures(run.curves[name])) for name in sorted(run.curves)]
