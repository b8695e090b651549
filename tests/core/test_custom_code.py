"""Exceptions of the user's own code become one line; others stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from syncclip.core import trust
from syncclip.core.custom_code import CustomCodeError, custom_code_error, custom_code_reported

SOURCE = """
import torch

def name():
    return undefined

def shape():
    return torch.zeros(2) @ torch.zeros(3)

def missing_file():
    return open("no/such/file")

def called(function):
    return function()
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., object]]:
    """The functions of a module of the user's own that is trusted."""
    trust.trust("mine.inner:Method")
    functions: dict[str, Callable[..., object]] = {"__name__": "mine.other"}  # type: ignore[dict-item]
    exec(compile(SOURCE, "mine/other.py", "exec"), functions)
    return functions


def raised(function: Callable[..., object], *arguments: object) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("name", "mine/other.py, line 5, in name: NameError: name 'undefined' is not defined"),
        ("shape", "mine/other.py, line 8, in shape: RuntimeError: inconsistent tensor size"),
        ("missing_file", "mine/other.py, line 11, in missing_file: FileNotFoundError: [Errno 2] No such file"),
    ],
)
def test_a_bug_is_reported_by_its_last_line_of_own_code(
    mine: dict[str, Callable[..., object]], name: str, expected: str
) -> None:
    sentence = str(custom_code_error(raised(mine[name])))
    assert sentence.startswith(expected) and "\n" not in sentence


@pytest.mark.parametrize("error", [AssertionError(), KeyError("x"), ZeroDivisionError("by\nzero")])
def test_an_exception_of_a_callee_is_reported_at_the_line_that_called_it(
    mine: dict[str, Callable[..., object]], error: Exception
) -> None:
    def fail() -> None:
        raise error

    sentence = str(custom_code_error(raised(mine["called"], fail)))
    assert sentence.startswith(f"mine/other.py, line 14, in called: {type(error).__name__}") and "\n" not in sentence


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), ConnectionResetError(), MemoryError(), torch.OutOfMemoryError()]
)
def test_what_a_retry_may_cure_is_left_to_it(mine: dict[str, Callable[..., object]], error: Exception) -> None:
    def fail() -> None:
        raise error

    assert custom_code_error(raised(mine["called"], fail)) is None


def test_a_lost_rank_is_no_bug_of_the_code_that_waited_for_it(mine: dict[str, Callable[..., object]]) -> None:
    functions: dict[str, Callable[..., object]] = {"__name__": "torch.distributed.c10d"}  # type: ignore[dict-item]
    exec("def all_reduce():\n    raise RuntimeError('Connection closed by peer')", functions)
    assert custom_code_error(raised(mine["called"], functions["all_reduce"])) is None


def test_a_defect_of_other_code_stays_as_it_is() -> None:
    trust.trust("mine:Method")
    with pytest.raises(ZeroDivisionError), custom_code_reported():
        _ = 1 / 0


def test_the_block_raises_the_line_from_the_exception(mine: dict[str, Callable[..., object]]) -> None:
    with pytest.raises(CustomCodeError, match="line 5, in name: NameError") as caught, custom_code_reported():
        mine["name"]()
    assert isinstance(caught.value.__cause__, NameError)
