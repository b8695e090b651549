"""`classify_shards`: a table and a marker for each tar, with the same bytes for any number of actors and any kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
from tests.worlds.dataset import encoded, make_image
from tests.worlds.teacher import classify_here
from tests.worlds.webdataset import tar

SHARDS, IMAGES = 5, 7
RED, BLUE = (200, 30, 30), (30, 30, 200)


@pytest.fixture
def run(train: Train) -> str:
    """A SYNC-CLIP run with prompts in both towers."""
    return train("training.method=syncclip").url


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Folder of five tars with seven images each; one image of the second tar is unreadable."""
    for shard in range(SHARDS):
        files = [encoded(make_image(number % 6, shard * IMAGES + number), "PNG") for number in range(IMAGES)]
        if shard == 1:
            files[3] = b"no image"
        tar(tmp_path / "tars" / f"{shard:05}.tar", [{"png": file} for file in files])
    return tmp_path / "tars"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Folder of two tars of equal size with two images each."""
    write_plain(tmp_path / "plain" / "a.tar", RED, BLUE)
    write_plain(tmp_path / "plain" / "b.tar", BLUE, BLUE)
    return tmp_path / "plain"


def write_plain(file: Path, *colours: tuple[int, int, int]) -> None:
    """Write a tar of single-coloured images."""
    tar(file, [{"png": encoded(Image.new("RGB", (32, 32), colour), "PNG")} for colour in colours])


class DiesOnce(ShardClassifier):
    """A worker that kills its process at the third shard, once."""

    def begin(self, shard: int) -> Computation[ShardPredictions]:
        marker = Path(self.job.out) / "died"
        if shard == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(shard)


def predictions(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*_predictions.*"))}


def problems(folder: Path) -> list[str]:
    """Problems that `verify` reports."""
    return verify(str(folder), lambda _: None).problems


def classifier(run: str, url: str, out: str) -> ShardClassifier:
    """The worker of a job, in this process."""
    names = dict.fromkeys(name for name in storage.sizes(url) if name.endswith(".tar"))
    job = _Job(
        run=run,
        url=url,
        out=out,
        tars=names,
        lock_token=None,
        job_checksum="checksum",
        top=5,
        batch=4,
        threads=1,
        device="cpu",
        classes=(),
        backbone_arguments={},
    )
    return ShardClassifier(job)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_two_actors_one_of_them_killed_write_the_bytes_of_one(
    run: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = classify_here(run, str(tars), batch=4)
    assert done == Passed(str(tars), SHARDS, SHARDS * IMAGES, 1)
    out = tmp_path / "out"
    monkeypatch.setattr("syncclip.inference.shards.ShardClassifier", DiesOnce)
    assert classify_shards(run, str(tars), str(out), batch=4, pool=Pool(2))[1:] == done[1:]
    assert (out / "died").exists() and predictions(out) == predictions(tars)


def test_tables_contain_the_predictions_of_the_model_and_are_resumed(run: str, tars: Path) -> None:
    done = classify_here(run, str(tars), batch=4)
    first = predictions(tars)
    assert len(first) == 2 * SHARDS
    (tars / f"00003{TABLE}").unlink()
    (tars / f"00004{MARKER}").write_bytes(first[f"00004{MARKER}"][:20])
    assert classify_here(run, str(tars), batch=4) == done and predictions(tars) == first

    model, rows = load(run), pq.read_table(tars / f"00001{TABLE}").to_pylist()
    assert [row["image"] for row in rows] == [f"00001.tar/s{number:07}.png" for number in range(IMAGES)]
    assert [row["error"] is not None for row in rows] == [number == 3 for number in range(IMAGES)]
    for number, row in enumerate(rows):
        if number != 3:
            labels = model.classify(make_image(number % 6, IMAGES + number))
            assert row["classes"] == [label.name for label in labels]
            assert row["probabilities"] == pytest.approx([label.probability for label in labels], abs=1e-6)
    with pytest.raises(UserError, match=f"00000{MARKER}: .* a different run, classes or settings"):
        classify_here(run, str(tars), classes=["blue car", "red car"])


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_command_is_completed_by_the_same_command(run: str, tars: Path, tmp_path: Path) -> None:
    classify_here(run, str(tars), str(tmp_path / "expected"))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "syncclip", "classify", run, str(tars), "--actors", "1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(tars.glob(f"*{MARKER}")):
            time.sleep(0.01)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert predictions(tars).items() <= predictions(tmp_path / "expected").items()
    psutil.wait_procs(children, timeout=60)
    classify_shards(run, str(tars))
    assert predictions(tars) == predictions(tmp_path / "expected")


def replace_tar(folder: Path) -> None:
    """Replace the images, and keep the size and the modification time."""
    file = folder / "a.tar"
    before = file.stat()
    write_plain(file, BLUE, RED)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_tar(folder: Path) -> None:
    data = bytearray((folder / "a.tar").read_bytes())
    data[-1] ^= 1  # in the padding
    (folder / "a.tar").write_bytes(data)


def exchange_tables(folder: Path) -> None:
    shutil.copy(folder / f"b{TABLE}", folder / f"a{TABLE}")


def exchange_markers(folder: Path) -> None:
    shutil.copy(folder / f"b{MARKER}", folder / f"a{MARKER}")


def exchange_both(folder: Path) -> None:
    exchange_tables(folder)
    exchange_markers(folder)


def zero_table(folder: Path) -> None:
    file = folder / f"a{TABLE}"
    file.write_bytes(bytes(file.stat().st_size))


def truncate_marker(folder: Path) -> None:
    file = folder / f"a{MARKER}"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "changed"),
    [
        (replace_tar, {f"a{TABLE}", f"a{MARKER}"}),
        (flip_tar, {f"a{MARKER}"}),
        *(
            (damage, set())
            for damage in (exchange_tables, exchange_markers, exchange_both, zero_table, truncate_marker)
        ),
    ],
)
def test_a_changed_tar_or_table_is_reported_and_classified_again(
    run: str, plain: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], changed: set[str]
) -> None:
    assert classify_here(run, str(plain)).shards == 2 and problems(plain) == []
    before = predictions(plain)
    damage(plain)
    (problem,) = problems(plain)
    assert f"{plain}/a" in problem
    capsys.readouterr()
    classify_here(run, str(plain))
    assert f"{plain}/a" in capsys.readouterr().err
    assert problems(plain) == []
    assert {name for name, data in predictions(plain).items() if data != before[name]} == changed
    colours = (BLUE, RED) if damage is replace_tar else (RED, BLUE)
    expected = load(run).classify([Image.new("RGB", (32, 32), colour) for colour in colours])
    rows = pq.read_table(plain / f"a{TABLE}")["probabilities"].to_pylist()
    for row, labels in zip(rows, expected, strict=True):
        assert row == pytest.approx([label.probability for label in labels], abs=1e-6)


def test_existing_predictions_are_kept(run: str, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = classify_here(run, str(plain))
    monkeypatch.setattr(ShardClassifier, "compute", None)
    assert classify_here(run, str(plain)) == done


@pytest.mark.parametrize("name", [f"a{TABLE}", f"a{MARKER}", "a.tar"])
def test_a_missing_file_is_reported(run: str, plain: Path, name: str) -> None:
    classify_here(run, str(plain))
    (plain / name).unlink()
    (problem,) = problems(plain)
    assert name in problem


def test_predictions_with_other_settings_are_reported(run: str, plain: Path) -> None:
    classify_here(run, str(plain), top=2)
    first = predictions(plain)
    for name in first:
        (plain / name).unlink()
    classify_here(run, str(plain), top=3)
    for name in (f"b{TABLE}", f"b{MARKER}"):
        (plain / name).write_bytes(first[name])
    (problem,) = problems(plain)
    assert f"b{MARKER} and " in problem and "were computed with different runs, classes or settings" in problem
    with pytest.raises(UserError, match=f"b{MARKER}: .* a different run, classes or settings"):
        classify_here(run, str(plain), top=3)


def test_predictions_in_another_folder_are_verified_without_their_tars(run: str, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    classify_here(run, str(plain), str(out))
    assert problems(out) == []
    zero_table(out)
    (problem,) = problems(out)
    assert f"{out}/a{TABLE} no longer matches" in problem


@pytest.fixture
def bucket(plain: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Bucket with the tars of `plain`."""
    with s3_bucket() as bucket:
        for name in ("a.tar", "b.tar"):
            storage.write_bytes(f"{bucket}/{name}", (plain / name).read_bytes())
        options = {"use_listings_cache": False, **urls.configured()}
        monkeypatch.setattr("syncclip.storage.urls.options_of", lambda _: options)
        yield bucket


