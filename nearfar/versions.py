"""What a result depends on besides data and seed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from nearfar.files import fingerprint_of_sources
from nearfar.version import __version__


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions, processor and threads of this run.

    Args:
        packages: what it used beside what all runs use.
    """
    import numpy
    import torch
    import transformers

    return {
        "nearfar": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        **{name: version(name) for name in packages},
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
    }


def own_code() -> str:
    """Fingerprint of nearfar's own sources, as they are on disk now."""
    return fingerprint_of_sources(Path(__file__).parent)


def _processor() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
