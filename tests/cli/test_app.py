from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip.cli import app
from syncclip.storage.status_file import keep_status_file
from syncclip.synthesis.status import SynthesisStatus, status_url
from syncclip.training.run_folder import RunFolder, RunRecord
from tests.conftest import TinyWorld
from tests.shards.sets import write_set


class Outcome:
    """Exit status, stdout and stderr of one command run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        capsys.readouterr()
        self.status = app.run(list(arguments))
        self.out, self.err = capsys.readouterr()

    @property
    def refusal(self) -> str:
        """The one sentence of a user's mistake; only lines of progress may stand before it."""
        assert self.status == 2
        *before, last = self.err.splitlines()
        assert last.startswith("syncclip: "), self.err
        assert all(line.startswith("synth: ") for line in before), self.err
        return last.removeprefix("syncclip: ")


def imported_by(*arguments: str) -> tuple[set[str], str]:
    """What a command has imported when it ends, of what takes long to import, and what it printed."""
    code = (
        f"import sys\nfrom syncclip.cli import app\nassert app.run({list(arguments)!r}) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"torch", "ray", "pandas", "numpy"} & set(done.stderr.split()), done.stdout


def test_help_needs_neither_torch_nor_ray() -> None:
    heavy, shown = imported_by("--help")
    assert not heavy
    assert all(name in shown for name in ("demo", "synth", "train", "evaluate", "study", "report", "shards", "plan"))
    assert "benchmarks" not in shown


def test_what_tells_of_files_needs_no_torch(tmp_path: Path) -> None:
    RunFolder(str(tmp_path / "run"), "run", "0").write(RunRecord(name="run", recipe_hash="0", total_steps=20))
    write_set(str(tmp_path / "set"), classes=2, rounds=1)
    with keep_status_file(status_url(str(tmp_path / "synthetic")), SynthesisStatus.begin(96, 96, 1)):
        pass
    for arguments, shown in (
        (("status", str(tmp_path / "run")), "0 of 20 steps"),
        (("status", str(tmp_path)), "complete: 96 of 96 images"),
        (("shards", "ls", str(tmp_path / "set")), "00000"),
        (("datasets", "ls"), "caltech101"),
    ):
        heavy, printed = imported_by(*arguments)
        assert shown in printed
        assert not heavy - {"numpy"}, arguments


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "--version")
    assert outcome.status == 0
    assert re.fullmatch(r"syncclip (\d+\.\d+\.\d+\S*|\(not installed\))", outcome.out.strip())


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert Outcome(capsys, "trian").refusal == "there is no command 'trian'; did you mean 'train'?"


@pytest.mark.parametrize("arguments", [["train"], ["synth", "icons", "--bogus"], ["shards", "lss"], ["shards"]])
def test_a_wrong_call_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert Outcome(capsys, *arguments).refusal


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("synthesis.images_per_clas=3", "command line: synthesis.images_per_clas: no such key; did you mean"),
        ("synthesis.images_per_class=many", "it must be a whole number"),
        ("synthesis.images_per_class=0", "0 images per class"),
        ("synthesis.generator.pipeline=/no/such/folder", "/no/such/folder"),
        ("dataset.name=icns", "did you mean 'icons'"),
        ("dataset.name=/no/such/folder", "/no/such/folder"),
        ("training.method=synclip", "did you mean 'syncclip'"),
        ("synthesis.actors=4096", "4,096 actors"),
    ],
)
@pytest.mark.usefixtures("no_ray_yet")
def test_synth_refuses_bad_input_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path, override: str, part: str
) -> None:
    assert part in Outcome(capsys, "synth", tiny.recipe, "--out", str(tmp_path / "set"), override).refusal
    assert not (tmp_path / "set" / "plan.json").exists()


def test_a_missing_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'icons'" in Outcome(capsys, "synth", "icon").refusal
    assert "no such file" in Outcome(capsys, "train", "/no/such.yaml").refusal


def test_training_before_synthesis_is_refused(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    assert "first run `syncclip synth" in Outcome(capsys, "train", tiny.recipe, "--out", str(tmp_path)).refusal


def test_a_folder_without_a_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no run there" in Outcome(capsys, "evaluate", str(tmp_path)).refusal
    assert str(tmp_path) in Outcome(capsys, "report", str(tmp_path)).refusal
    assert "no committed shard" in Outcome(capsys, "shards", "ls", str(tmp_path)).refusal


def test_a_folder_that_may_not_be_written_to_is_refused(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")  # root may write anywhere else, also where the mode forbids it
    outcome = Outcome(capsys, "synth", tiny.recipe, "--out", str(tmp_path / "file" / "set"))
    assert "Not a directory; choose a place" in outcome.refusal


def test_debug_shows_where_a_mistake_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCCLIP_DEBUG", "0")
    with pytest.raises(ValueError, match="there is no recipe"):
        app.run(["synth", "icon", "--debug"])


def test_an_interrupt_is_no_mistake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "app", interrupted)
    outcome = Outcome(capsys, "synth", "icons")
    assert outcome.status == 130
    assert "the same command resumes" in outcome.err


def test_a_mistake_inside_a_worker_is_told_like_any_other() -> None:
    class WrappedError(Exception):
        cause = ValueError("the generator\nis gone")

    assert app.sentence(WrappedError()) == "the generator is gone"
    assert app.sentence(RuntimeError("a defect")) is None


def test_plan_shows_images_shards_and_prompts(capsys: pytest.CaptureFixture[str], tiny: TinyWorld) -> None:
    outcome = Outcome(capsys, "plan", tiny.recipe, "synthesis.images_per_class=3")
    assert outcome.status == 0
    assert "a photo of a blue square." in outcome.out
    assert "6 classes x 3 images = 18 images in 3 shards of up to 6" in outcome.out


def test_a_set_can_be_listed_verified_and_looked_into(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path
) -> None:
    listed = Outcome(capsys, "shards", "ls", tiny_set).out
    assert "00000" in listed
    assert "00001" in listed
    assert Outcome(capsys, "shards", "verify", tiny_set).out.strip().endswith("2 shards, all sound")
    shown = Outcome(capsys, "shards", "show", tiny_set, "7", "--save", str(tmp_path / "7.jpg")).out
    assert "prompt: a photo of a green circle." in shown
    assert (tmp_path / "7.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_a_damaged_set_fails_verification_with_status_one(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path
) -> None:
    import shutil

    damaged = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    data = bytearray((damaged / "00001.tar").read_bytes())
    data[2000] ^= 1
    (damaged / "00001.tar").write_bytes(data)
    outcome = Outcome(capsys, "shards", "verify", str(damaged))
    assert outcome.status == 1
    assert "00001.tar" in outcome.out


def test_another_plan_in_the_same_folder_is_refused(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str
) -> None:
    refusal = Outcome(capsys, "synth", tiny.recipe, "--out", tiny_set, "synthesis.seed=5").refusal
    assert "seed is 0 there and 5 here" in refusal


def test_a_set_that_is_there_is_not_drawn_again(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str
) -> None:
    outcome = Outcome(capsys, "synth", tiny.recipe, "--out", tiny_set)
    assert outcome.status == 0
    assert "all 12 images are there already" in outcome.err


def test_the_command_of_the_package_is_the_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "syncclip", "--version"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])},
        cwd=tmp_path,
    )
    assert done.stdout.startswith("syncclip ")
