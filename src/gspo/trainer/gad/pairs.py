"""What pairs of a student's and a teacher's response look like to a judge who cannot read them.

A discriminator that is no better than these tells the two apart by a flaw of the data or of the sampling, and the
student learns that flaw: to be as long as the teacher, or to end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from gspo.algorithms.stats import Derived, Max, Mean, Min, Stat
from gspo.evaluation.overlap import overlap
from gspo.groups import Group, Prompt, Response

__all__ = ["overlap_metrics", "pair_accuracy", "pair_metrics", "teacher_metrics", "teachers_by_prompt"]


def pair_accuracy(student: Tensor, teacher: Tensor) -> Derived:
    """How often one number tells the teacher of a pair: the better of "the larger" and "the smaller"; ties are 1/2.

    The direction is chosen on the same pairs, those of all ranks, so chance is a little above 1/2 on few of them.

    Args:
        student: the number of the student's response. (pairs,)
        teacher: the number of the teacher's. (pairs,)
    """
    larger = (teacher > student).double() + 0.5 * (teacher == student)
    return Derived(torch.stack([larger.sum(), torch.tensor(float(len(larger)), dtype=torch.float64)]), _better_side)


def _better_side(sums: Tensor) -> float:
    share = float(sums[0] / sums[1])
    return max(share, 1 - share)


def pair_metrics(groups: Sequence[Group], end_token: int | None, prefix: str = "critic") -> dict[str, Stat]:
    """Accuracy of the length on its own, and of whether the response ends with the end token, over all pairs.

    Args:
        groups: those without a teacher count nowhere.
        end_token: the token that the teacher's responses end with.
        prefix: of the names `length_acc` and `eos_acc`.
    """
    pairs = [(response, group.teacher) for group in groups if group.teacher is not None for response in group.responses]
    if not pairs:
        return {}

    def ends(response: Response) -> bool:
        return bool(response.token_ids) and response.token_ids[-1] == end_token

    lengths = torch.tensor([[len(student), len(teacher)] for student, teacher in pairs])
    ended = torch.tensor([[int(ends(student)), int(ends(teacher))] for student, teacher in pairs])
    return {
        f"{prefix}/length_acc": pair_accuracy(*lengths.unbind(1)),
        f"{prefix}/eos_acc": pair_accuracy(*ended.unbind(1)),
    }


def teacher_metrics(groups: Sequence[Group]) -> dict[str, Stat]:
    """Tokens of the teacher's responses, one a group, and the fraction of them that was cut at the limit."""
    teachers = [group.teacher for group in groups if group.teacher is not None]
    if not teachers:
        return {}
    lengths = [float(len(teacher)) for teacher in teachers]
    cut = sum(teacher.finish_reason == "length" for teacher in teachers)
    return {
        "teacher_length/mean": Mean(sum(lengths), float(len(lengths))),
        "teacher_length/max": Max(max(lengths)),
        "teacher_length/min": Min(min(lengths)),
        "teacher_length/clip_ratio": Mean(float(cut), float(len(teachers))),
    }


def overlap_metrics(groups: Sequence[Group], prefix: str) -> dict[str, Stat]:
    """ROUGE-L and n-gram F1 (n from 1 to 6) of each response with its group's teacher, means over pairs.

    A pair too short for a figure has no part in it.
    """
    figures: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        if group.teacher is None:
            continue
        for response in group.responses:
            for name, figure in overlap(response.text, group.teacher.text).items():
                figures[f"{prefix}/{name}"].append(figure)
    return {name: Mean(sum(values), float(len(values))) for name, values in figures.items()}


def teachers_by_prompt(groups: Sequence[Group]) -> list[Group]:
    """A group for each prompt that has several different teacher's responses, with those as its responses.

    Several responses to a prompt are several rows (`gspo data teacher --n`), of which each has a group here. They keep
    the rows' order; of equal ones only the first counts, as there is nothing to tell apart.
    """
    taught: dict[tuple[int, ...], dict[tuple[int, ...], Response]] = defaultdict(dict)
    prompts: dict[tuple[int, ...], Prompt] = {}
    for group in groups:
        if group.teacher is not None and group.teacher.token_ids:
            prompts.setdefault(group.prompt.token_ids, group.prompt)
            taught[group.prompt.token_ids].setdefault(tuple(group.teacher.token_ids), group.teacher)
    return [Group(prompts[key], list(texts.values())) for key, texts in taught.items() if len(texts) > 1]
