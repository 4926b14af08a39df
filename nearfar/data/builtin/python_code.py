"""Python functions and what their docstrings say, from the standard library and four packages.

The table is made from files that are installed anyway: the first paragraph of a docstring is `text`,
the function without it is `positive`. A quarter of the modules, chosen by name, is the test side.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nearfar.errors import MissingExtra
from nearfar.progress import track

PACKAGES = {"numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "networkx": "networkx"}
"""Import name -> distribution. No other installed package is read, so that all machines get one table."""

FEWEST_WORDS = 5
SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "idle_test", "site-packages", "dist-packages"})

Pair = tuple[str, str, str]
"""(text, code, module)."""


def version() -> str:
    """Changes with what `columns` returns.

    Raises:
        MissingExtra: one of the packages is not installed.
    """
    _roots()
    releases = [f"{name} {installed(name)}" for name in PACKAGES.values()]
    return " ".join(["1 python", sys.version.split()[0], *releases])


def columns() -> dict[str, list[Any]]:
    """Columns text, positive, module and split; no text and no code is on both sides."""
    files = [(file, module) for root, name in _roots() for file, module in _files(root, name)]
    found = (pair for file, module in track(files, "reading functions") for pair in _pairs(file, module))
    first: dict[tuple[str, str], Pair] = {}
    for pair in found:
        first.setdefault(pair[:2], pair)
    unique = first.values()
    train = [pair for pair in unique if not held_out(pair[2])]
    texts, codes = {text for text, _, _ in train}, {code for _, code, _ in train}
    test = [p for p in unique if held_out(p[2]) and p[0] not in texts and p[1] not in codes]
    rows = [(*pair, "train") for pair in train] + [(*pair, "test") for pair in test]
    return dict(zip(("text", "positive", "module", "split"), map(list, zip(*rows, strict=True)), strict=True))


def held_out(module: str) -> bool:
    """Whether a module is on the test side: by its name, so on every machine the same."""
    return hashlib.sha256(module.encode()).digest()[0] % 4 == 0


def _roots() -> list[tuple[Path, str]]:
    """The folders that are read, each with its import name ("" for the standard library)."""
    roots = [(Path(sysconfig.get_paths()["stdlib"]), "")]
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise MissingExtra(f"this needs the package {name!r}: pip install 'nearfar[demo]'")
        roots.append((Path(spec.origin).parent, name))
    return roots


def _files(root: Path, package: str) -> Iterator[tuple[Path, str]]:
    """Source files with the module they count to: `scipy.stats`, or `json` of the standard library."""
    tops = sorted(root.iterdir())
    if not package:
        tops = [top for top in tops if top.stem in sys.stdlib_module_names]
    for file in [file for top in tops for file in ([top] if top.is_file() else sorted(top.rglob("*.py")))]:
        parts = file.relative_to(root).with_suffix("").parts
        if file.suffix != ".py" or SKIPPED_FOLDERS.intersection(parts) or parts[-1].startswith("test_"):
            continue
        own = parts[0] if parts[0] != "__init__" else ""
        yield file, ".".join(filter(None, (package, own)))


def _pairs(file: Path, module: str) -> Iterator[Pair]:
    try:
        with tokenize.open(file) as opened:
            source = opened.read()
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            text, code = _paragraph(node), _code(node, lines)
            if text is not None and code is not None:
                yield text, code, module


def _paragraph(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The first paragraph of a docstring on one line; None if it says too little or is an example."""
    paragraph = (ast.get_docstring(node) or "").strip().split("\n\n")[0]
    words = paragraph.split()
    if len(words) < FEWEST_WORDS or ">>>" in words or paragraph.startswith((".. ", ":", "@")):
        return None
    return " ".join(words)


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str | None:
    """The lines of a function without its docstring, dedented; None if nothing else is in it."""
    docstring, end = node.body[0], node.end_lineno
    if len(node.body) < 2 or docstring.end_lineno is None:
        return None
    if docstring.lineno == node.lineno or node.body[1].lineno == docstring.end_lineno:
        return None  # code shares a line with the docstring
    own = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : end]
    margin = node.col_offset
    return "\n".join(line[margin:] if not line[:margin].strip() else line for line in own).rstrip()
