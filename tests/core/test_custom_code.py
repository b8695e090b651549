"""Exceptions of custom code become errors with its location and traceback; others are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from syncclip.core import trust
from syncclip.core.custom_code import (
    MOST_FRAMES,
    TRACEBACK,
    CustomCodeError,
    custom_code_error,
    custom_code_reported,
)

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
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., object]]:
    """Functions of a trusted custom module."""
    trust.trust("mine.inner:Method")
    functions: dict[str, Callable[..., object]] = {"__name__": "mine.other"}  # type: ignore[dict-item]
    exec(compile(SOURCE, "mine/other.py", "exec"), functions)
    return functions


def described(error: BaseException) -> tuple[str, str]:
    """First line and traceback of the error."""
    line, _, trace = str(custom_code_error(error)).partition(TRACEBACK)
    return line, trace


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
def test_a_bug_is_reported_with_its_line_of_custom_code(
    custom: dict[str, Callable[..., object]], name: str, expected: str
) -> None:
    message, _ = described(raised(custom[name]))
    assert message.startswith(expected) and "\n" not in message


@pytest.mark.parametrize("error", [AssertionError(), KeyError("x"), ZeroDivisionError("by\nzero")])
def test_an_exception_of_a_library_is_reported_with_the_calling_line(
    custom: dict[str, Callable[..., object]], error: Exception
) -> None:
    def fail() -> None:
        raise error

    message, trace = described(raised(custom["called"], fail))
    assert message.startswith(f"mine/other.py, line 14, in called: {type(error).__name__}") and "\n" not in message
    assert trace.startswith('  File "mine/other.py", line 14, in called') and "in fail" in trace


def test_the_traceback_starts_at_the_first_frame_of_custom_code(custom: dict[str, Callable[..., object]]) -> None:
    def library(depth: int) -> object:
        return library(depth - 1) if depth else custom["name"]()

    message, trace = described(raised(custom["called"], lambda: library(2)))
    assert message.startswith("mine/other.py, line 5, in name: NameError")
    files = [line.split(", ")[-1] for line in trace.splitlines() if line.startswith("  File")]
    assert files[0] == "in called" and files[-1] == "in name" and "in raised" not in files
    _, trace = described(raised(custom["called"], lambda: library(50)))
    assert trace.count("  File") <= MOST_FRAMES and trace.startswith('  File "mine/other.py", line 14, in called')


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), ConnectionResetError(), MemoryError(), torch.OutOfMemoryError()]
)
def test_transient_errors_are_not_reported(custom: dict[str, Callable[..., object]], error: Exception) -> None:
    def fail() -> None:
        raise error

    assert custom_code_error(raised(custom["called"], fail)) is None


def test_the_loss_of_another_rank_is_not_reported(custom: dict[str, Callable[..., object]]) -> None:
    functions: dict[str, Callable[..., object]] = {"__name__": "torch.distributed.c10d"}  # type: ignore[dict-item]
    exec("def all_reduce():\n    raise RuntimeError('Connection closed by peer')", functions)
    assert custom_code_error(raised(custom["called"], functions["all_reduce"])) is None


def test_exceptions_of_other_code_are_unchanged() -> None:
    trust.trust("mine:Method")
    with pytest.raises(ZeroDivisionError), custom_code_reported():
        _ = 1 / 0


def test_the_block_raises_the_described_error(custom: dict[str, Callable[..., object]]) -> None:
    with pytest.raises(CustomCodeError, match="line 5, in name: NameError") as caught, custom_code_reported():
        custom["name"]()
    assert isinstance(caught.value.__cause__, NameError)
