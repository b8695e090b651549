"""Fixtures: a tiny suite of datasets, and its study."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.studies import run as running
from syncclip.studies.run import Study, study
from tests.worlds.study import run_cells_here, suite_recipe, suite_world_in


@pytest.fixture(scope="package")
def suite_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of two datasets, each with a synthetic dataset."""
    return suite_world_in(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="package")
def suite_study(suite_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study of the suite, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_cells", run_cells_here)
        return study(suite_recipe(suite_world), str(tmp_path_factory.mktemp("study")))
