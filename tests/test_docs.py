"""The documentation says what the code does: its commands, links, tables, examples and generated page."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_rooms import ROOMS

import nearfar
from nearfar.commandline.app import VERBS, make_app
from nearfar.data.opening import READERS
from nearfar.data.roles import ALIASES, ROLES
from nearfar.experiment import Claim, Experiment
from nearfar.measures.embeddings import measure_embeddings
from nearfar.methods import catalogue
from nearfar.report.board_page import boards_page, read_boards
from nearfar.report.methods_page import NOT_YET, methods_page, pictured, read_results
from nearfar.training.settings import Settings
from nearfar.verbs.reproduce import _result

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")


def fenced(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def inline(page: Path) -> list[str]:
    """The code spans outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of nearfar in the documentation: (page, its words without `nearfar`)."""
    for page in PAGES:
        lines = [line for block in fenced(page, "bash") for line in block.splitlines()]
        for line in [*lines, *inline(page)]:
            for part in line.split("&&"):
                start = re.match(r"(?:torchrun\b.*? -m )?nearfar\s+(?=\S)", part.strip())
                if start:
                    yield page.name, shlex.split(part.strip()[start.end() :])


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in commands()]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_in_the_documentation_is_understood(words: list[str]) -> None:
    if words[0].startswith("-"):
        assert words in (["--help"], ["--version"])
        return
    assert words[0] in VERBS
    if len(words) > 1 and "--help" not in words:
        make_app(words).parse_args(words, exit_on_error=False, print_error=False)


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    wrong = ["fit", "simcse", "notes.csv", "--out", "x", "--no-such-option", "1"]
    with pytest.raises(Exception, match="no-such-option"):
        make_app(wrong).parse_args(wrong, exit_on_error=False, print_error=False)
    assert len(COMMANDS) > 25


def options() -> set[str]:
    """Every option of every verb, hyperparameters of all methods included."""
    known = {"--help", "--version", "--print"}
    for words in [*([verb] for verb in VERBS), *(["fit", name] for name in catalogue())]:
        app = make_app(words)[words[0]]
        known |= {name for argument in app.assemble_argument_collection() for name in argument.names}
    return known


def test_options_named_in_the_text_exist() -> None:
    known = options()
    assert {"--cache-chunk", "--temperature-kind", "-k"} <= known
    for page in PAGES:
        for span in inline(page):
            if span.startswith("--"):
                assert span.split()[0] in known, f"{page.name} names {span}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in (one or two for one, two in LINK.findall(text)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_every_page_is_in_the_navigation() -> None:
    def files(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [file for part in parts for file in files(part)]

    listed = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda page: page.name)
def test_reference_pages_name_what_exists(page: Path) -> None:
    named = re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    for path in named:
        module, _, name = path.rpartition(".")
        found = importlib.import_module(module)
        assert getattr(found, name, None) is not None or importlib.import_module(path)


def test_all_objectives_are_in_the_reference() -> None:
    text = (DOCS / "api" / "objectives.md").read_text(encoding="utf-8")
    named = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    assert set(importlib.import_module("nearfar.objectives").__all__) - {"Block", "Tile"} == named


# -- the generated page ----------------------------------------------------------------------------


def test_the_page_of_methods_is_what_its_generator_makes() -> None:
    made = methods_page(read_results(ROOT / "results"), pictured(DOCS / "images"))
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == made, (
        "docs/methods.md is stale: run python -m nearfar.report.methods_page"
    )
    assert (DOCS / "boards.md").read_text(encoding="utf-8") == boards_page(read_boards(ROOT / "results")), (
        "docs/boards.md is stale: run python -m nearfar.report.methods_page"
    )


def test_the_page_of_methods_tells_of_every_method_and_hyperparameter() -> None:
    page = methods_page({})
    for name, entry in catalogue().items():
        section = page.split(f"\n### {name}\n")[1].split("\n### ")[0]
        for part in (entry.title, entry.venue, NOT_YET):
            assert part in section
        for hyperparameter in entry.hyperparameters:
            assert f"| `{hyperparameter.name}` |" in section
            assert hyperparameter.about, f"{name} does not describe {hyperparameter.name}"


def test_a_result_is_published_with_verdict_interval_and_cost() -> None:
    experiment = Experiment(
        data={"sentences": "0123456789abcdef"},
        arms={"plain": lambda seed: {}, "simcse": lambda seed: {}},
        claims=(
            Claim("SimCSE is better", "simcse", "plain", "sts"),
            Claim("SimCSE is closer | lower", "simcse", "plain", "gap", "lower"),
        ),
        examples={"simcse": 500},
        deviations=("smaller than the paper",),
    )
    runs = {
        f"{arm}/{seed}": {"figures": {"sts": sts + seed / 100, "gap": sts}, "seconds": 2.0, "peak_mb": 1234.0}
        for arm, sts in (("plain", 0.5), ("simcse", 0.75))
        for seed in range(3)
    }
    page = methods_page({"simcse": _result("simcse", experiment, 3, runs)})
    section = page.split("\n### simcse\n")[1].split("\n### ")[0]
    assert r"| SimCSE is closer \| lower | **contradicted** | gap: simcse minus plain |" in section
    assert "| +0.2500 | +0.2500 to +0.2500 |" in section
    assert "| SimCSE is better | **held** | sts: simcse minus plain | +0.2500 |" in section
    assert "| simcse | 0.7600 | 0.7500 | 2.0 | 1,234 | 4.00 |" in section
    assert "| plain | 0.5100 | 0.5000 | 2.0 | 1,234 |  |" in section
    for part in ("over 3 seeds", "0123456789abcdef", "nearfar reproduce simcse", "- smaller than the paper"):
        assert part in section
    assert NOT_YET not in section
    assert "**held** |" in page.split("## Family")[0], (
        "the verdict of a method is that of its main claim, the first"
    )


# -- tables in the guide ---------------------------------------------------------------------------


def test_the_rooms_are_those_of_the_import_order() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    section = text.split("## Rooms")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == ROOMS


def test_the_roles_are_those_that_are_read() -> None:
    text = (DOCS / "tables.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| ([^|`]+) \|$", text, re.MULTILINE)
    assert [role for role, _, _ in rows] == list(ROLES)
    for role, kinds, aliases in rows:
        parts = getattr(ROLES[role], "__args__", (ROLES[role],))
        assert kinds == " or ".join(kind.name for kind in parts)
        assert aliases.split(", ") == list(ALIASES[role])


def test_every_suffix_that_can_be_read_is_named() -> None:
    text = (DOCS / "tables.md").read_text(encoding="utf-8")
    for suffix in [*READERS, ".arrow"]:
        assert re.search(rf"`\w+{re.escape(suffix)}`", text), suffix


def test_every_measure_is_explained() -> None:
    random = np.random.default_rng(0)
    z = {role: random.standard_normal((40, 6)).astype(np.float32) for role in ("text", "image", "negative")}
    labels = [f"class {i % 3}" for i in range(40)]
    texts = [f"text {i // 2}" for i in range(40)]
    found = {
        **measure_embeddings(
            z,
            {"label": labels, "cluster": [i % 4 for i in range(40)]},
            identity={"text": texts},
            geometry="lorentz",
        ),
        **measure_embeddings({"text": z["text"], "positive": z["image"]}, {"score": list(range(40))}),
        **measure_embeddings({"text": z["text"], "positive": z["image"]}, {}, geometry="gram"),
        **measure_embeddings({"audio": z["text"]}, {"transcript": [("said", "heard")] * 40}),
    }
    names = {name.split("/")[0] for name in found} - {"left_out"}
    assert {"modality_gap", "sts", "hit@1", "triplet_accuracy", "knn_accuracy"} <= names
    text = (DOCS / "measures.md").read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert names == set(re.split(r", | and | ", headings))


def test_every_setting_of_training_is_explained() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    for name in Settings.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text, name


# -- the README ------------------------------------------------------------------------------------


def test_the_two_commands_are_one_line_each_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Two commands\n")[1].split("\n## ")[0]
    blocks = [body for _, body in FENCE.findall(section)]
    assert all(len(block.splitlines()) == 1 for block in blocks[:2])
    assert "nearfar demo" in blocks[0]
    assert "pytest" in blocks[1]
    script = ROOT / ".ci" / "run"
    printed = subprocess.run([script, "--print"], capture_output=True, text=True, check=True, cwd="/")
    assert printed.stdout == blocks[1]


def test_verbs_and_versions_are_those_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Verbs\n")[1]
    assert sorted(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == sorted(VERBS)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nearfar.__version__
    assert f"## {nearfar.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(
    pairs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(pairs_csv, "notes.csv")
    first, second = fenced(ROOT / "README.md", "python")
    assert "steps=200" in first
    namespace: dict[str, Any] = {}
    exec(first.replace("steps=200", "steps=1, encoder='tiny'"), namespace)
    exec(second, namespace)
    assert namespace["vectors"].dtype == np.float32
    assert len(namespace["vectors"]) == 2
    assert float(namespace["loss"]) > 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_table_of_the_tutorial_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(fenced(DOCS / "tutorial.md", "python")[0], {})
    table = nearfar.read_table("notes.csv")
    assert len(table) > 1000
    assert set(table.kinds) == {"text", "label"}
    assert "name" in table.raw_columns
    assert len(table.label_names["label"]) == 8


# -- the example of CONTRIBUTING -------------------------------------------------------------------

DRIVER = """
import sys
import nearfar
from nearfar.recipes import sup_con
from nearfar.verbs.reproduce import load_experiment

