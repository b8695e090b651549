"""Nodes on which trainings and a study's runs are placed, by their labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_head import SMALL, ray_head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.xdist_group("heads")]

DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.training import test_placement
test_placement.drive(sys.argv[1])
"""
SELECTORS: dict[str, dict[str, str]] = {
    "default": {"ray.io/market-type": "!spot"},
    "spot": {"ray.io/market-type": "spot"},
}


def market(*_: object) -> str:
    """Market type of the current node."""
    import ray

    return str(ray.get_runtime_context().get_node_labels().get("ray.io/market-type"))


def build(*_: object) -> object:
    """Build function that ends the training with the market type as its error."""
    from syncclip.core.settings import UserError

    raise UserError(market())


def run_cell(_: dict[str, object]) -> dict[str, object]:
    return {"seconds": 0.0, "error": market()}


def drive(out: str) -> None:
    """Write the market types of a training and of a study's run for each selector: {name: [training, run]}."""
    from syncclip.core.settings import UserError
    from syncclip.recipe.recipe import Recipe
    from syncclip.runtime.ray_session import ray_session
    from syncclip.studies.cells import CellRun, run_cells
    from syncclip.studies.grid import cells
    from syncclip.training.ray_train import train_on_ray
    from tests.training import fakes

    markets: dict[str, list[str | None]] = {}
    with ray_session():
        for name, selector in SELECTORS.items():
            changes = {} if name == "default" else {"label_selector": selector}
            folder = fakes.folder(f"{out}-{name}")
            try:
                train_on_ray(build, {}, folder, fakes.settings(**changes))  # type: ignore[arg-type]
            except UserError as error:
                markets[name] = [str(error)]
            recipe = Recipe.load("icons")
            recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})
            (ended,), _ = run_cells([CellRun(cells(recipe.study)[0], recipe, folder)], recipe.study, task=run_cell)
            markets[name].append(ended.error)
    Path(out).write_text(json.dumps(markets), encoding="utf-8")


def test_trainings_run_on_nodes_that_match_the_selector(tmp_path: Path) -> None:
    out = tmp_path / "markets.json"
    with ray_head("--labels=ray.io/market-type=spot") as head:
        head.join("--num-cpus=2", "--labels=ray.io/market-type=on-demand", SMALL)
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(out), str(Path(__file__).parents[2])],
            env={**os.environ, **head.to_join},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == {"default": ["on-demand"] * 2, "spot": ["spot"] * 2}
