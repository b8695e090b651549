from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip.cli import app
from syncclip.core import trust
from syncclip.core.settings import UserError
from syncclip.core.trust import trusted
from syncclip.storage.status_file import keep_status_file
from syncclip.synthesis.status import STATUS_NAME, SynthesisStatus
from syncclip.training.run_folder import RunFolder, RunRecord
from tests.object_store import ENVIRONMENT
from tests.shards.sets import write_set
from tests.worlds.dataset import folder_of_folders

PROGRESS = ("synth: ", "train: ", "study: ", "tune: ", "verify: ")
"""How lines of progress begin."""

HEAVY = {"torch", "torchvision", "ray", "pandas", "pyarrow", "numpy", "transformers", "open_clip"}
"""What takes long to import."""


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
        assert all(line.startswith(PROGRESS) for line in before), self.err
        return last.removeprefix("syncclip: ")


def imported_by(*arguments: str, status: int = 0) -> tuple[set[str], str]:
    """What a command has imported when it ends, of what takes long to import, and what it printed."""
    code = (
        f"import sys\nfrom syncclip.cli import app\nassert app.run({list(arguments)!r}) == {status}\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split()), done.stdout


def test_help_needs_neither_torch_nor_ray() -> None:
    heavy, shown = imported_by("--help")
    assert not heavy
    assert all(name in shown for name in ("demo", "synth", "train", "evaluate", "study", "report", "shards", "plan"))
    assert "benchmarks" not in shown


def test_what_tells_of_files_needs_no_torch(tmp_path: Path) -> None:
    RunFolder(str(tmp_path / "run"), "run", "0").write(RunRecord(name="run", recipe_hash="0", total_steps=20))
    write_set(str(tmp_path / "set"), classes=2, rounds=1)
    own = folder_of_folders(tmp_path / "own", per_class=6)
    with keep_status_file(
        str(tmp_path / "synthetic" / STATUS_NAME), SynthesisStatus.begin(planned=96, images=96, most=1)
    ):
        pass
    for arguments, shown in (
        (("status", str(tmp_path / "run")), "0 of 20 steps"),
        (("status", str(tmp_path)), "complete: 96 of 96 images"),
        (("shards", "ls", str(tmp_path / "set")), "00000"),
        (("datasets", "ls"), "caltech101"),
        (("recipe", "explain", "training.epochs"), "default 10"),
        (("plan", "travel"), "224 images"),
        (("init", str(own), "--out", str(tmp_path / "own.yaml")), "own.yaml"),
    ):
        heavy, printed = imported_by(*arguments)
        assert shown in printed
        assert not heavy - {"numpy"}, arguments


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "synth", "train", "study"])
def test_a_recipe_is_refused_before_the_rest_of_the_library_is_imported(command: str) -> None:
    heavy, _ = imported_by(command, "icons", "training.epocks=3", status=2)
    assert not heavy - {"numpy"}


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "--version")
    assert outcome.status == 0
    assert re.fullmatch(r"syncclip (\d+\.\d+\.\d+\S*|\(not installed\))", outcome.out.strip())


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert Outcome(capsys, "trian").refusal == "there is no command 'trian'; did you mean 'train'?"


@pytest.mark.parametrize("arguments", [["train"], ["synth", "icons", "--bogus"], ["shards", "lss"], ["shards"]])
def test_a_wrong_call_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert Outcome(capsys, *arguments).refusal


def test_a_missing_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'icons'" in Outcome(capsys, "synth", "icon").refusal
    assert "no such file" in Outcome(capsys, "train", "/no/such.yaml").refusal


def test_a_folder_without_a_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no run found" in Outcome(capsys, "evaluate", str(tmp_path)).refusal
    assert str(tmp_path) in Outcome(capsys, "report", str(tmp_path)).refusal
    assert "no committed shard" in Outcome(capsys, "shards", "ls", str(tmp_path)).refusal


@pytest.mark.parametrize("command", [["report"], ["init"], ["shards", "ls"], ["shards", "verify"]])
def test_links_in_a_loop_are_told_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    sentence = f"{loop}: symbolic links form a loop; remove the link, or use another path"
    assert Outcome(capsys, *command, str(loop)).refusal == sentence


def test_debug_shows_where_a_mistake_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCCLIP_DEBUG", "0")
    with pytest.raises(ValueError, match="unknown recipe"):
        app.run(["--debug", "synth", "icon"])


