"""The command `syncclip`: arguments come in, one call of the library is made, and what it found is printed.

One module a subcommand or group of them; what is heavy is imported when it is needed.
"""

from syncclip.cli.app import main

__all__ = ["main"]
