"""The commands of the README and the tutorial, run in a fresh clone.

Without a network, `pip install` is skipped, and the environment is on the PATH. Small local stand-ins replace GPUs,
diffusion models and buckets; `tests/cluster` runs the jobs on a cluster.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.rehearsals import HERE, on_hosts
from tests.conftest import TinyWorld
from tests.object_store import ENVIRONMENT

ROOT = Path(__file__).parents[1]

PATIENCE = 3000
"""Timeout in seconds; on two idle cores the longest test takes five minutes."""

pytestmark = [pytest.mark.timeout(PATIENCE + 300), *on_hosts]

SKIPPED = ("git clone", "make check", "make docs", "make test", "pip install", "python3 -m venv", "ray job submit")


def commands(page: str, part: str = "") -> list[str]:
    """The commands of a page, or of its section under a heading, without skipped ones."""
    heading, language, lines = "", "", []
    for line in (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            language = line.removeprefix("```")
        elif language == "bash" and part in ("", heading) and line.strip():
            lines.append(line)
        elif not language and line.startswith("#"):
            heading = line.lstrip("# ")
    return [line for line in lines if not any(command in line for command in SKIPPED)]


BEGIN = """
set -e
ray() { # raise the priority, as the components of Ray have 15 s to start
  { echo -15 >/proc/self/autogroup; } 2>/dev/null || true
  command ray "$@"
  { echo 0 >/proc/self/autogroup; } 2>/dev/null || true
}
PS4='== $SECONDS s: '
set -x
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with an installed environment: links to tracked files only."""
    folder = tmp_path / "syncclip"
    folder.mkdir()
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        top = name.partition("/")[0]
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(ROOT / top)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv/installed").unlink(missing_ok=True)
    (folder / ".venv/installed").touch()
    return folder


def run_all(folder: Path, lines: list[str]) -> str:
    """Run commands in a shell in namespaces without network and other processes; returns their output."""
    script = folder.parent / "commands.sh"
    script.write_text("\n".join([f"cd {folder}", BEGIN, *lines]))
    machine = folder.parent / "machine"
    machine.mkdir(exist_ok=True)
    bare = {
        "HOSTS_ROOT": str(machine),
        "HOSTS_BIN": str(Path(sys.executable).parent),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    quiet = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", **ENVIRONMENT}
    done = subprocess.run(
        ["bash", str(HERE / "hosts.sh"), "0", "bash", str(script)],
        env=bare | quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,  # Linux shares the cores among sessions
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def compared_trainings(folder: Path, output: str) -> list[str]:
    """The trainings in a folder; each is above its baselines, or the output contains a warning."""
    text, runs = " ".join(output.split()), []
    for path in sorted(folder.glob("*/**/results.json")):
        results = json.loads(path.read_text())
        if "cells" in path.parts:
            continue
        score, key = results["all_classes_hm"], "all_classes_hm"
        below = [name for name, scores in results["baselines"].items() if score <= scores[key]]
        assert not below or f"for {results['method']} ({score:.1f} %)" in text, (path, below)
        runs.append(str(path.parent.relative_to(folder)))
    assert "zero-shot CLIP" in text and "chance" in text
    return runs


def test_the_laptop_section_of_the_readme(clone: Path) -> None:
    output = run_all(clone, [*commands("README.md", "syncclip"), *commands("README.md", "On a laptop")])

    assert compared_trainings(clone, output) == ["runs/first"]
    assert (clone / "runs/demo/study/report.html").stat().st_size > 100_000
    assert (clone / "runs/bus.jpg").stat().st_size > 500
    assert "Effect of synthetic images on novel classes – significant gain" in " ".join(output.split())
    assert "syncclip-both" in output
    assert '"image": "runs/bus.jpg", "class": ' in output


def test_the_section_on_custom_classes_of_the_readme(clone: Path, tiny: TinyWorld) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    recipe = yaml.safe_load(text)
    recipe["dataset"]["name"] = tiny.dataset
    recipe["backbone"] = {"name": tiny.backbone}
    recipe["synthesis"] |= {"num_gpus": 0, "images_per_class": 2}
    recipe["synthesis"]["generator"] = {"pipeline": tiny.generator, "steps": 2}
    recipe["synthesis"]["filters"] = [{"name": "blank"}, {"name": "clip_score", "top": 6}]
    recipe["study"] = {"cpus": 1, "gpus": 0, "resamples": 100}
    (clone / "birds.yaml").write_text(yaml.safe_dump(recipe))
    lines = commands("README.md", "With a GPU and your own classes")
    assert len(lines) == 4

    output = run_all(clone, [re.sub(r"images_per_class=\[.*?\]", "images_per_class=[1,2]", line) for line in lines])

    assert "name knowledge" in output
    assert len(compared_trainings(clone, output)) == 1
    assert (clone / "runs/birds/study/report.html").is_file()


def test_the_tutorial(clone: Path) -> None:
    output = run_all(clone, commands("docs/tutorial.md"))

    assert output.rstrip().endswith("the same")
    assert (clone / "runs/tour/set/report.html").is_file()
    assert (clone / "runs/tour/run/report.html").is_file()
    assert "56 images of 14 classes" in output
    assert compared_trainings(clone, output) == ["runs/tour/mine-run", "runs/tour/run"]
    assert yaml.safe_load((clone / "runs/tour/mine.yaml").read_text())["dataset"]


STORE = """
mkdir -p ~/.config/fsspec
echo '{"s3": {"endpoint_url": "http://127.0.0.1:5000"}}' > ~/.config/fsspec/s3.json
moto_server -p 5000 >../moto.log 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/5000) 2>/dev/null; do sleep 0.2; done
python -c 'import boto3; boto3.resource("s3", endpoint_url="http://127.0.0.1:5000").create_bucket(Bucket="bucket")'
ray start --head --num-cpus=3
"""
"""A bucket, its endpoint in fsspec's configuration, and a cluster."""


def test_the_example_on_s3(clone: Path, tiny: TinyWorld) -> None:
    page = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
    for text in re.findall(r"```yaml\n(# (?:birds|cloud)\.yaml.*?)```", page, re.DOTALL):
        (clone / text.split()[1]).write_text(text)
    recipe = yaml.safe_load((clone / "birds.yaml").read_text())
    recipe["study"] = {"images_per_class": [1, 2], "seeds": [1], "resamples": 100, "cpus": 1, "gpus": 0}
    recipe["synthesis"] = {"images_per_class": 2, "generator": {"steps": 2}, "filters": [{"name": "blank"}]}
    recipe["training"] = {"epochs": 1, "batch_size": 8}
    (clone / "birds.yaml").write_text(yaml.safe_dump(recipe))
    (clone / "photographs").symlink_to(tiny.dataset)
    lines = commands("docs/clusters.md", "Example: a study on S3")
    assert len(lines) >= 10
    assert not any("storage" in line or "endpoint" in line for line in lines)

    output = run_all(clone, [*STORE.strip().splitlines(), *lines, "ray stop"])

    assert "s3://bucket/runs/cloud/study/report.html" in output
    assert len(list((clone / "synthetic-photographs").rglob("*.jpg"))) == 2 * 6
