"""What Google-style docstrings say, for the command line and for the catalogue of methods."""

from __future__ import annotations

import re


def argument_docs(docstring: str, heading: str) -> dict[str, str]:
    """The entries of a Google-style section such as "Args:", each on one line."""
    section = re.search(rf"^{heading}:\n((?:[ ]{{4}}.*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return {}
    found = re.findall(r"^ {4}\*{0,2}(\w+): ((?:.*)(?:\n {5,}.*)*)", section.group(1), re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}


def summary_of(docstring: str) -> tuple[str, str]:
    """First paragraph, and what stands between it and the first section."""
    body = re.split(r"^(?:Args|Attributes|Returns|Raises):$", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    first, _, rest = body.strip().partition("\n\n")
    return re.sub(r"\s+", " ", first), rest.strip()
