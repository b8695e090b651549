"""`python -m syncclip` is the command `syncclip`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -m` searches the working folder first, which may be a download with untrusted modules.
    if sys.path[0] == str(Path.cwd()) and not Path(__file__).is_relative_to(Path.cwd()):
        del sys.path[0]

    from syncclip.cli import main

    main()
