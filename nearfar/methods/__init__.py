"""One published system per file, in folders that are the families users look in.

The catalogue is read from the files' source text, so that listing the methods imports neither
PyTorch nor any method; a new file is found by itself.
"""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.docstrings import argument_docs
from nearfar.errors import ArgumentError

if TYPE_CHECKING:
    from nearfar.method import Method

HERE = Path(__file__).parent
CITATION = re.compile(
    r'^(?P<authors>[^"\n]+\.) "(?P<title>[^"]+[.?!])"\s+(?P<venue>[^\n]+\d{4}[^\n]*)\.$', re.MULTILINE
)


@dataclass(frozen=True)
class Hyperparameter:
    """One argument of a method, as its signature and docstring tell it."""

    name: str
    annotation: str
    default: str
    about: str


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a method without importing it."""

    name: str
    family: str
    summary: str
    title: str
    venue: str
    authors: str
    reads: dict[str, str]
    encoders: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    docstring: str
    module: str
    class_name: str

    @property
    def bibtex(self) -> str:
        """The paper as a BibTeX entry."""
        year = re.search(r"\d{4}", self.venue)
        return (
            f"@misc{{{self.name},\n  author = {{{self.authors.rstrip('.')}}},\n  title = {{{self.title}}},\n"
            f"  howpublished = {{{self.venue}}},\n  year = {{{year.group() if year else ''}}}\n}}"
        )


@cache
def catalogue() -> dict[str, Entry]:
    """All methods by name, in the order of families and names."""
    entries = (_read(path) for path in sorted(HERE.glob("*/*.py")) if path.name != "__init__.py")
    return {entry.name: entry for entry in entries}


def entry(name: str) -> Entry:
    """One method's entry.

    Raises:
        ArgumentError: there is no such method; names the nearest ones.
    """
    import difflib

    if name not in catalogue():
        near = difflib.get_close_matches(name, catalogue(), 3, 0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "see: nearfar methods"
        raise ArgumentError(f"there is no method {name!r}: {hint}")
    return catalogue()[name]


def method_class(name: str) -> type[Method]:
    """Import a method's class.

    Raises:
        ArgumentError: there is no such method.
    """
    found = entry(name)
    return getattr(importlib.import_module(found.module), found.class_name)


def _read(path: Path) -> Entry:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.stem.replace("_", "-")
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in classes:
        if any(getattr(base, "id", None) == "Method" for base in node.bases):
            return _entry_of(node, name, path)
    raise ImportError(f"{path} defines no subclass of Method")


def _entry_of(node: ast.ClassDef, name: str, path: Path) -> Entry:
    docstring = ast.get_docstring(node) or ""
    joined = re.sub(r"(?<=\S)\n(?=\S)", " ", docstring)  # a citation may be wrapped
    citation = CITATION.search(joined)
    if citation is None:
        raise ImportError(f'{path}: the docstring of {node.name} lacks a line: Authors. "Title." Venue Year.')
    reads: dict[str, str] = {}
    arguments: list[tuple[ast.arg, ast.expr | None]] = []
    for item in node.body:
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        if getattr(target, "id", None) == "reads" and isinstance(
            value := getattr(item, "value", None), ast.Dict
        ):
            reads = {
                ast.literal_eval(key): ast.unparse(kind)
                for key, kind in zip(value.keys, value.values, strict=True)
                if key is not None
            }
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            positional = item.args.args[1:]
            missing = [None] * (len(positional) - len(item.args.defaults))
            arguments += zip(positional, [*missing, *item.args.defaults], strict=True)
            arguments += zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
    about = argument_docs(docstring, "Args")
    return Entry(
        name=name,
        family=path.parent.name,
        summary=docstring.split("\n", 1)[0],
        title=citation["title"].rstrip("."),
        venue=citation["venue"],
        authors=citation["authors"],
        reads=reads,
        encoders=tuple(argument.arg for argument, default in arguments if default is None),
        hyperparameters=tuple(
            Hyperparameter(
                argument.arg,
                ast.unparse(argument.annotation) if argument.annotation else "str",
                ast.unparse(default),
                about.get(argument.arg, ""),
            )
            for argument, default in arguments
            if default is not None
        ),
        docstring=docstring,
        module=f"nearfar.methods.{path.parent.name}.{path.stem}",
        class_name=node.name,
    )
