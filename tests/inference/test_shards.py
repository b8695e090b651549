"""Shards classified on Ray: the same bytes for any number of actors and after any kill, a table and marker each."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.inference.model import load
from syncclip.inference.passes import Passed
from syncclip.inference.shards import MARKER, TABLE, ShardClassifier, _Job, classify_shards
from syncclip.storage import faults, places
from syncclip.synthesis.settings import Pool
from syncclip.synthesis.status import Report
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.object_store import faulty_bucket
from tests.worlds.dataset import make_image

SHARDS, IMAGES = 5, 7


@pytest.fixture
def run(train: Train) -> str:
    """A run of one step, with everything learned."""
    return train("training.method=syncclip").url


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Five tars of seven images; one of the second can't be read."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number in range(IMAGES):
                data = io.BytesIO()
                make_image(number % 6, shard * IMAGES + number).save(data, "PNG")
                content = b"no image" if (shard, number) == (1, 3) else data.getvalue()
                header = tarfile.TarInfo(f"{number:09}.png")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return folder


class DiesOnce(ShardClassifier):
    """Kills its process at the third shard, the first time."""

    def generate(self, shard: int) -> tuple[Report, pa.Table | None]:
        mark = Path(self.job.out) / "died"
        if shard == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(shard)


def answers(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*_answers.*"))}


def in_this_process(run: str, url: str, out: str) -> ShardClassifier:
    sizes = {name: size for name, size in storage.sizes(url).items() if name.endswith(".tar")}
    asked = {"asked": "asked", "top": 5, "batch": 4, "threads": 1, "device": "cpu", "classes": (), "places": {}}
    return ShardClassifier(_Job(run=run, url=url, out=out, sizes=sizes, lease=None, **asked))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_actors_writes_what_the_model_says(run: str, tars: Path, tmp_path: Path) -> None:
    done = classify_shards(run, str(tars), batch=4)
    assert done == Passed(str(tars), SHARDS, SHARDS * IMAGES, 1)
    one = answers(tars)
    assert classify_shards(run, str(tars), str(tmp_path / "two"), batch=4, pool=Pool(2))[1:] == done[1:]
    assert answers(tmp_path / "two") == one and len(one) == 2 * SHARDS
    (tars / "00003_answers.parquet").unlink()
    (tars / "00004_answers.json").write_bytes(one["00004_answers.json"][:20])
    assert classify_shards(run, str(tars), batch=4) == done and answers(tars) == one

    model, rows = load(run), pq.read_table(tars / f"00001{TABLE}").to_pylist()
    assert [row["image"] for row in rows] == [f"00001.tar/{number:09}.png" for number in range(IMAGES)]
    assert [row["error"] is not None for row in rows] == [number == 3 for number in range(IMAGES)]
    for number, row in enumerate(rows):
        if number != 3:
            labels = model.classify(make_image(number % 6, IMAGES + number))
            assert row["classes"] == [label.name for label in labels]
            assert row["probabilities"] == pytest.approx([label.probability for label in labels], abs=1e-6)
    with pytest.raises(UserError, match=r"00000_answers.json: these answers are of another run, other classes or set"):
        classify_shards(run, str(tars), classes=["blue car", "red car"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_killed_on_its_way_costs_no_byte(
    run: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify_shards(run, str(tars), str(tmp_path / "quiet"))
    monkeypatch.setattr("syncclip.inference.shards.ShardClassifier", DiesOnce)
    classify_shards(run, str(tars))
    (tars / "died").unlink()
    assert answers(tars) == answers(tmp_path / "quiet")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_a_command_killed_on_its_way_is_completed_by_the_same_one(run: str, tars: Path, tmp_path: Path) -> None:
    classify_shards(run, str(tars), str(tmp_path / "quiet"))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "syncclip", "classify", run, str(tars), "--actors", "1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(tars.glob(f"*{MARKER}")):
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert answers(tars).items() <= answers(tmp_path / "quiet").items()
    psutil.wait_procs(family, timeout=60)
    classify_shards(run, str(tars))
    assert answers(tars) == answers(tmp_path / "quiet")


def test_a_tar_that_has_changed_is_classified_again(run: str, tars: Path) -> None:
    worker = in_this_process(run, str(tars), str(tars))
    assert [worker.commit(worker.generate(shard)).error for shard in range(SHARDS)] == [""] * SHARDS
    assert worker.job.left() == []
    shutil.copy(tars / "00000.tar", tars / "00002.tar")
    with (tars / "00002.tar").open("ab") as file:
        file.write(bytes(10240))
    assert in_this_process(run, str(tars), str(tars)).job.left() == [2]


def test_an_image_that_can_not_be_reached_fails_its_shard(
    run: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row says for good that an image can't be read; a store that is away for an hour is no reason for one."""
    monkeypatch.setattr(faults, "PAUSES", (0.01,))
    monkeypatch.setattr(places, "_given", {})
    with faulty_bucket() as (bucket, proxy):
        for name in ("00000.tar", "00001.tar"):
            storage.write_bytes(f"{bucket}/tars/{name}", (tars / name).read_bytes())
        monkeypatch.setitem(places._options, "config_kwargs", {"retries": {"total_max_attempts": 1}})
        worker = in_this_process(run, f"{bucket}/tars", str(tmp_path / "out"))
        worker.model()
        proxy.spoil("500", times=10_000, method="GET")
        report = worker.commit(worker.generate(0))
        assert report.error and not report.fatal and not any((tmp_path / "out").glob("*"))
        proxy.soothe()
        report = worker.commit(worker.generate(1))
        assert (report.error, report.images) == ("", IMAGES)
        assert pq.read_table(tmp_path / "out" / f"00001{TABLE}")["error"].null_count == IMAGES - 1


@pytest.mark.usefixtures("tiny")
def test_a_folder_without_tars_is_refused(run: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no tar is in this folder; give the folder of the shards"):
        classify_shards(run, str(tmp_path / "empty"))


def test_a_clip_that_is_gone_is_told_of(tiny: TinyWorld, run: str, tars: Path) -> None:
    worker = in_this_process(run, str(tars), str(tars))
    worker.job.places.update(backbone=f"{tiny.backbone}/gone")  # type: ignore[attr-defined]
    report = worker.commit(worker.generate(0))
    assert report.fatal and "gone" in report.error