def test_a_changed_tar_in_a_bucket_is_classified_again(run: str, plain: Path, bucket: str) -> None:
    classify_here(run, bucket)
    before = storage.read_bytes(f"{bucket}/a{MARKER}")
    assert verify(bucket, print).problems == []
    replace_tar(plain)
    storage.write_bytes(f"{bucket}/a.tar", (plain / "a.tar").read_bytes())
    (problem,) = verify(bucket, print).problems
    assert problem == f"{bucket}/a.tar differs from the tar that {bucket}/a{TABLE} was computed from"
    classify_here(run, bucket)
    assert storage.read_bytes(f"{bucket}/a{MARKER}") != before and verify(bucket, print).problems == []


@pytest.mark.parametrize("suffix", [TABLE, MARKER, ".tar"])
def test_damage_in_a_bucket_of_predictions_is_reported(run: str, bucket: str, suffix: str) -> None:
    classify_here(run, bucket)
    storage.write_bytes(f"{bucket}/b{suffix}", storage.read_bytes(f"{bucket}/b{suffix}")[:-20])
    reported = verify(bucket, print).problems
    assert reported and all(f"{bucket}/b{suffix}" in problem for problem in reported)


def test_tars_of_a_synthetic_dataset_must_match_their_commit_markers(run: str, tiny_set: str, tmp_path: Path) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    assert classify_here(run, str(url)).images == 12 and problems(url) == []
    file = url / "00001.tar"
    content = file.read_bytes()
    for name in (TABLE, MARKER):
        (url / f"00001{name}").unlink()
    for damaged in (content[:-1] + b"1", content[:-100]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"00001\.tar does not match its commit marker"):
            classify_here(run, str(url))
    file.write_bytes(content)
    classify_here(run, str(url))
    assert problems(url) == []


