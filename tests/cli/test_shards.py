"""`syncclip shards`: inspection, repair, merging, export, buckets, and errors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.shards.index import forget_index
from syncclip.storage import urls
from tests.cli.test_app import Outcome
from tests.object_store import faulty_bucket, s3_bucket
from tests.synthesis.conftest import digests
from tests.synthetic_sets import test_repair
from tests.synthetic_sets.test_merge import make_set
from tests.worlds.rewritten import rewrite


@pytest.fixture
def damaged(tiny_set: str, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    test_repair.flip(folder / "00001.tar", 2000)
    return folder


@pytest.mark.fault
def test_a_damaged_set_is_repaired(
    capsys: pytest.CaptureFixture[str], damaged: Path, tiny_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncclip.synthetic_sets.repair.synthesise_set", test_repair.generate_here)
    assert Outcome(capsys, "shards", "verify", str(damaged)).status == 1
    repaired = Outcome(capsys, "shards", "verify", str(damaged), "--repair")
    assert repaired.status == 0
    assert repaired.out.splitlines()[-2:] == [f"{damaged}: 1 shard regenerated", f"{damaged}: 2 shards, all intact"]
    assert digests(damaged) == digests(Path(tiny_set))
    assert Outcome(capsys, "shards", "verify", str(damaged)).status == 0


@pytest.mark.fault
def test_a_failed_repair_keeps_the_damaged_set(
    capsys: pytest.CaptureFixture[str], damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncclip.synthetic_sets.repair.synthesise_set", test_repair.generate_here)
    plan = json.loads(storage.read_bytes(str(damaged / "plan.json")))
    plan["filters"] = [{"name": "safety", "checker": "/missing", "checksum": "0" * 16}]
    rewrite(damaged / "plan.json", json.dumps(plan).encode())
    before = {file: file.read_bytes() for file in damaged.iterdir() if file.is_file()}
    error = Outcome(capsys, "shards", "verify", str(damaged), "--repair").error
    assert "filter 'safety': /missing has no safety checker" in error
    assert {file: file.read_bytes() for file in damaged.iterdir() if file.is_file()} == before
    (damaged / "plan.json").unlink()
    assert "regenerated without a plan" in Outcome(capsys, "shards", "verify", str(damaged), "--repair").error
    assert (damaged / "00001.tar").exists()


@pytest.mark.parametrize("command", ["ls", "verify", "show"])
def test_a_marker_of_a_newer_format_is_an_error(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path, command: str
) -> None:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    marker = str(folder / "00001_stats.json")
    rewrite(marker, storage.read_bytes(marker).replace(b'"format": 1', b'"format": 2'))
    forget_index(str(folder))  # contains the markers, too
    assert "00001_stats.json: format 2 is newer" in Outcome(capsys, "shards", command, str(folder)).error


def test_sets_are_merged_and_exported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sets = [make_set(f"{tmp_path}/one", (1, 2, 1)), make_set(f"{tmp_path}/two", (1, 1, 1), first=100)]
    merged = Outcome(capsys, "shards", "merge", *sets, "--out", f"{tmp_path}/all")
    assert "7 images, 3 classes, at least 2 per class" in merged.out
    assert Outcome(capsys, "shards", "verify", f"{tmp_path}/all").status == 0
    for to, file in (("folder", "a/000000000.jpg"), ("huggingface", "README.md"), ("split-zhou", "split_zhou_b.json")):
        out = f"{tmp_path}/{to}"
        outcome = Outcome(capsys, "shards", "export", f"{tmp_path}/all", "--to", to, "--out", out)
        assert "7 images" in outcome.out, outcome.err
        assert Path(out, file).exists()
    other = Outcome(capsys, "shards", "export", f"{tmp_path}/all", "--to", "tape", "--out", f"{tmp_path}/tape")
    assert "unknown layout" in other.error


def test_the_mark_and_the_licence_are_shown(capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path) -> None:
    folder, out = shutil.copytree(tiny_set, tmp_path / "set"), tmp_path / "out"
    test_repair.change_plan(folder, licence="openrail++")
    line = "provenance mark: iptc; licence of the weights: openrail++"
    assert line in Outcome(capsys, "shards", "ls", str(folder)).out
    assert line in Outcome(capsys, "shards", "export", str(folder), "--to", "huggingface", "--out", str(out)).out
    card = (out / "README.md").read_text()
    assert "| licence of the weights | openrail++ |" in card and "| licence | unknown |" in card


def test_storage_options_can_be_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    with s3_bucket("overrides") as bucket:
        make_set(f"{bucket}/set", (1, 1, 1))
        endpoint = f"storage.options.endpoint_url={urls.options_of(bucket)['endpoint_url']}"
        commands: list[tuple[list[str], str]] = [
            (["shards", "verify", f"{bucket}/set"], "1 shard, all intact"),
            (["shards", "ls", f"{bucket}/set"], "00000"),
            (["shards", "show", f"{bucket}/set", "2"], "class: 2"),
            (["shards", "export", f"{bucket}/set", "--to", "folder", "--out", f"{bucket}/out"], "3 images"),
            (["status", f"{bucket}/set"], "1 shard committed"),
        ]
        for command, output in commands:
            storage.configure({})
            assert output in Outcome(capsys, *command, endpoint).out, command


@pytest.mark.fault
def test_errors_of_a_bucket_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.storage.retries.PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    with faulty_bucket("errors") as (bucket, proxy):
        make_set(f"{bucket}/set", (1, 1, 1))
        proxy.spoil("403", 1000)
        assert re.search(r"cannot \w+ .*check the credentials", Outcome(capsys, "shards", "ls", f"{bucket}/set").error)
        proxy.spoil("500", 10_000)
        assert "try again later" in Outcome(capsys, "shards", "ls", f"{bucket}/set").error
        proxy.soothe()
        assert Outcome(capsys, "shards", "ls", f"{bucket}/set").status == 0
        assert "no committed shards" in Outcome(capsys, "shards", "ls", "s3://absent/set").error


def test_a_set_is_listed_verified_and_shown(capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path) -> None:
    listed = Outcome(capsys, "shards", "ls", tiny_set).out
    assert "00000" in listed and "00001" in listed
    assert Outcome(capsys, "shards", "verify", tiny_set).out.strip().endswith("2 shards, all intact")
    shown = Outcome(capsys, "shards", "show", tiny_set, "7", "--save", str(tmp_path / "7.jpg")).out
    assert "class: 1 (green circle)" in shown and "prompt: a photo of a green circle." in shown
    assert (tmp_path / "7.jpg").read_bytes()[:2] == b"\xff\xd8"
