"""What a recipe is: a published claim, and the small real experiment that tests it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import ArgumentError

if TYPE_CHECKING:
    from nearfar.data.table import Table


@dataclass(frozen=True)
class Claim:
    """One statement that the figures can support or contradict.

    Attributes:
        words: the claim, as a sentence.
        arm: the arm that should win.
        baseline: the arm it is held against, seed by seed.
        figure: the figure compared.
        better: whether the arm's figure should be "higher" or "lower".
    """

    words: str
    arm: str
    baseline: str
    figure: str
    better: str = "higher"


@dataclass(frozen=True)
class Experiment:
    """Arms that differ in what a claim is about and in nothing else.

    Attributes:
        data: name of each data set -> fingerprint of the rows used.
        arms: name -> function of the seed that trains and measures once and returns figures by name. Each
            call runs in a process of its own, so that its memory can be told.
        claims: the first is the main one.
        examples: training examples that one run of an arm goes through, for the cost per 1,000.
        seeds: how many.
        deviations: in what it differs from the paper, in sentences.
        packages: installed distributions that figures depend on, beside those of every run.
    """

    data: Mapping[str, str]
    arms: Mapping[str, Callable[[int], dict[str, float]]]
    claims: tuple[Claim, ...]
    examples: Mapping[str, int]
    seeds: int = 3
    deviations: tuple[str, ...] = field(default=())
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Track:
    """The part of a board whose methods train on the same rows.

    Attributes:
        table: training rows.
        methods: that train on it; the first is the one that the others are held against.
        left_out: method -> why it is not in this track.
        options: METHOD.HYPERPARAMETER -> value, where a method differs from its defaults.
    """

    table: Table
    methods: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Board:
    """A family of methods under equal conditions: the same rows, encoder, steps and seeds.

    Attributes:
        title: of its page.
        tracks: name -> who trains on what.
        tests: name -> what all of them are measured on.
        encoder: folder of the encoder that all start from.
        settings: of training, as `nearfar compare` takes them.
        figures: columns of the table: name -> the measures (TEST/MEASURE) whose mean it is. The first is the one
            that methods are told apart by.
        across: names of two figures that the picture draws against each other.
        seeds: how many.
        remarks: what a reader must know of the conditions, in sentences.
    """

    title: str
    tracks: Mapping[str, Track]
    tests: Mapping[str, Table]
    encoder: Path
    settings: Mapping[str, Any]
    figures: Mapping[str, tuple[str, ...]]
    across: tuple[str, str]
    seeds: int = 3
    remarks: tuple[str, ...] = ()


class DataFolder:
    """The folder of larger data sets that experiments read (`--data-dir`)."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def file(self, name: str) -> Path:
        """A file in it.

        Raises:
            ArgumentError: it is not there; names the data set and the option.
        """
        path = self.folder / name
        if not path.exists():
            raise ArgumentError(
                f"the experiment needs {name}, which is not in {self.folder}: say with --data-dir where the data are"
            )
        return path
