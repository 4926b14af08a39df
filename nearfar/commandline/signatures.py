"""Signatures and docstrings out of source text, so that help needs no PyTorch and nothing is written twice."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar.docstrings import argument_docs, summary_of

ROOT = Path(__file__).parent.parent
REQUIRED = object()
"""Default of an argument that must be given."""


@dataclass(frozen=True)
class Argument:
    """One argument of a function: how it is written in Python and what its docstring says."""

    name: str
    annotation: str
    default: Any
    about: str
    keyword: bool


@dataclass(frozen=True)
class Described:
    """A function or a class of settings: its summary and its arguments."""

    summary: str
    details: str
    arguments: tuple[Argument, ...]


def describe_function(module: str, name: str) -> Described:
    """Read the function `name` of a module of nearfar (dotted, relative to the package)."""
    node, constants = _definition(module, name)
    assert isinstance(node, ast.FunctionDef)
    docstring = ast.get_docstring(node) or ""
    about = argument_docs(docstring, "Args")
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    arguments = [
        *(
            _argument(a, d, about, constants, keyword=False)
            for a, d in zip(positional, defaults, strict=True)
        ),
        *(
            _argument(a, d, about, constants, keyword=True)
            for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
        ),
    ]
    return Described(*summary_of(docstring), tuple(arguments))


def describe_settings(module: str, name: str) -> Described:
    """Read the fields of the dataclass `name` of a module of nearfar."""
    node, _ = _definition(module, name)
    docstring = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    about = argument_docs(docstring, "Attributes")
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]  # type: ignore[attr-defined]
    arguments = tuple(
        Argument(
            field.target.id,  # type: ignore[union-attr]
            ast.unparse(field.annotation),
            REQUIRED if field.value is None else ast.literal_eval(field.value),
            about.get(field.target.id, ""),  # type: ignore[union-attr]
            keyword=True,
        )
        for field in fields
    )
    return Described(*summary_of(docstring), arguments)


def _definition(module: str, name: str) -> tuple[ast.stmt, dict[str, Any]]:
    """A definition, and the constants of its module that may be defaults."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    constants: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.targets[0], ast.Name)
        ):
            constants[node.targets[0].id] = node.value.value
        if getattr(node, "name", None) == name:
            return node, constants
    raise LookupError(f"{path} defines no {name}")


def _argument(
    node: ast.arg,
    default: ast.expr | None,
    about: dict[str, str],
    constants: dict[str, Any],
    *,
    keyword: bool,
) -> Argument:
    annotation = ast.unparse(node.annotation) if node.annotation else "str"
    if default is None:
        value = REQUIRED
    else:
        value = constants[default.id] if isinstance(default, ast.Name) else ast.literal_eval(default)
    return Argument(node.arg, annotation, value, about.get(node.arg, ""), keyword)