@pytest.mark.parametrize("option", ["--trust", "--storage", "--debug", "--grace"])
def test_an_option_of_all_commands_goes_before_the_command(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert Outcome(capsys, "plan", "icons", option, "a:b").refusal.startswith(f"{option} goes before the command")
    assert "SYNCCLIP_DEBUG" not in os.environ
    assert trusted() == ()


@pytest.mark.parametrize("grace", ["nan", "-1", "1e30", "soon"])
def test_a_grace_is_a_number_of_seconds(capsys: pytest.CaptureFixture[str], grace: str) -> None:
    assert "--grace" in Outcome(capsys, "--grace", grace, "plan", "icons").refusal


def test_a_command_trusts_the_named_code_until_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def load(*_: object, **__: object) -> None:
        names.extend(trusted())
        raise UserError("not loaded")

    monkeypatch.setattr("syncclip.Recipe.load", load)
    Outcome(capsys, "--trust", "compile_cache:s3://bucket/code", "--trust", "a.b:C", "plan", "icons")
    assert names == ["compile_cache:s3://bucket/code", "a.b:C"] and trusted() == ()


@pytest.mark.parametrize("name", ["--class=cat.jpg", "--pretrained=theirs.jpg", "-x.jpg"])
def test_an_option_that_a_file_name_gives_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert f"{name!r} is an option and the name of a file here" in Outcome(capsys, "classify", "run", name).refusal
    for words in (["--", name], [f"./{name}"]):
        assert "run" in Outcome(capsys, "classify", "run", *words).refusal


def test_an_override_that_a_file_name_gives_trusts_no_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training.method=evil:X").touch()
    for command in ("status", "evaluate", "train"):
        said = Outcome(capsys, command, "icons", "training.method=evil:X").refusal
        assert said == "'training.method=evil:X' is an override and the name of a file here; rename the file"
    assert trusted() == ()


def test_an_interrupt_is_no_mistake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("syncclip.Recipe.load", interrupted)
    outcome = Outcome(capsys, "synth", "icons")
    assert outcome.status == 130
    assert "run the same command to resume" in outcome.err


def test_a_mistake_inside_a_worker_is_told_like_any_other() -> None:
    class WrappedError(Exception):
        cause = ValueError("the generator\nis gone")

    assert app.sentence(WrappedError()) == "the generator is gone"
    assert app.sentence(RuntimeError("a defect")) is None


def test_the_command_of_the_package_is_the_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "syncclip", "--version"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])},
        cwd=tmp_path,
    )
    assert done.stdout.startswith("syncclip ")


def test_options_of_the_store_reach_commands_with_a_recipe_and_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal names the address that was asked."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    address = "endpoint_url=http://127.0.0.1:9"
    for words in (
        ("--storage", address, "report", "s3://bucket/study"),
        ("--storage", address, "prompts", "show", "s3://bucket/run"),
        (f"--storage={address}", "status", "s3://bucket/set"),
        ("--storage", address, "--storage", "anon=false", "shards", "ls", "s3://bucket/set"),
    ):
        assert "127.0.0.1:9" in Outcome(capsys, *words).refusal


def test_an_unreadable_option_of_the_store_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        "invalid override 'storage.options.nonsense'" in Outcome(capsys, "--storage", "nonsense", "report", "x").refusal
    )


def test_a_bug_in_own_code_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "buggy.py").write_text(
        "from syncclip.methods.ivlp import Ivlp\n\nclass Buggy(Ivlp):\n"
        "    def __init__(self, *given):\n        raise KeyError('prompt')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def study(*_: object) -> None:
        trust.trust("buggy:Buggy")
        trust.module_of("buggy:Buggy").Buggy()

    monkeypatch.setattr("syncclip.studies.run.study", study)
    assert Outcome(capsys, "demo").refusal == f"{tmp_path}/buggy.py, line 5, in __init__: KeyError: 'prompt'"


@pytest.mark.parametrize("command", ["recipe ls", "recipe show travel", "datasets ls", "--help", "--version"])
@pytest.mark.parametrize(("target", "status"), [(">/dev/full", 2), (">&-", 0)], ids=["full", "closed"])
def test_standard_output_that_takes_nothing_is_one_line(command: str, target: str, status: int) -> None:
    line = f'"{sys.executable}" -m syncclip {command} {target}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if status else 0), done.stderr


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}]
)
def test_output_is_the_same_in_every_locale(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "syncclip", "recipe", "show", "travel", "dataset.template=une {} à 日本"]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHONIO"))}
    done = subprocess.run(command, env={**own, **variables}, capture_output=True, check=True)
    assert "template: une {} à 日本\n" in done.stdout.decode()
