"""`python -m nearfar` is the command `nearfar`."""

from nearfar.cli import main

main()
