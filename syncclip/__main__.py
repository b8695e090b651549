"""Entry point of `python -m syncclip`, which is equivalent to the `syncclip` command."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -m` first searches the working directory, which may be a download that contains untrusted modules.
    if sys.path[0] == str(Path.cwd()) and not Path(__file__).is_relative_to(Path.cwd()):
        del sys.path[0]

    from syncclip.cli import main

    main()
