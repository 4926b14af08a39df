"""The import order of the rooms, and what must not be imported for help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nearfar

ROOT = Path(nearfar.__file__).parent
ROOMS = [
    "version",
    "classes",
    "docstrings",
    "errors",
    "files",
    "progress",
    "memory",
    "versions",
    "ops",
    "geometry",
    "objectives",
    "data",
    "heads",
    "encoders",
    "views",
    "space",
    "search",
    "batching",
    "measures",
    "steer",
    "method",
    "training",
    "methods",
    "report",
    "experiment",
    "verbs",
    "recipes",
    "commandline",
    "cli",
    "__main__",
]
"""A room may import the rooms above it."""


def imports_of(path: Path, everything: bool = True) -> list[str]:
    """Modules of nearfar that a file imports when it runs (not those for type checking only)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nearfar") and node.level == 0:
            found.append(node.module or "")
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("nearfar")]
    return found


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_rooms_above_its_own(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in ROOMS, f"room {own!r} has no place in the order"
    for module in imports_of(path):
        other = room_of(module)
        assert other == "__init__" or ROOMS.index(other) <= ROOMS.index(own), f"{own} may not import {module}"


def test_methods_do_not_import_each_other() -> None:
    for path in (ROOT / "methods").rglob("*.py"):
        for module in imports_of(path):
            assert not module.startswith("nearfar.methods"), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["methods"], ["methods", "--json"], ["fit", "simcse", "--help"]]
)
def test_help_and_the_list_of_methods_import_no_heavy_package(arguments: list[str]) -> None:
    code = (
        "import sys; from nearfar.commandline.app import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'sklearn'} & set(sys.modules);"
        "print('HEAVY', sorted(heavy)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout


def test_no_room_is_named_for_nothing() -> None:
    empty = {"utils", "util", "misc", "helpers", "helper", "common"}
    assert not [path for path in ROOT.rglob("*") if path.stem in empty]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
