"""The string equivalence of the MATH data set (Hendrycks et al., arXiv 2103.03874), from its description; an oracle.

Two answers are equal where their normalised texts are. What is made equal: spaces, \\left and \\right, signs of
degrees, dollars and percent, `\\text{ unit}` at the end, dfrac and tfrac, `\\frac12`, `a/b` of integers, `\\sqrt3`, a
missing zero before the decimal point, 0.5, and a short `x =` in front.
"""

from __future__ import annotations

import re

__all__ = ["last_boxed", "math_equal"]


def math_equal(response: str, gold: str) -> bool:
    """Whether the last box of a response is the ground truth by the data set's own rule."""
    boxed = last_boxed(response)
    return boxed is not None and normalised(boxed) == normalised(gold)


def last_boxed(text: str) -> str | None:
    """What the last \\boxed{...} or \\fbox{...} holds (also `\\boxed 5`); None without one that is closed."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    if bare := re.match(r"\\boxed ([^$]*)", text[start:]):
        return bare[1]
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0 and text[place] == "}":
            return text[text.index("{", start) + 1 : place]
    return None


def normalised(text: str) -> str:
    for old, new in (
        ("\n", ""),
        (r"\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\left", ""),
        (r"\right", ""),
        (r"^{\circ}", ""),
        (r"^\circ", ""),
        (r"\$", ""),
    ):
        text = text.replace(old, new)
    text = text.split(r"\text{ ")[0] if text.count(r"\text{ ") == 1 else text
    text = text.replace(r"\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = "0" + text if text.startswith(".") else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0].strip()) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt\s*([^{\s\[])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\w)\{", r"\\frac{\1}{", text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)
