"""An owner that is stopped for a minute at a point of a write changes nothing afterwards, with the real times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.object_store import s3_bucket
from tests.storage.late import Act, stopped_at
from tests.storage.test_late_writes import overwrite, prepare, remove, take_over, write, write_for_another

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.attack]


def check(folder: str, act: Act, point: int) -> None:
    prepare(folder)
    outcome = stopped_at(point, folder, act, take_over, seconds=60.0)
    assert outcome.stopped and outcome.error == "LostLockError" and outcome.at_end == outcome.at_takeover, outcome


@pytest.mark.parametrize("point", [0, 4, 6])
@pytest.mark.parametrize("act", [write, overwrite, remove], ids=lambda act: act.__name__)
def test_on_a_disk(tmp_path: Path, act: Act, point: int) -> None:
    check(str(tmp_path / "run"), act, point)


@pytest.mark.parametrize(
    ("act", "point"), [(write, 0), (write, 1), (write, 2), (write_for_another, 2), (write_for_another, 3), (remove, 0)]
)
def test_on_s3(act: Act, point: int) -> None:
    with s3_bucket() as bucket:
        check(f"{bucket}/run", act, point)
