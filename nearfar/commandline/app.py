"""The commands, each made of the verb it calls."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from nearfar.commandline.signatures import REQUIRED, Argument, Described, describe_function, describe_settings
from nearfar.errors import NearfarError
from nearfar.methods import catalogue, entry
from nearfar.version import __version__

VERBS = {
    "fit": ("verbs.fit", "fit"),
    "embed": ("verbs.embed", "embed"),
    "measure": ("verbs.measure", "measure"),
    "search": ("verbs.search", "search_table"),
    "detect": ("verbs.detect", "detect"),
    "link": ("verbs.link", "link"),
    "cluster": ("verbs.cluster", "cluster"),
    "generate": ("verbs.generate", "generate"),
    "compare": ("verbs.compare", "compare"),
    "reproduce": ("verbs.reproduce", "reproduce"),
    "demo": ("verbs.demo", "demo"),
    "methods": ("verbs.methods", "methods"),
}
MUST_BE_GIVEN = {("fit", "out")}
"""Arguments that Python may leave out and the command line may not."""
PLAIN = {"int", "float", "bool", "str"}


class UsageError(NearfarError):
    """The words of the command line do not make a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 a named error, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        app = make_app(arguments)
        app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return 2
    except NearfarError as error:
        print(f"nearfar: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("nearfar: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    return 0


def make_app(arguments: Sequence[str]) -> App:
    """The application. `arguments` tell whose hyperparameters to offer."""
    app = App(
        name="nearfar",
        help="Make spaces of embeddings by saying what is near and what is far; measure, search and compare them.",
        version=__version__,
        help_format="plaintext",
    )
    asked = next((word for word in arguments if not word.startswith("-")), None)
    for verb, (module, function) in VERBS.items():
        described = describe_function(module, function)
        if asked in (verb, None) or verb == asked:
            app.command(_command(verb, module, function, described, arguments), name=verb)
        else:
            app.command(lambda: None, name=verb, help=described.summary)
    return app


def _command(
    verb: str, module: str, function: str, described: Described, arguments: Sequence[str]
) -> Callable[..., None]:
    """A function with the verb's arguments in the form the command line gives them."""
    parameters: list[inspect.Parameter] = []
    convert: dict[str, Callable[[Any], Any]] = {}
    owned: dict[str, str] = {}
    known = list(described.arguments)
    settings: list[Argument] = []
    hyperparameters: list[Argument] = []
    if any(argument.name == "hyperparameters" for argument in known):
        known = [argument for argument in known if argument.name != "hyperparameters"]
        names = {argument.name for argument in known}
        fields = describe_settings("training.settings", "Settings").arguments
        settings = [field for field in fields if field.name not in names]
        if verb == "fit":
            taken = names | {field.name for field in settings}
            hyperparameters = _hyperparameters(arguments, taken)
    trailing = _after_sequence(known)
    known = [argument for argument in known if argument not in trailing]
    for argument in [*known, *settings, *hyperparameters]:
        kind, converter = _cli_type(argument)
        if converter is not None:
            convert[argument.name] = converter
        default = REQUIRED if (verb, argument.name) in MUST_BE_GIVEN else argument.default
        parameters.append(_parameter(argument, kind, default))
    owned |= {argument.name: "hyperparameters" for argument in hyperparameters}
    parameters.append(
        inspect.Parameter(
            "json_",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool, Parameter(name="--json", negative=(), help="Print JSON, for machines.")
            ],
        )
    )

    def run(*args: Any, **given: Any) -> None:
        bound = signature.bind(*args, **given)
        words = {**bound.arguments}
        _take_trailing(words, trailing)
        values = {name: convert[name](value) if name in convert else value for name, value in words.items()}
        as_json = values.pop("json_", False)
        for name in [name for name in values if name in owned]:
            values.setdefault("hyperparameters", {})[name] = values.pop(name)
        called = getattr(importlib.import_module(f"nearfar.{module}"), function)
        result = called(**values)
        if os.environ.get("RANK", "0") != "0":
            return  # under torchrun the first process speaks for all
        printing = importlib.import_module("nearfar.commandline.printing")
        if as_json:
            print(json.dumps(printing.as_json(verb, result, values), ensure_ascii=False))
        else:
            printing.show(verb, result, values)

    parameters.sort(key=lambda parameter: parameter.kind)  # positional, then the sequence, then options
    signature = inspect.Signature(parameters)
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = described.summary + ("\n\n" + described.details if described.details else "")
    return run


