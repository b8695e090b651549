"""The notebooks run from top to bottom as they stand, and are stored without what they printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 1000
"""Seconds for a cell; on a busy machine the longest takes minutes."""


def text_of(notebook: nbformat.NotebookNode) -> str:
    """What the last cells of code that show something showed."""
    shown = [out.get("data", {}).get("text/plain", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    return "\n".join(shown)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_results(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("name", "shown"), [("read_a_study", "<Figure size 700x400 with 1 Axes>"), ("own_data", "'novel': ")]
)
def test_a_notebook_runs_as_it_stands(name: str, shown: str) -> None:
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)

    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(EXAMPLES)}}).execute()

    assert shown in text_of(notebook)
