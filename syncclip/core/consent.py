"""Records of the custom code that a user has run, which is then accepted without `--trust`.

The records are private to the user and outside of all projects, since a copied project could contain its own records. A
record applies to a class in the same unchanged files: a copy of the files in another folder could import other modules.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from itertools import accumulate
from pathlib import Path

from syncclip.core.formats import parse_json
from syncclip.core.permissions import make_private, open_private
from syncclip.core.settings import UserError


def has_consent(name: str, folders: Sequence[str]) -> bool:
    """Return whether this user has run `module:Class` from the files that an import from `folders` would execute."""
    sources = _sources(name, folders)
    recorded = _recorded(name, sources)
    with suppress(OSError):  # a recorded file was removed
        return bool(sources) and {*sources} <= recorded.keys() and recorded == _checksums(recorded)
    return False


def changed_file(name: str, folders: Sequence[str]) -> str | None:
    """Return the first file of `module:Class` that was changed or removed since this user ran it."""
    recorded = _recorded(name, _sources(name, folders))
    changed = (file for file, sha in recorded.items() if not Path(file).is_file() or _checksums([file]) != {file: sha})
    return next(changed, None)


def _recorded(name: str, sources: Sequence[str]) -> dict[str, str]:
    """Read the checksum of each file in a record; {} if there is none.

    No code is executed. Records that are damaged, belong to another user or can be written by others are ignored.
    """
    with suppress(OSError, UserError), open(open_private(_record(name, sources), os.O_RDONLY), "rb") as file:
        if not os.fstat(file.fileno()).st_mode & 0o022:
            return parse_json(file.read(), str(file.name), dict)
    return {}


def record_consent(name: str, folders: Sequence[str]) -> None:
    """Record that the user has run `module:Class`, with checksums of its file and of all modules from the same folder.

    Nothing is recorded if the code has not been imported from `folders`, or if the record can't be written.
    """
    loaded = {str(getattr(module, "__file__", None)): key for key, module in list(sys.modules.items())}
    sources = _sources(name, folders)
    if not sources or not {*sources} <= loaded.keys() or has_consent(name, folders):
        return
    home = max((folder for folder in folders if sources[-1].startswith(f"{folder}{os.sep}")), key=len)
    project = (file for file in loaded if file.startswith(f"{home}{os.sep}") and f"-packages{os.sep}" not in file)
    others = (file for file in project if loaded[file].partition(".")[0] not in ("syncclip", "__main__"))
    with suppress(OSError, UserError):
        record = _record(name, sources)
        make_private(record.parent)
        with tempfile.TemporaryDirectory(dir=record.parent) as folder:
            part = Path(folder, record.name)
            with open(open_private(part, os.O_WRONLY | os.O_CREAT), "w", encoding="utf-8") as file:
                json.dump(_checksums([*sources, *others]), file)
            part.replace(record)


def code_files(name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of the imported code `module:Class`, keyed by module.

    These are the module's file and, recursively, the files that it imports from the same folder (for an installed
    package, from this package). The files are parsed, not executed.
    """
    top, *inner = name.partition(":")[0].split(".")
    own = Path(getattr(sys.modules[".".join([top, *inner])], "__file__", None) or "-")
    home = Path(*own.parts[: -1 - len(inner) - (own.stem == "__init__")])
    pending, checksums = [".".join([top, *inner])], dict[str, str]()
    while pending:
        module = pending.pop()
        first, stem = module.partition(".")[0], home / module.replace(".", "/")
        file = next(filter(Path.is_file, (stem / "__init__.py", Path(f"{stem}.py"))), None)
        other = first in ("", "syncclip") or (home.name.endswith("-packages") and first != top)
        if file is None or other or module in checksums:
            continue
        code = file.read_bytes()
        checksums[module] = hashlib.sha256(code).hexdigest()
        package = [*module.split("."), ""][: None if file.stem == "__init__" else -1]
        pending.append(module.rpartition(".")[0])
        with suppress(SyntaxError):  # a module with optional imports can refer to a file that can't be imported
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Import):
                    pending += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    base = ".".join([*package[: -node.level or 0], *filter(None, [node.module])])
                    pending += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return checksums


def _sources(name: str, folders: Sequence[str] | None) -> list[str]:
    """Return the files that an import of `module:Class` executes, its own file last; [] if they can't be located."""
    files: list[str | None] = []
    for module in accumulate(name.partition(":")[0].split("."), "{}.{}".format):
        if folders is None or (spec := PathFinder.find_spec(module, folders)) is None:
            return []
        files.append(spec.origin)  # None for a namespace package
        folders = spec.submodule_search_locations
    return [file for file in files if file] if files[-1] else []


def _checksums(files: Iterable[str]) -> dict[str, str]:
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}


def _record(name: str, sources: Sequence[str]) -> Path:
    """Return the path of the record for a class in a file.

    Raises:
        UserError: there is no file, or no absolute path of a folder for the user's state.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path(os.environ.get("HOME", "~"), ".local/state"))
    if not sources or not state.is_absolute():
        raise UserError(f"consent to {name} can't be recorded")
    key = hashlib.sha256("\n".join([name, sources[-1]]).encode(errors="surrogateescape")).hexdigest()
    return state / "syncclip" / "trusted" / f"{key}.json"
