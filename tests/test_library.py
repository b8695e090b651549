"""The public API: its names, and an example for each function."""

from __future__ import annotations

import doctest
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest

import syncclip

IN_ORDER = (
    "assess",
    "plan",
    "synth",
    "train",
    "evaluate",
    "load",
    "tune",
    "study",
    "results",
    "plot_curve",
    "compare",
    "recommend",
    "report",
)
"""The functions; examples use the output of those before them."""


def test_every_public_name_is_callable_and_the_version_is_the_distributions() -> None:
    assert {*IN_ORDER, "Model", "Recipe", "Run", "UserError", "__version__"} == set(syncclip.__all__)
    assert all(callable(getattr(syncclip, name)) for name in syncclip.__all__ if name != "__version__")
    assert syncclip.__version__ == importlib.metadata.version("syncclip")
    assert set(dir(syncclip)) >= set(syncclip.__all__)


def test_the_page_lists_the_parameters_of_each_function() -> None:
    page = (Path(__file__).parents[1] / "docs/python-api.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\((.*?)\)`", page, re.MULTILINE))
    assert set(rows) == set(IN_ORDER)
    for name, arguments in rows.items():
        parameters = inspect.signature(getattr(syncclip, name)).parameters.values()
        defaults = [
            f"{'*' * (parameter.kind is parameter.VAR_POSITIONAL)}{parameter.name}"
            + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")
            for parameter in parameters
        ]
        assert arguments.replace('"', "'") == ", ".join(defaults)


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    for name in IN_ORDER:
        (example,) = doctest.DocTestFinder(recurse=False).find(getattr(syncclip, name), name, globs={})
        assert example.examples, f"{name} has no example"
        lines: list[str] = []
        failed, _ = runner.run(example, out=lines.append)
        assert not failed, "".join(lines)
