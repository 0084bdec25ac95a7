"""How the text of a mathematical answer is written: spellings of the same thing are made one.

Nothing here computes; all of it takes a time that grows with the length of the text.
"""

from __future__ import annotations

import re

__all__ = ["balanced", "group_end", "plain", "split_list", "text_key", "unwrap"]

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—‒﹣－", "-"),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "，": ",",
        "、": ",",
        "；": ";",
        "：": ":",
        "％": "%",
        "（": "(",
        "）": ")",
        "＝": "=",
        "＄": "$",
        "．": ".",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "°": r"^{\circ}",
        "±": r"\pm ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "∪": r"\cup ",
        "∈": r"\in ",
        "≈": r"\approx ",
        "∅": r"\emptyset ",
        "½": " 1/2",
        "⅓": " 1/3",
        "⅔": " 2/3",
        "¼": " 1/4",
        "¾": " 3/4",
        "⁄": "/",
        **{power: f"^{digit}" for digit, power in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_ROOT = re.compile(r"√\s*(\d+|[A-Za-z]|\((?P<inner>[^()]*)\))")
# What only changes the look of a formula.
_LOOKS = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr)(?![A-Za-z])\.?|\\(?:displaystyle|textstyle|limits|phantom\{\})(?![A-Za-z])"
    r"|(?<!\\)\\!|\\math(?:strut|surd)(?![A-Za-z])"
)
_SPACES = re.compile(r"(?<!\\)\\(?:[,:;> ]|q?quad(?![A-Za-z]))|~|\s+")
_THOUSANDS_MARK = re.compile(r"(?<=\d)\s*(?:\{\s*,\s*\}|,?\\[,!;]|,\\!)\s*(?=\d{3}(?!\d))")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[A-Za-z](?![A-Za-z]))")
_FONTS = re.compile(
    r"\\(?:text(?:normal|bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf|tt|bb(?!\{R|\{Z|\{N|\{Q|\{C))?|mbox|operatorname|boldsymbol|rm|bf)\s*\{"
)
_TEXT_LETTER = re.compile(r"(?<![\d})])(?<![\d})] )\\text\{\s*(\(?[A-Za-z]\)?)\s*\}")
_SPELLINGS = {
    r"\leq": r"\le",
    r"\leqslant": r"\le",
    r"\geq": r"\ge",
    r"\geqslant": r"\ge",
    r"\neq": r"\ne",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\varnothing": r"\emptyset",
    r"\empty": r"\emptyset",
    r"\degree": r"^{\circ}",
    r"\dots": r"\ldots",
    r"\cdots": r"\ldots",
    r"\to": r"\rightarrow",
    r"\lt": "<",
    r"\gt": ">",
    r"\colon": ":",
    r"\ast": r"\cdot",
}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WRAPS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_CLOSING = {"(": ")", "[": "]", "{": "}"}
# Between the members of a list. A comma is one too, but not within a number (1,000), which is looked at first.
_SEPARATOR = re.compile(
    r",?\s*\\text\{[\s,]*(?:and|or|和|或|以及|或者)\s*\}|[,;]?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|或者|以及|[和或,;]"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)(?!,\d)")


def plain(text: str) -> str:
    """An answer in one spelling: LaTeX commands for signs, `\\frac{a}{b}`, no marks of style, one space at most."""
    text = _ROOT.sub(lambda found: rf"\sqrt{{{found['inner'] or found[1]}}}", text.translate(_SIGNS))
    text = unwrap(text)
    text = _LOOKS.sub("", _THOUSANDS_MARK.sub(",", text))
    text = _COMMAND.sub(lambda found: _SPELLINGS.get(found[0], found[0]), text)
    text = text.replace(r"\$", "$").replace(r"\%", "%").replace(r"^\circ", r"^{\circ}").replace("**", "^")
    text = _FONTS.sub(lambda _: r"\text{", text)
    text = _TEXT_LETTER.sub(r"\1", text)
    text = _SPACES.sub(" ", text)
    text = _braced_fractions(_FRACTIONS.sub(r"\\frac", text))
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    return _without_full_stop(text.strip())


def unwrap(text: str) -> str:
    """Without the marks of a formula, of bold type, of a whole box and of quotes around it."""
    before = None
    while before != text:
        before = text
        text = text.strip()
        for start, end in _WRAPS:
            inner = text[len(start) : -len(end)]
            if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end) and end not in inner:
                text = inner
        if text.startswith("{") and group_end(text, 0) == len(text):
            text = text[1:-1]
    return text


def text_key(text: str) -> str:
    """What two plain answers share that are the same but for spaces, and for braces around a single sign."""
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"\s+", "", text))


def group_end(text: str, start: int) -> int | None:
    """The position behind the brace that closes the one at `start`; None where it is not closed."""
    depth, position = 0, start
    while position < len(text):
        sign = text[position]
        if sign == "\\":
            position += 1
        elif sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def balanced(text: str) -> bool:
    """Whether each brace of a LaTeX text is closed, and none before it is opened."""
    depth = 0
    for sign in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0


def split_list(text: str) -> list[str]:
    """The members of a list (`1, 2 \\text{ and } 3`), split outside of brackets; commas of thousands stay."""
    kept = {place for found in _THOUSANDS.finditer(text) for place in range(*found.span())}
    members, start, closing = [], 0, list[str]()
    position = 0
    while position < len(text):
        sign = text[position]
        if not closing and position not in kept and (found := _SEPARATOR.match(text, position)):
            members.append(text[start:position])
            position = start = found.end()
            continue
        if sign == "\\" and position + 1 < len(text) and not text[position + 1].isalpha():
            position += 1
            sign = text[position]
            if sign not in "{}":
                position += 1
                continue
        if sign in _CLOSING:
            closing.append(sign)
        elif sign in ")]}" and closing:
            closing.pop()  # ( may be closed by ]: half-open intervals
        position += 1
    members.append(text[start:])
    return [member.strip() for member in members if member.strip()]


def _without_full_stop(text: str) -> str:
    text = text.rstrip(",;。 ")
    while text.endswith(".") and not text.endswith("..") and not re.search(r"[A-Za-z]\.[A-Za-z]\.$", text):
        text = text[:-1].rstrip()
    return text


def _braced_fractions(text: str) -> str:
    """`\\frac12`, `\\frac1{72}` and the like with both braces."""
    out, position = [], 0
    while (found := text.find(r"\frac", position)) >= 0:
        out.append(text[position:found])
        position = found + len(r"\frac")
        out.append(r"\frac")
        for _ in range(2):
            while text[position : position + 1] == " ":
                position += 1
            if text[position : position + 1].isalnum():
                out.append(f"{{{text[position]}}}")
                position += 1
            elif text[position : position + 1] == "{" and (end := group_end(text, position)) is not None:
                out.append("{" + _braced_fractions(text[position + 1 : end - 1].strip()) + "}")
                position = end
            else:
                break
    return "".join([*out, text[position:]])