def _after_sequence(known: list[Argument]) -> list[Argument]:
    """The positional arguments behind a sequence that must be given, as in METHOD METHOD ... TABLE."""
    positional = [argument for argument in known if not argument.keyword and argument.default is REQUIRED]
    starts = [i for i, argument in enumerate(positional) if argument.annotation.startswith("Sequence[")]
    return [argument for argument in positional[starts[0] + 1 :] if argument.name != "out"] if starts else []


def _take_trailing(words: dict[str, Any], trailing: list[Argument]) -> None:
    """Move the last words of the sequence to the arguments behind it."""
    if not trailing:
        return
    sequence = next(name for name, value in words.items() if isinstance(value, tuple))
    if len(words[sequence]) <= len(trailing):
        raise UsageError(f"missing: give {sequence} and then {', '.join(a.name for a in trailing)}")
    for argument in reversed(trailing):
        words[argument.name] = words[sequence][-1]
        words[sequence] = words[sequence][:-1]


def _hyperparameters(arguments: Sequence[str], taken: set[str]) -> list[Argument]:
    """The hyperparameters of the method that is named on the command line, if one is."""
    words = [word for word in arguments[1:] if word in catalogue()]
    if not words:
        return []
    found = entry(words[0])
    if clash := taken & {hyperparameter.name for hyperparameter in found.hyperparameters}:
        raise NearfarError(
            f"{found.name} has hyperparameters named like settings of training: {sorted(clash)}"
        )
    return [
        Argument(h.name, h.annotation, _literal(h.default), f"({found.name}) {h.about}", keyword=True)
        for h in found.hyperparameters
    ]


def _literal(source: str) -> Any:
    import ast

    return ast.literal_eval(source)


def _cli_type(argument: Argument) -> tuple[Any, Callable[[Any], Any] | None]:
    """The type that the command line reads for a Python annotation, and what turns it back."""
    parts = {part.strip() for part in _split(argument.annotation)}
    optional = "None" in parts
    parts.discard("None")
    if any(part.startswith("Mapping[str, str]") for part in parts):
        return list[str], _pairs if "str" not in parts else _name_or_pairs
    if any(part.startswith("Sequence[") for part in parts):
        return list[str], None
    if parts == {"OnBadRow"}:
        return Literal["error", "skip"], None
    literal = next((part for part in parts if part.startswith("Literal[")), None)
    plain = next((part for part in parts if part in PLAIN), None)
    kind: Any = (
        eval(literal, {"Literal": Literal})
        if literal
        else {"int": int, "float": float, "bool": bool}.get(plain or "str", str)
    )
    return (kind | None if optional else kind), None


def _split(annotation: str) -> list[str]:
    """The members of a union written with |, brackets respected."""
    members, depth, start = [], 0, 0
    for position, character in enumerate(annotation):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            members.append(annotation[start:position])
            start = position + 1
    return [*members, annotation[start:]]


def _parameter(argument: Argument, kind: Any, default: Any) -> inspect.Parameter:
    """Positional where Python's is, except `out`; a sequence that must be given takes all words left."""
    options: dict[str, Any] = {"help": argument.about, "negative": ()}
    if kind == list[str] and default is REQUIRED:
        several = inspect.Parameter.VAR_POSITIONAL
        options["required"] = True
        return inspect.Parameter(argument.name, several, annotation=Annotated[str, Parameter(**options)])
    style: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    if argument.keyword or argument.name == "out":
        style = inspect.Parameter.KEYWORD_ONLY
        name = "--" + argument.name.replace("_", "-")
        if kind == list[str]:
            # One value each time the option is given: --column text=body --column label=topic.
            name, default = name.removesuffix("s"), []
            options["consume_multiple"] = False
        options["name"] = ("-" + argument.name, name) if len(argument.name) == 1 else name
        if kind is bool and default is True:
            options["negative"] = "--no-" + name.removeprefix("--")
    return inspect.Parameter(
        argument.name,
        style,
        default=inspect.Parameter.empty if default is REQUIRED else default,
        annotation=Annotated[kind, Parameter(**options)],
    )


def _pairs(words: list[str]) -> dict[str, str] | None:
    """`role=name` words as a mapping."""
    for word in words:
        if "=" not in word:
            raise UsageError(f"{word!r} should have the form role=name, such as text=body")
    return dict(word.split("=", 1) for word in words) or None


def _name_or_pairs(words: list[str]) -> str | dict[str, str] | None:
    """One bare name, or `argument=name` words."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    return _pairs(words)
