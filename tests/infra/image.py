"""The install steps of infra/docker/Dockerfile without a container engine: `python -m tests.infra.image cpu FOLDER`.

The image's files lie below the folder, and what `pip` fetches is what the image would hold. PyTorch comes from the
registry that pip is set to, not from PyTorch's own: that needs no other host than an ordinary installation does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "infra" / "docker"


def stages() -> dict[str, tuple[str, list[str]]]:
    """Stage -> the stage or image that it begins with, and its lines, continued ones joined."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    found: dict[str, tuple[str, list[str]]] = {}
    for part in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        _, base, _, name = first.split()
        found[name] = base, [line for line in rest if line and not line.startswith("#")]
    return found


def script(stage: str, context: Path, folder: Path) -> str:
    """The steps of a stage, and of those that it begins with, as a shell script whose root is a folder."""
    base, lines = stages()[stage]
    steps = [script(base, context, folder)] if base in stages() else ["set -euo pipefail"]
    for line in lines:
        word, _, rest = line.partition(" ")
        rest = re.sub(r"--index-url \S+", "", rest)
        rest = re.sub(r"(?<![\w./])/(opt|build)\b", rf"{folder}/\1", rest)
        if word == "COPY":
            *sources, target = rest.split()
            places = [Path(one).name if target == "./" else target for one in sources]
            steps += [f"cp -rT {context / one} {place}" for one, place in zip(sources, places, strict=True)]
        else:
            steps.append({"ENV": f"export {rest}", "WORKDIR": f"mkdir -p {rest} && cd {rest}", "RUN": rest}[word])
    return "\n".join(steps)


def lay_context(folder: Path) -> Path:
    """Copy what .dockerignore lets through to the builder; returns the folder."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    left_out = [Path(line).name for line in lines if line[:1] not in "!#" and line != "*"]
    for line in lines:
        if line.startswith("!"):
            source, target = ROOT / line[1:], folder / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*left_out))
            else:
                shutil.copy(source, target)
    return folder


def install(stage: str, context: Path, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a stage's steps; `folder`/opt/syncclip is what the image gets. Output goes where this process' goes."""
    subprocess.run(["bash", "-c", script(stage, context, folder)], env=environment, check=True)


if __name__ == "__main__":
    place = Path(sys.argv[2]).resolve()
    install(f"build-{sys.argv[1]}", lay_context(place / "context"), place)
