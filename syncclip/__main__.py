"""`python -m syncclip` is the command `syncclip`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -m` looks for modules in the working folder first: in a downloaded one, a stranger's may lie there.
    if sys.path[0] == str(Path.cwd()) and not Path(__file__).is_relative_to(Path.cwd()):
        del sys.path[0]

    from syncclip.cli import main

    main()
