"""The command `syncclip`: arguments come in, one call of the library is made, and its result is printed."""

from syncclip.cli.app import main

__all__ = ["main"]
