"""The SkyPilot job, checked by SkyPilot's parser if it is installed."""

from __future__ import annotations

import shlex
from pathlib import Path
from string import Template

import pytest
import yaml
from typer.main import get_command

from syncclip.cli.app import app
from syncclip.synthesis.plan import parse_shards

FILE = Path(__file__).parents[2] / "infra" / "sky" / "synth.yaml"


def test_the_job_is_a_command_with_its_default_variables() -> None:
    job = yaml.safe_load(FILE.read_text())
    _, command, *arguments = shlex.split(Template(job["run"]).substitute(job["envs"]))
    context = get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    assert context.params["recipe"] == "recipe.yaml" and context.params["overrides"] == ["synthesis.num_gpus=1"]
    assert parse_shards(context.params["shards"], 12) == range(12)


def test_skypilot_accepts_the_job() -> None:
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(FILE))
    assert len(task.resources) == 5 and all(each.use_spot for each in task.resources)