assert nearfar.__file__.startswith(sys.argv[1]), nearfar.__file__
space = nearfar.fit("sup-con", "builtin:digits", steps=2)
assert space.card["steps"] == 2 and "knn_accuracy" in space.card["measures"], space.card
exec(open("test_block.py").read())
pictures = nearfar.read_table("builtin:digits").select(range(6)).column("image")
for name, check in list(globals().items()):
    if name.startswith("test_"):
        check(pictures)
sup_con.SETTINGS["steps"] = 2
experiment = load_experiment("sup-con", ".")
figures = {arm: run(0) for arm, run in experiment.arms.items()}
for claim in experiment.claims:
    print(figures[claim.arm][claim.figure], figures[claim.baseline][claim.figure])
"""


def example(what: str) -> str:
    """The block of CONTRIBUTING that is marked `<!-- example: what -->`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"<!-- example: {what} -->\n\n```python\n")[1].split("\n```")[0] + "\n"


def test_the_method_of_contributing_works_as_written(tmp_path: Path) -> None:
    package = tmp_path / "nearfar"
    shutil.copytree(Path(nearfar.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    family = package / "methods" / "image"
    family.mkdir(exist_ok=True)
    (family / "__init__.py").touch()
    (family / "sup_con.py").write_text(example("method"), encoding="utf-8")
    (package / "recipes" / "sup_con.py").write_text(example("recipe"), encoding="utf-8")
    (tmp_path / "test_block.py").write_text(example("test"), encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    written = [family / "sup_con.py", package / "recipes" / "sup_con.py", tmp_path / "test_block.py"]
    # RUF012 does not see that the base class declares `reads` a ClassVar.
    for check in (["check", "--extend-ignore", "RUF012"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *check, *map(str, written)]
        done = subprocess.run(ruff, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
    done = subprocess.run(
        [sys.executable, "driver.py", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert all(0 < float(figure) <= 1 for figure in done.stdout.split())
