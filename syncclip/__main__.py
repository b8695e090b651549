"""`python -m syncclip` is the command `syncclip`."""

from __future__ import annotations

from syncclip.cli import main

if __name__ == "__main__":
    main()
