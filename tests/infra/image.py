"""The install steps of infra/docker/Dockerfile without a container engine: `python -m tests.infra.image cpu FOLDER`.

The image's files are written to the folder. PyTorch is installed from pip's configured index instead of PyTorch's own.
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


def read_stages() -> dict[str, tuple[str, list[str]]]:
    """Stage -> its base stage or image, and its lines with continuations joined."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    stages: dict[str, tuple[str, list[str]]] = {}
    for part in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        _, base, _, name = first.split()
        stages[name] = base, [line for line in rest if line and not line.startswith("#")]
    return stages


def script(stage: str, context: Path, folder: Path) -> str:
    """The steps of a stage and of its base stages as a shell script with a folder as its root."""
    stages = read_stages()
    base, lines = stages[stage]
    steps = [script(base, context, folder)] if base in stages else ["set -euo pipefail"]
    for line in lines:
        word, _, rest = line.partition(" ")
        rest = re.sub(r"--index-url \S+", "", rest)
        rest = re.sub(r"(?<![\w./])/(opt|build)\b", rf"{folder}/\1", rest)
        if word == "COPY":
            *sources, target = rest.split()
            targets = (Path(source).name if target == "./" else target for source in sources)
            steps += (f"cp -rT {context / source} {path}" for source, path in zip(sources, targets, strict=True))
        else:
            steps.append({"ENV": f"export {rest}", "WORKDIR": f"mkdir -p {rest} && cd {rest}", "RUN": rest}[word])
    return "\n".join(steps)


def copy_context(folder: Path) -> Path:
    """Copy the build context, without the files in .dockerignore; returns the folder."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [Path(line).name for line in lines if line[:1] not in "!#" and line != "*"]
    for line in lines:
        if line.startswith("!"):
            source, target = ROOT / line[1:], folder / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignored))
            else:
                shutil.copy(source, target)
    return folder


def install(stage: str, context: Path, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a stage's steps; the image would contain `folder`/opt/syncclip."""
    subprocess.run(["bash", "-c", script(stage, context, folder)], env=environment, check=True)


if __name__ == "__main__":
    root = Path(sys.argv[2]).resolve()
    install(f"build-{sys.argv[1]}", copy_context(root / "context"), root)
