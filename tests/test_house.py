"""The house rules that a machine can check."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nearfar

ROOT = Path(__file__).parent.parent


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("task", [("check", "--no-cache"), ("format", "--check", "--no-cache")])
def test_ruff(task: tuple[str, ...]) -> None:
    run("ruff", *task, "nearfar", "tests", "benchmarks")


def test_mypy() -> None:
    run("mypy")


def test_the_package_says_that_it_is_typed_and_which_version_it_is() -> None:
    assert (Path(nearfar.__file__).parent / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = runpy.run_path(str(ROOT / settings["tool"]["hatch"]["version"]["path"]))["__version__"]
    assert version == nearfar.__version__
    assert settings["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_every_public_name_can_be_had() -> None:
    for name in nearfar.__all__:
        assert getattr(nearfar, name) is not None
    assert set(nearfar.__all__) == set(dir(nearfar))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nearfar.nothing  # noqa: B018
