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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from syncclip import storage
from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.inference.model import load
from syncclip.inference.passes import Passed, ShardPredictions
from syncclip.inference.shards import MARKER, TABLE, ShardClassifier, _Job, classify_shards
from syncclip.storage import retries, urls
from syncclip.verify import verify
from syncclip.workers.job import Computation
from syncclip.workers.settings import Pool
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.object_store import faulty_bucket, s3_bucket
from tests.worlds.dataset import make_image
from tests.worlds.teacher import classify_here

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

    def begin(self, shard: int) -> Computation[ShardPredictions]:
        mark = Path(self.job.out) / "died"
        if shard == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(shard)


def predictions(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*_predictions.*"))}


def in_this_process(run: str, url: str, out: str) -> ShardClassifier:
    tars = dict.fromkeys(name for name in storage.sizes(url) if name.endswith(".tar"))
    asked = {"asked": "asked", "top": 5, "batch": 4, "threads": 1, "device": "cpu", "classes": (), "places": {}}
    return ShardClassifier(_Job(run=run, url=url, out=out, tars=tars, lock_token=None, **asked))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_actors_writes_what_the_model_says(run: str, tars: Path, tmp_path: Path) -> None:
    done = classify_shards(run, str(tars), batch=4)
    assert done == Passed(str(tars), SHARDS, SHARDS * IMAGES, 1)
    one = predictions(tars)
    assert classify_shards(run, str(tars), str(tmp_path / "two"), batch=4, pool=Pool(2))[1:] == done[1:]
    assert predictions(tmp_path / "two") == one and len(one) == 2 * SHARDS
    (tars / "00003_predictions.parquet").unlink()
    (tars / "00004_predictions.json").write_bytes(one["00004_predictions.json"][:20])
    assert classify_shards(run, str(tars), batch=4) == done and predictions(tars) == one

    model, rows = load(run), pq.read_table(tars / f"00001{TABLE}").to_pylist()
    assert [row["image"] for row in rows] == [f"00001.tar/{number:09}.png" for number in range(IMAGES)]
    assert [row["error"] is not None for row in rows] == [number == 3 for number in range(IMAGES)]
    for number, row in enumerate(rows):
        if number != 3:
            labels = model.classify(make_image(number % 6, IMAGES + number))
            assert row["classes"] == [label.name for label in labels]
            assert row["probabilities"] == pytest.approx([label.probability for label in labels], abs=1e-6)
    with pytest.raises(
        UserError, match=r"00000_predictions.json: these predictions are of another run, other classes or set"
    ):
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
    assert predictions(tars) == predictions(tmp_path / "quiet")


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
    assert predictions(tars).items() <= predictions(tmp_path / "quiet").items()
    psutil.wait_procs(family, timeout=60)
    classify_shards(run, str(tars))
    assert predictions(tars) == predictions(tmp_path / "quiet")


def tar_of(*colours: tuple[int, int, int]) -> bytes:
    """A tar of plain images of equal size, padded as tars are."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, colour in enumerate(colours):
            data = io.BytesIO()
            Image.new("RGB", (32, 32), colour).save(data, "PNG")
            header = tarfile.TarInfo(f"{number:09}.png")
            header.size = len(data.getvalue())
            tar.addfile(header, io.BytesIO(data.getvalue()))
    return file.getvalue()


def verified(folder: Path) -> list[str]:
    """The problems that `verify` reports."""
    return verify(str(folder), lambda _: None).problems


RED, BLUE = (200, 30, 30), (30, 30, 200)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder of two tars of two images each, of the same size."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for name, colours in (("a.tar", (RED, BLUE)), ("b.tar", (BLUE, BLUE))):
        (folder / name).write_bytes(tar_of(*colours))
    return folder


def exchange_tar(folder: Path) -> None:
    """Other images, size and time stamp as before."""
    tar = folder / "a.tar"
    before, size = tar.stat(), len(tar.read_bytes())
    tar.write_bytes(tar_of(BLUE, RED))
    assert tar.stat().st_size == size
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_tar(folder: Path) -> None:
    data = bytearray((folder / "a.tar").read_bytes())
    data[-1] ^= 1  # within the padding
    (folder / "a.tar").write_bytes(data)


def exchange_tables(folder: Path) -> None:
    shutil.copy(folder / f"b{TABLE}", folder / f"a{TABLE}")


def exchange_files(folder: Path) -> None:
    for ending in (TABLE, MARKER):
        shutil.copy(folder / f"b{ending}", folder / f"a{ending}")


def exchange_markers(folder: Path) -> None:
    shutil.copy(folder / f"b{MARKER}", folder / f"a{MARKER}")


def zero_table(folder: Path) -> None:
    file = folder / f"a{TABLE}"
    file.write_bytes(bytes(file.stat().st_size))


def truncate_marker(folder: Path) -> None:
    file = folder / f"a{MARKER}"
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = [exchange_tar, flip_tar, exchange_tables, exchange_files, exchange_markers, zero_table, truncate_marker]


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_content_of_a_tar_or_of_predictions_is_reported_and_computed_again(
    run: str, plain: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    assert classify_here(run, str(plain)).shards == 2 and verified(plain) == []
    before = predictions(plain)
    damage(plain)
    assert len(verified(plain)) == 1 and f"{plain}/a" in verified(plain)[0]
    capsys.readouterr()
    classify_here(run, str(plain))
    assert f"{plain}/a" in capsys.readouterr().err
    assert verified(plain) == []
    changed = {name for name, data in predictions(plain).items() if data != before[name]}
    expected = {exchange_tar: {f"a{TABLE}", f"a{MARKER}"}, flip_tar: {f"a{MARKER}"}}
    assert changed == expected.get(damage, set())
    probabilities = pq.read_table(plain / f"a{TABLE}")["probabilities"].to_pylist()
    images = [Image.new("RGB", (32, 32), c) for c in ((BLUE, RED) if damage is exchange_tar else (RED, BLUE))]
    expected_rows = [[label.probability for label in load(run).classify(image)] for image in images]
    for row, right in zip(probabilities, expected_rows, strict=True):
        assert row == pytest.approx(right, abs=1e-6)


def test_what_is_there_is_not_computed_again(run: str, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = classify_here(run, str(plain))
    monkeypatch.setattr(ShardClassifier, "compute", None)
    assert classify_here(run, str(plain)) == done


@pytest.mark.parametrize("gone", [f"a{TABLE}", f"a{MARKER}", "a.tar"])
def test_a_missing_file_is_reported(run: str, plain: Path, gone: str) -> None:
    classify_here(run, str(plain))
    (plain / gone).unlink()
    assert [gone in problem for problem in verified(plain)] == [True]


def test_a_tar_without_predictions_and_those_of_another_run_are_reported(run: str, plain: Path) -> None:
    classify_here(run, str(plain), top=2)
    other = {name: (plain / name).read_bytes() for name in (f"b{TABLE}", f"b{MARKER}")}
    for name in other:
        (plain / name).unlink()
    assert [f"b{TABLE} is missing" in problem for problem in verified(plain)] == [True]
    (plain / f"a{TABLE}").unlink(), (plain / f"a{MARKER}").unlink()
    classify_here(run, str(plain), top=3)
    for name, data in other.items():
        (plain / name).write_bytes(data)
    (problem,) = verified(plain)
    assert "b_predictions.json is of another run, other classes or settings" in problem
    with pytest.raises(UserError, match=r"b_predictions\.json: these predictions are of another run, other classes"):
        classify_here(run, str(plain), top=3)


def test_predictions_in_another_folder_are_verified_without_their_tars(run: str, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    classify_here(run, str(plain), str(out))
    assert verified(out) == []
    zero_table(out)
    assert [f"{out}/a{TABLE} no longer matches" in problem for problem in verified(out)] == [True]


def test_a_tar_of_a_bucket_that_has_changed_is_classified_again(run: str, plain: Path) -> None:
    with s3_bucket() as bucket:
        for name in ("a.tar", "b.tar"):
            storage.write_bytes(f"{bucket}/{name}", (plain / name).read_bytes())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("syncclip.storage.urls.options_of", _with(urls.configured()))
            classify_here(run, bucket)
            before = storage.read_bytes(f"{bucket}/a{MARKER}")
            assert verify(bucket, print).problems == []
            exchange_tar(plain)
            storage.write_bytes(f"{bucket}/a.tar", (plain / "a.tar").read_bytes())
            (problem,) = verify(bucket, print).problems
            assert problem == f"{bucket}/a.tar is not the tar that {bucket}/a{TABLE} was computed from"
            classify_here(run, bucket)
            assert storage.read_bytes(f"{bucket}/a{MARKER}") != before and verify(bucket, print).problems == []


def _with(options: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    return lambda url: {"use_listings_cache": False, **options}


def test_a_tar_of_a_set_is_compared_with_its_commit_marker(run: str, tiny_set: str, tmp_path: Path) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    assert classify_here(run, str(url)).images == 12 and verified(url) == []
    tar = url / "00001.tar"
    whole = tar.read_bytes()
    for file in url.glob("00001_predictions.*"):
        file.unlink()
    tar.write_bytes(whole[:-1] + b"1")
    with pytest.raises(UserError, match=r"00001\.tar does not match its commit marker; see"):
        classify_here(run, str(url))
    tar.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"00001\.tar does not match its commit marker; see"):
        classify_here(run, str(url))
    tar.write_bytes(whole)
    classify_here(run, str(url))
    assert verified(url) == []


def test_an_image_that_can_not_be_reached_fails_its_shard(
    run: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row says for good that an image can't be read; a store that is away for an hour is no reason for one."""
    monkeypatch.setattr(retries, "PAUSES", (0.01,))
    with faulty_bucket() as (bucket, proxy):
        for name in ("00000.tar", "00001.tar"):
            storage.write_bytes(f"{bucket}/tars/{name}", (tars / name).read_bytes())
        once = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
        with Session({**urls.configured(), **once}):  # as an actor receives it
            worker = in_this_process(run, f"{bucket}/tars", str(tmp_path / "out"))
            worker.model()
            proxy.spoil("500", times=10_000, method="GET")
            report = worker.commit(worker.begin(0))
            assert report.error and not report.fatal and not any((tmp_path / "out").glob("*"))
            proxy.soothe()
            report = worker.commit(worker.begin(1))
            assert (report.error, report.images) == ("", IMAGES)
            assert pq.read_table(tmp_path / "out" / f"00001{TABLE}")["error"].null_count == IMAGES - 1


@pytest.mark.usefixtures("tiny")
def test_a_folder_without_tars_is_refused(run: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no tar in this folder; give the folder of the shards"):
        classify_shards(run, str(tmp_path / "empty"))


def test_a_clip_that_is_gone_is_told_of(tiny: TinyWorld, run: str, tars: Path) -> None:
    worker = in_this_process(run, str(tars), str(tars))
    worker.job.places.update(backbone=f"{tiny.backbone}/gone")  # type: ignore[attr-defined]
    report = worker.commit(worker.begin(0))
    assert report.fatal and "gone" in report.error
