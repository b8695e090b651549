"""The library as its users import it: names at the top, each with an example that runs."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import syncclip

IN_ORDER = ("plan", "synth", "train", "evaluate", "load", "tune", "study", "report")
"""The functions; the example of each may need what those before it wrote."""


def test_every_name_at_the_top_is_there_and_every_function_callable() -> None:
    assert {*IN_ORDER, "Model", "Recipe", "Run", "UserError"} == set(syncclip.__all__)
    assert all(callable(getattr(syncclip, name)) for name in syncclip.__all__)
    assert set(dir(syncclip)) >= set(syncclip.__all__)


@pytest.mark.ray
@pytest.mark.slow
def test_the_examples_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    for name in IN_ORDER:
        function = getattr(syncclip, name)
        (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
        assert example.examples, f"{name} has no example"
        lines: list[str] = []
        failed, _ = runner.run(example, out=lines.append)
        assert not failed, "".join(lines)