def test_an_unreachable_tar_fails_its_shard(
    run: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row with an error is permanent, so an outage of the object store must not produce one."""
    monkeypatch.setattr(retries, "PAUSES", (0.01,))
    with faulty_bucket() as (bucket, proxy):
        for name in ("00000.tar", "00001.tar"):
            storage.write_bytes(f"{bucket}/tars/{name}", (tars / name).read_bytes())
        options = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
        with Session({**urls.configured(), **options}):
            worker = classifier(run, f"{bucket}/tars", str(tmp_path / "out"))
            worker.model()
            proxy.spoil("500", times=10_000, method="GET")
            report = worker.commit(worker.begin(0))
            assert report.error and not report.fatal and not any((tmp_path / "out").glob("*"))
            proxy.soothe()
            report = worker.commit(worker.begin(1))
            assert (report.error, report.images) == ("", IMAGES)
            assert pq.read_table(tmp_path / "out" / f"00001{TABLE}")["error"].null_count == IMAGES - 1


def test_a_folder_without_tars_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tars in this folder"):
        classify_shards("run", str(tmp_path))


def test_a_missing_clip_is_a_fatal_error(tiny: TinyWorld, run: str, tars: Path) -> None:
    worker = classifier(run, str(tars), str(tars))
    worker.job.backbone_arguments.update(backbone=f"{tiny.backbone}/gone")  # type: ignore[attr-defined]
    report = worker.commit(worker.begin(0))
    assert report.fatal and "gone" in report.error
