"""How the result of each verb looks: as tables for people, as JSON for machines."""

from __future__ import annotations

import importlib
import textwrap
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from nearfar.errors import NearfarError
from nearfar.report.tables import number, table


def show(verb: str, result: Any, asked: dict[str, Any]) -> None:
    """Print a verb's result for people."""
    globals()[f"_show_{verb}"](result, asked)


def as_json(verb: str, result: Any, asked: dict[str, Any]) -> Any:
    """A verb's result as JSON values."""
    special = globals().get(f"_json_{verb}")
    return special(result, asked) if special else _plain(result)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(member) for name, member in asdict(value).items()}
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if hasattr(value, "tolist"):  # an array or one number of NumPy's
        return value.tolist()
    return str(value)


def _show_methods(result: Any, asked: dict[str, Any]) -> None:
    if asked.get("name") is None:
        rows = [[e.name, e.family, ", ".join(_reads(e, brief=True)), e.venue, e.title] for e in result]
        print(table(["name", "family", "reads", "venue", "title"], rows, right=9))
        return
    found = result[0]
    print(f"{found.name} ({found.family})\n\n{found.docstring}\n")
    print(f"reads: {', '.join(_reads(found))}")
    print(f"encoders: {', '.join(found.encoders)}")
    for h in found.hyperparameters:
        print(
            f"--{h.name.replace('_', '-')} {h.annotation} = {h.default}\n"
            + textwrap.indent(textwrap.fill(h.about, 100), "    ")
        )


def _reads(found: Any, brief: bool = False) -> list[str]:
    """Roles with their kinds; in brief without those that may be of more than two."""
    reads = []
    for role, kinds in found.reads.items():
        of = [kind.lower() for kind in kinds.split(" | ") if kind != "None"]
        told = "" if brief and len(of) > 2 else f": {' | '.join(of)}"
        reads.append(f"{role}{'?' if 'None' in kinds else ''}{told}")
    return reads


def _json_methods(result: Any, asked: dict[str, Any]) -> Any:
    return [
        {
            "name": e.name,
            "title": e.title,
            "venue": e.venue,
            "family": e.family,
            "summary": e.summary,
            "reads": e.reads,
            "encoders": list(e.encoders),
            "hyperparameters": [asdict(h) for h in e.hyperparameters],
        }
        for e in result
    ]


def _show_fit(result: Any, asked: dict[str, Any]) -> None:
    card = result.card
    for note in card["notes"]:
        print(f"- {note}")
    if card["stopped"]:
        print(f"- stopped at step {card['steps']}: {card['stopped']}")
    if card["kept_step"]:
        print(f"- kept the weights of step {card['kept_step']}")
    if card["measures"]:
        print()
        print(before_after(card["measures"]))
    done = f"{card['steps']} steps" if card["steps"] else "fitted"
    print(f"\n{done} in {card['seconds']:.0f} s; the space is in {asked['out']}")
    queries = {"text": '"your query"', "image": "PICTURE.png", "audio": "SOUND.wav", "node": "1"}
    kinds = [encoder.kind.name for encoder in result.encoders.values()]
    if query := next((queries[kind] for kind in queries if kind in kinds), None):
        print(f"ask it: nearfar search {asked['out']} {asked['table']} {query}")
    if "decoder" in result.parts:
        print(f'let it write: nearfar generate {asked["out"]} "your beginning"')


def before_after(measures: dict[str, dict[str, Any]]) -> str:
    """The table of measures before and after."""
    rows = [
        [name, number(m["before"]), number(m["after"]), _change(m), m["better"].replace("_", " ")]
        for name, m in measures.items()
    ]
    return table(["measure", "before", "after", "change", "better is"], rows)


def _change(m: dict[str, Any]) -> str:
    return "" if m["before"] is None else f"{m['after'] - m['before']:+.4f}"


def _json_fit(result: Any, asked: dict[str, Any]) -> Any:
    return {"out": str(asked["out"]), **result.card}


def _show_embed(result: Any, asked: dict[str, Any]) -> None:
    print(f"wrote {result}")


def _json_embed(result: Any, asked: dict[str, Any]) -> Any:
    return {"out": str(result)}


def _show_measure(result: Any, asked: dict[str, Any]) -> None:
    rows = [
        [m.name, number(m.value), f"{m.n:,}", m.better.replace("_", " "), m.about] for m in result.values()
    ]
    print(table(["measure", "value", "n", "better is", "what it says"], rows, right=9))
    if asked.get("report"):
        print(f"\nreport: {asked['report']}")


def _show_search(result: Any, asked: dict[str, Any]) -> None:
    for query, hits in zip(asked["queries"], result, strict=True):
        print(f"? {query}")
        for hit in hits:
            cells = "  ".join(
                _short(cell) for cell in hit.cells.values() if isinstance(cell, (str, int, float))
            )
            print(f"  {hit.score:.3f}  row {hit.row:,}  {cells}")
        print()


def _short(cell: Any, width: int = 100) -> str:
    text = " ".join(str(cell).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _json_search(result: Any, asked: dict[str, Any]) -> Any:
    return [
        {"query": query, "hits": [_plain(hit) for hit in hits]}
        for query, hits in zip(asked["queries"], result, strict=True)
    ]


def _own(verb: str, what: str) -> Any:
    """A verb whose result needs more words brings them itself."""
    module = importlib.import_module(f"nearfar.verbs.{verb}")
    if not hasattr(module, what):
        raise NearfarError(f"nearfar.verbs.{verb} has no {what}")
    return getattr(module, what)


def _show_detect(result: Any, asked: dict[str, Any]) -> None:
    _show_own("detect", result, asked)


def _show_own(verb: str, result: Any, asked: dict[str, Any]) -> None:
    print(_own(verb, "as_text")(result))
    if asked.get("out"):
        print(f"\nwritten to {asked['out']}")


def _json_detect(result: Any, asked: dict[str, Any]) -> Any:
    return _own("detect", "as_json")(result)


def _show_link(result: Any, asked: dict[str, Any]) -> None:
    _show_own("link", result, asked)


def _json_link(result: Any, asked: dict[str, Any]) -> Any:
    return _own("link", "as_json")(result)


def _show_cluster(result: Any, asked: dict[str, Any]) -> None:
    _show_own("cluster", result, asked)


def _json_cluster(result: Any, asked: dict[str, Any]) -> Any:
    return _own("cluster", "as_json")(result)


def _show_generate(result: Any, asked: dict[str, Any]) -> None:
    print(_own("generate", "as_text")(result))
    if asked.get("report"):
        print(f"\nreport: {asked['report']}")


def _json_generate(result: Any, asked: dict[str, Any]) -> Any:
    return _own("generate", "as_json")(result)


def _show_compare(result: Any, asked: dict[str, Any]) -> None:
    print(_own("compare", "as_text")(result))
    if asked.get("out"):
        print(f"\nwritten to {Path(asked['out'])}")


def _show_reproduce(result: Any, asked: dict[str, Any]) -> None:
    print(_own("reproduce", "as_text")(result))


def _show_demo(result: Any, asked: dict[str, Any]) -> None:
    print(_own("demo", "as_text")(result))
