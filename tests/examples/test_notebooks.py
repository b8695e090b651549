"""The notebooks run from top to bottom, and are stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT = 1000
"""Seconds per cell; on a busy machine the longest takes minutes."""


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("name", "expected"), [("read_a_study", "<Figure size 700x400 with 1 Axes>"), ("own_data", "'novel': ")]
)
def test_a_notebook_runs(name: str, expected: str) -> None:
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)

    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(EXAMPLES)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any(expected in output.get("data", {}).get("text/plain", "") for output in outputs)
