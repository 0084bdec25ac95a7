"""Finds the answer that a response gives: in a box, in <answer> tags, behind a mark such as "the answer is", or last.

Every search takes a time that grows with the length of the response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gspo.rewards.notation import group_end

__all__ = [
    "after_thinking",
    "boxed",
    "first_value",
    "given_answers",
    "heading",
    "last_box",
    "last_value",
    "marked",
    "tagged",
]

_THINK, _THINK_END = "<think>", "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s{0,4}")
# Between two boxes of one answer: `\boxed{1}$ and $\boxed{2}`.
_JOIN = re.compile(
    r"(?:\s|\$|\\[()\[\],]|\*\*)*(?P<word>,?\s*(?:and|or|,|和|或|、|或者|;)?)(?:\s|\$|\\[()\[\],]|\*\*)*"
)
_GAP = r"[\s*]{0,4}"
_MARK = re.compile(
    rf"(?:(?<![a-z])answer|(?<![a-z])ans){_GAP}(?:is|are|:|：|=|would be|should be)"
    rf"(?:{_GAP}(?:therefore|thus|simply))?[\s:*]{{0,4}}"
    rf"|(?:答案|结果){_GAP}(?:就是|应为|应该是|等于|是|为|:|：)[:：\s*]{{0,4}}|故选[:：\s]{{0,4}}|答[:：]",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n|。|\.(?=\s|$)|(?<!\d)[!?！？](?=\s|$)|,\s(?=which|so|since|because)")
_FORMULA = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$(?=\S)((?:\\.|[^$\\\n]){1,2000}?)(?<![\s\\])\$(?!\d)|\$ ([^$\n]{1,2000}?) \$(?!\d)"
    r"|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]|(-?\\[dt]?frac\{-?\d{1,9}\}\{\d{1,9}\})",
    re.DOTALL,
)
_VALUE = re.compile(
    r"(?:(?<![\w.)}])(?<![\d)}] )[-+−]\s?)?(?:[$€£¥]\s?-?)?"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d++)?(?:\.\d+(?:\.{3})?)?"
    r"(?:\s?/\s?\d+)?(?:\s?(?:\\?%|％|percent))?"
)
# Between two values that are one answer: alternatives, a range, a list, or an expression that was not worked out.
_JOINED = re.compile(
    r"\s*(?:,?\s*(?:\b(?:or|to|and)\b|或者?|至|到|和)(?:\s+(?:maybe|possibly|perhaps|even|is|it\s+is))*|[,:]|[-–—−~+*/×÷^])\s*",
    re.IGNORECASE,
)
# Where no mark leads to the answer, it is looked for in this many last signs.
_TAIL = 4000


def after_thinking(text: str) -> str:
    """What a response says behind its thoughts. Thoughts that do not end hold no answer, so nothing is left."""
    _, end, said = text.rpartition(_THINK_END)
    if end:
        return said
    return text.split(_THINK, 1)[0]


def given_answers(text: str, headings: bool = False) -> list[str]:
    """The final answers of a response: in its boxes, in its tags and, with `headings`, behind ####; as written.

    Where a response gives one in several of these ways, they have to agree.
    """
    tag = tagged(text)
    inside = None if tag is None else boxed(tag)
    outside = boxed(text if tag is None else _without_tags(text))
    behind = heading(text) if headings else None
    return [answer for answer in (tag if inside is None else inside, outside, behind) if answer is not None]


def last_box(text: str) -> tuple[int, str, int] | None:
    """Where the last box of a text begins, what is in it, and where it ends; None without a box.

    A box that is not closed is empty: the response was cut within it.
    """
    return _box(text, len(text))


def boxed(text: str) -> str | None:
    """What the last box holds, with the boxes that are joined to it (`\\boxed{1} and \\boxed{2}`); None without one."""
    last = last_box(text)
    if last is None:
        return None
    start, inner, _ = last
    members = [inner]
    while (before := _box(text, start)) is not None:
        join = _JOIN.fullmatch(text[before[2] : start]) if start - before[2] <= 40 else None
        if join is None or before[2] > start:
            break
        if before[1].strip() != members[0].strip():
            members.insert(0, f"{before[1]} {join['word'].strip() or ','} ")
        start = before[0]
    return "".join(members)


def tagged(text: str) -> str | None:
    """What the last <answer>...</answer> holds; None without one. A tag that is not closed holds all that follows."""
    _, tag, inner = text.rpartition("<answer>")
    return inner.split("</answer>", 1)[0].strip() if tag else None


def marked(text: str) -> str | None:
    """What is said behind the last mark of an answer, up to the end of its sentence; None without a mark."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    said = text[last.end() :].lstrip(" \t\n*:")
    formula = _FORMULA.match(said)
    end = _SENTENCE_END.search(said, formula.end() if formula else 0)
    return (said[: end.start()] if end else said).strip(" *")


def last_value(text: str) -> str | None:
    """The last formula or number of a text, with those that are joined to it (17 or 18; 10 - 3); None without one."""
    text = text[-_TAIL:]
    spans = _values(text)
    if not spans:
        return None
    start, end, value = spans.pop()
    goes_on = re.match(r"\s*[A-Za-z]", text[end:]) is not None  # "on day 3, 5 eggs": no list
    while spans and _JOINED.fullmatch(text, spans[-1][1], start):
        if goes_on and text[spans[-1][1] : start].strip() == ",":
            break
        value = spans[-1][2] + text[spans[-1][1] : start] + value
        start = spans.pop()[0]
    return value


def first_value(text: str) -> str | None:
    """The first formula or number of a text, with those that are joined to it; None without one."""
    text = text[:_TAIL]
    spans = _values(text)
    if not spans:
        return None
    _, end, value = spans[0]
    for start, next_end, joined in spans[1:]:
        if not _JOINED.fullmatch(text, end, start):
            break
        value, end = value + text[end:start] + joined, next_end
    # "5 or six" is no 5.
    return text if re.match(r",?\s{0,4}(?:or\b|或)", text[end:]) else value


def _values(text: str) -> list[tuple[int, int, str]]:
    spans, position = list[tuple[int, int, str]](), 0
    for formula in _FORMULA.finditer(text):
        spans += _numbers(text, position, formula.start())
        spans.append((*formula.span(), next(group for group in formula.groups() if group is not None)))
        position = formula.end()
    return [*spans, *_numbers(text, position, len(text))]


def _numbers(text: str, start: int, end: int) -> Sequence[tuple[int, int, str]]:
    found = _VALUE.finditer(text, start, end)
    return [(*number.span(), number[0]) for number in found if any(sign.isdigit() for sign in number[0])]


def _box(text: str, end: int) -> tuple[int, str, int] | None:
    command = None
    while command is None:
        end = max(text.rfind(r"\boxed", 0, end), text.rfind(r"\fbox", 0, end))
        if end < 0:
            return None
        command = _BOX.match(text, end)
    start, place = end, command.end()
    if text[place : place + 1] == "{":
        close = group_end(text, place)
        return (start, "", len(text)) if close is None else (start, text[place + 1 : close - 1], close)
    bare = re.compile(r"[^\s$.,]*").match(text, place)
    assert bare is not None
    return start, bare[0], bare.end()


def _without_tags(text: str) -> str:
    before, _, after = text.rpartition("<answer>")
    return before + after.partition("</answer>")[2]


def heading(text: str) -> str | None:
    """What follows the last #### that a number follows, as one line."""
    found = re.findall(r"####(?!#)\s{0,4}(?=[^\s\d#]{0,3}\d)([^\n]*)", text)
    return str(found[-1]) if found else None
