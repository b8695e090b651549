"""Five commands in one process and on one Ray, in folders of any name.

`python -m tests.attack.environments WORLD RESULT FOLDER...` writes their exit statuses, stderr, and the checksums of
their files as JSON."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from syncclip.cli.app import run
from syncclip.runtime.ray_session import ray_session
from tests.worlds.dataset import encoded, make_image

COMMANDS = ("synth", "train", "study", "classify", "report")
CONFIGURATIONS = "study.configurations=[{method: zeroshot}, {method: ivlp, data: real}]"
STUDY = (CONFIGURATIONS, "study.seeds=[1]", "study.images_per_class=[1]", "study.resamples=100")
WRITTEN = ("set/*.tar", "run/prompts.safetensors", "run/metrics.jsonl", "study/cells/*/prompts.safetensors", "*.jsonl")
"""Files that contain neither paths nor times."""


def commands(world: str, folder: str) -> dict[str, list[str]]:
    """Command -> its command line."""
    recipe = f"{world}/tiny.yaml"
    return {
        "synth": ["synth", recipe, "synthesis.images_per_class=1", "--out", f"{folder}/set"],
        "train": ["train", recipe, "training.method=ivlp", "training.data=real", "--out", f"{folder}/run"],
        "study": ["study", recipe, *STUDY, f"training.synthetic={folder}/set", "--out", f"{folder}/study"],
        "classify": ["classify", "--out", f"{folder}/predictions.jsonl", "--", f"{folder}/run", f"{folder}/images"],
        "report": ["report", "--", f"{folder}/study"],
    }


def visit(world: str, folder: str) -> dict[str, object]:
    """Run all commands in a folder: `command` -> (status, last lines of stderr except progress), and checksums."""
    results: dict[str, object] = {}
    (Path(folder) / "images").mkdir(parents=True)
    for number in range(3):
        Path(folder, "images", f"{number}.jpg").write_bytes(encoded(make_image(number, 1)))
    for name, arguments in commands(world, folder).items():
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status: object = run(arguments)
            except Exception as error:
                status = f"{type(error).__name__}: {error}"
        messages = [
            line for line in err.getvalue().splitlines() if not line.startswith(("synth: ", "train: ", "study: "))
        ]
        results[name] = [status, messages[-3:]]
    files = sorted(file for pattern in WRITTEN for file in Path(folder).glob(pattern))
    checksums = {}
    for file in files:
        data = file.read_bytes()
        if file.suffix == ".jsonl":  # contains paths of images
            data = data.replace(json.dumps(f"{folder}/", ensure_ascii=False)[1:-1].encode(), b"FOLDER/")
        checksums[str(file.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    results["checksums"] = checksums
    results["modes"] = sorted({oct(file.stat().st_mode & 0o777) for file in files})
    return results


if __name__ == "__main__":
    world, result, *folders = sys.argv[1:]
    if mask := os.environ.get("ATTACK_UMASK"):
        os.umask(int(mask, 8))
    with ray_session(cpus=2):
        results = {folder: visit(world, folder) for folder in folders}
    Path(result).write_text(json.dumps(results), encoding="utf-8")
