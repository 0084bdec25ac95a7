"""Keeps answers out of Python's `eval`, which some of reasoning-gym's scorers, and sympy's parser, hand them to.

Lists and the like are read as literals; formulas reach sympy only when they consist of numbers, names, operators and
known functions. An honest answer scores as before, and one that is a program is an answer that does not parse.
"""

from __future__ import annotations

import ast
from importlib import import_module
from typing import Any

import sympy  # type: ignore[import-untyped]

from gspo.rewards.limits import TooLarge, check_formula_size

__all__ = ["GUARDED_MODULES", "check_formula", "install"]

# Modules of reasoning-gym whose scorers evaluate an answer or an entry as Python.
_LITERAL_MODULES = (
    "reasoning_gym.algorithmic.binary_matrix",
    "reasoning_gym.algorithmic.number_sorting",
    "reasoning_gym.algorithmic.spiral_matrix",
    "reasoning_gym.algorithmic.string_insertion",
    "reasoning_gym.games.n_queens",
)
# Modules whose scorers let sympy parse an answer, which evaluates it too, and the name by which they reach its parser.
_FORMULA_MODULES = {
    "reasoning_gym.algebra.intermediate_integration": "sympy",
    "reasoning_gym.algebra.polynomial_multiplication": "sp",
    "reasoning_gym.algebra.simple_integration": "sympy",
    "reasoning_gym.games.countdown": "parse_expr",
    "reasoning_gym.games.puzzle24": "parse_expr",
}
GUARDED_MODULES = (*_LITERAL_MODULES, *_FORMULA_MODULES)
_FUNCTIONS = frozenset(
    {arc + name + end for arc in ("", "a") for name in ("sin", "cos", "tan", "cot", "sec", "csc") for end in ("", "h")}
    | {"exp", "log", "ln", "sqrt", "Abs", "abs", "erf", "Rational", "factorial"}
)
_NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Name, ast.Load, ast.Call, ast.Constant)


def check_formula(text: str) -> None:
    """Refuses what is not a formula.

    Raises:
        ValueError: `text` holds anything beyond numbers, names, arithmetic and calls of known functions, or its value
            would be too large (a tower of powers).
    """
    try:
        check_formula_size(text)
        tree = ast.parse(text.strip(), mode="eval")
    except TooLarge as error:
        raise ValueError(f"not a sound formula: {error}") from error
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not a formula") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and not _calls_known_function(node):
            raise ValueError("not a formula: it calls something else than a known function")
        if isinstance(node, ast.Constant) and type(node.value) not in (int, float):
            raise ValueError("not a formula: it holds a constant that is not a number")
        if not isinstance(node, _NODES) or (isinstance(node, ast.Name) and node.id.startswith("_")):
            raise ValueError(f"not a formula: it holds {type(node).__name__}")


def install() -> None:
    """Puts the guards into reasoning-gym's modules, for this process."""
    for name in _LITERAL_MODULES:
        vars(import_module(name))["eval"] = _literal
    for name, attribute in _FORMULA_MODULES.items():
        vars(import_module(name))[attribute] = _parse_expr if attribute == "parse_expr" else _Sympy()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError("not a literal: it has too many brackets") from error


def _calls_known_function(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords


def _parse_expr(text: str, *args: Any, **kwargs: Any) -> Any:
    check_formula(text)
    return sympy.parse_expr(text, *args, **kwargs)


class _Sympy:
    """sympy, with the guarded parser in place of its own."""

    parse_expr = staticmethod(_parse_expr)

    def __getattr__(self, name: str) -> Any:
        return getattr(sympy, name)
