"""The README of a saved space: where it comes from and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nearfar.methods import catalogue

_COMPARED = {
    "cosine": "their cosine",
    "dot": "their inner product",
    "euclidean": "their Euclidean distance",
    "gram": "the area that two directions span (signs do not matter), or the volume of more",
    "lorentz": "hyperbolic distance: they are the space components of points on the hyperboloid of curvature -1",
}
"""What a geometry of a space means for those who use its vectors."""
FORGETTING = "forgetting.svg"
"""Beside the card: what became of each task, where tasks were learned one after the other."""


def model_card(card: Mapping[str, Any], geometry: str) -> str:
    """Markdown for people (with the front matter that model hubs read), from a space's card.

    Args:
        card: what `fit` put into `Space.card`.
        geometry: that of the space.
    """
    entry = catalogue()[card["method"]]
    data = card["data"]
    lines = [
        "---",
        "library_name: nearfar",
        f"tags: [nearfar, {entry.name}, contrastive-learning, embeddings]",
        "---",
        "",
        f"# A space made with {entry.name}",
        "",
        entry.summary,
        "",
        f"Made from {data['training_rows']:,} rows of `{card['table']}` "
        f"(fingerprint `{data['training_fingerprint']}`), "
        f"columns {_columns(card['columns'])}; {_steps(card['steps'])} in {card['seconds']:,} seconds.",
    ]
    if card["measures"]:
        lines += ["", f"## Measures on {data['measured_rows']:,} rows that training did not see", ""]
        lines += ["| measure | before | after | better is |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {_figure(m['before'])} | {_figure(m['after'])} | {m['better'].replace('_', ' ')} |"
            for name, m in card["measures"].items()
        ]
    for name, rows in card.get("tasks", {}).get("figures", {}).items():
        lines += _tasks(name, card["tasks"]["tasks"], rows)
    if card.get("tasks", {}).get("figures"):
        lines += ["", f"![What became of each task]({FORGETTING})"]
    if card["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in card["notes"])]
    lines += ["", "## Use", "", "```python", "import nearfar", "", 'space = nearfar.Space.load("FOLDER")']
    lines += ["vectors = space.encode(rows)", "```", "", f"Vectors are compared by {_COMPARED[geometry]}."]
    settings = {key: card[key] for key in ("encoders", "hyperparameters", "settings", "versions")}
    lines += ["", "## Settings", "", "```json", json.dumps(settings, indent=2, ensure_ascii=False), "```"]
    lines += ["", "## Method", "", "```bibtex", entry.bibtex, "```"]
    return "\n".join(lines) + "\n"


def _steps(steps: int) -> str:
    return f"{steps:,} steps" if steps else "fitted in closed form"


def _tasks(figure: str, tasks: Sequence[str], rows: Sequence[Sequence[float]]) -> list[str]:
    """One figure of every task after each task, as a table."""
    names = [task.replace("|", "\\|") for task in tasks]
    lines = ["", f"| {figure} after | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for name, row in zip(names, rows, strict=True):
        cells = [*map(_figure, row), *[""] * (len(names) - len(row))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _columns(columns: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}` as {role}" for role, name in columns.items())


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
