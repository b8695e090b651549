"""The map over shards, in this process and on actors."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.workers.parallel import ordered_map


def square(item: int) -> int:
    if item == 5:
        raise UserError("item 5: no square")
    return item**2


def process_of(item: int) -> int:
    return os.getpid()


def kill_the_process_once(folder: Path, item: int) -> int:
    if item == 3 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_one_actor_is_this_process() -> None:
    assert set(ordered_map(process_of, range(3))) == {os.getpid()}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_actors_return_results_in_order_and_errors_unchanged(tmp_path: Path) -> None:
    assert list(ordered_map(square, [4, 3, 2, 1, 0], actors=2)) == [16, 9, 4, 1, 0]
    assert os.getpid() not in set(ordered_map(process_of, range(4), actors=2))
    results = ordered_map(square, [4, 5, 6], actors=2)
    assert next(results) == 16
    with pytest.raises(UserError, match=r"^item 5: no square$"):
        next(results)
    assert list(ordered_map(partial(kill_the_process_once, tmp_path), range(8), actors=2)) == list(range(8))
    with pytest.raises(UserError, match="--actors: 99 actors would need 99 CPUs"):
        next(ordered_map(square, [1], actors=99))
