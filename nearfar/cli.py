"""Entry point of the command `nearfar`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from nearfar.commandline.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
