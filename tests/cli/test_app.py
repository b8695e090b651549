"""The command line: errors as one line, global options, imports, and output in any environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from syncclip.cli import app
from syncclip.core import trust
from syncclip.core.settings import UserError
from syncclip.core.trust import trusted
from syncclip.storage.status_file import keep_status_file
from syncclip.synthesis.status import STATUS_NAME, SynthesisStatus
from syncclip.training.run_folder import RunFolder, RunRecord
from tests.conftest import TinyWorld
from tests.object_store import ENVIRONMENT
from tests.shards.sets import write_set

PROGRESS = ("init: ", "synth: ", "train: ", "study: ", "tune: ", "verify: ", "serve: ")
"""Prefixes of progress lines."""

HEAVY = {"torch", "torchvision", "ray", "pandas", "pyarrow", "numpy", "transformers", "open_clip"}
"""Modules that are slow to import."""


class Outcome:
    """Exit status, stdout and stderr of a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        capsys.readouterr()
        self.status = app.run(list(arguments))
        self.out, self.err = capsys.readouterr()

    @property
    def error(self) -> str:
        """The message of a user error, which only progress lines may precede."""
        assert self.status == 2
        *before, last = self.err.splitlines()
        assert last.startswith("syncclip: "), self.err
        assert all(line.startswith(PROGRESS) for line in before), self.err
        return last.removeprefix("syncclip: ")


def imported_by(*commands: Sequence[str], status: int = 0) -> tuple[set[str], str]:
    """Slow modules imported by commands in a new process, and their stdout."""
    code = (
        f"import sys\nfrom syncclip.cli import app\nfor arguments in {[list(command) for command in commands]!r}:\n"
        f"    assert app.run(arguments) == {status}, arguments\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split()), done.stdout


def test_help_imports_no_slow_module() -> None:
    slow, shown = imported_by(["--help"])
    assert not slow
    assert all(name in shown for name in ("demo", "synth", "train", "evaluate", "study", "report", "shards", "plan"))


def test_commands_on_files_import_no_slow_module(tmp_path: Path) -> None:
    RunFolder(str(tmp_path / "run"), "run", "0").write(RunRecord(name="run", recipe_hash="0", total_steps=20))
    write_set(str(tmp_path / "set"), classes=2, rounds=1)
    with keep_status_file(
        str(tmp_path / "synthetic" / STATUS_NAME), SynthesisStatus.begin(planned=96, images=96, most=1)
    ):
        pass
    commands = {
        "0 of 20 steps": ["status", str(tmp_path / "run")],
        "complete: 96 of 96 images": ["status", str(tmp_path)],
        "00000": ["shards", "ls", str(tmp_path / "set")],
        "caltech101": ["datasets", "ls"],
        "default 10": ["recipe", "explain", "training.epochs"],
    }
    slow, printed = imported_by(*commands.values())
    assert [text for text in commands if text not in printed] == []
    assert not slow - {"numpy"}


def test_plan_imports_tables_but_no_models() -> None:
    slow, printed = imported_by(["plan", "travel"])
    assert "224 images" in printed
    assert not slow - {"numpy", "pandas", "pyarrow"}  # the power depends on the labels of the test images


def test_errors_of_a_recipe_are_reported_before_slow_imports() -> None:
    commands = [[name, "icons", "training.epocks=3"] for name in ("plan", "synth", "train", "study")]
    slow, _ = imported_by(*commands, status=2)
    assert not slow - {"numpy"}


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "--version")
    assert outcome.status == 0
    assert re.fullmatch(r"syncclip (\d+\.\d+\.\d+\S*|\(not installed\))", outcome.out.strip())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["prompts", "exprot"], "unknown command 'exprot'; did you mean 'prompts export'?"),
        (["recipe", "travel"], "unknown command 'travel'; use one of recipe explain, recipe ls, recipe "),
        (["train"], "missing argument"),
        (["synth", "icons", "--bogus"], "no such option"),
        (["shards"], "missing command"),
        (["synth", "icon"], "did you mean 'icons'"),
        (["train", "/no/such.yaml"], "no such file"),
        (["evaluate", "{folder}"], "no run found"),
        (["prompts", "export", "{folder}"], "no run found"),
        (["prompts", "show", "{folder}"], "no run found"),
        (["report", "{folder}"], "{folder}"),
        (["shards", "ls", "{folder}"], "no committed shard"),
        (["--storage", "nonsense", "report", "x"], "invalid override 'storage.options.nonsense'"),
    ],
)
def test_a_user_error_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], error: str
) -> None:
    words = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    assert error.replace("{folder}", str(tmp_path)) in Outcome(capsys, *words).error


@pytest.mark.parametrize("command", [["report"], ["init"], ["shards", "ls"], ["shards", "verify"]])
def test_a_loop_of_symbolic_links_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    error = Outcome(capsys, *command, str(loop)).error
    assert error.startswith(str(loop)) and ": symbolic links form a loop; " in error


def test_debug_raises_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCCLIP_DEBUG", "0")
    with pytest.raises(ValueError, match="unknown recipe"):
        app.run(["--debug", "synth", "icon"])


@pytest.mark.parametrize("option", ["--trust", "--storage", "--debug", "--grace"])
def test_a_global_option_precedes_the_command(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert Outcome(capsys, "plan", "icons", option, "a:b").error.startswith(f"{option} must precede the command")
    assert "SYNCCLIP_DEBUG" not in os.environ
    assert trusted() == ()


@pytest.mark.parametrize("grace", ["nan", "-1", "1e30", "soon"])
def test_an_invalid_grace_period_is_an_error(capsys: pytest.CaptureFixture[str], grace: str) -> None:
    assert "--grace" in Outcome(capsys, "--grace", grace, "plan", "icons").error


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
def test_a_file_name_that_is_an_option_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert f"{name!r} is both an option and a file in" in Outcome(capsys, "classify", "run", name).error
    for words in (["--", name], [f"./{name}"]):
        assert "run" in Outcome(capsys, "classify", "run", *words).error


def test_a_file_name_that_is_an_override_trusts_no_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training.method=evil:X").touch()
    for command in ("status", "evaluate", "train"):
        assert (
            "both an override and a file in the working directory"
            in Outcome(capsys, command, "icons", "training.method=evil:X").error
        )
    assert trusted() == ()


def test_an_interrupt_exits_with_status_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("syncclip.Recipe.load", interrupted)
    outcome = Outcome(capsys, "synth", "icons")
    assert outcome.status == 130
    assert "run the same command to resume" in outcome.err


def test_an_error_in_a_worker_is_unwrapped() -> None:
    class WrappedError(Exception):
        cause = ValueError("the generator\nis gone")

    assert app.sentence(WrappedError()) == "the generator is gone"
    assert app.sentence(RuntimeError("a defect")) is None


def test_storage_options_apply_to_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error contains the endpoint."""
    monkeypatch.setattr("syncclip.storage.retries.PAUSES", ())
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    address = "endpoint_url=http://127.0.0.1:9"
    for words in (
        ("--storage", address, "report", "s3://bucket/study"),
        ("--storage", address, "prompts", "show", "s3://bucket/run"),
        (f"--storage={address}", "status", "s3://bucket/set"),
        ("--storage", address, "--storage", "anon=false", "shards", "ls", "s3://bucket/set"),
    ):
        assert "127.0.0.1:9" in Outcome(capsys, *words).error


def test_a_bug_in_custom_code_is_shown_with_its_own_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "buggy.py").write_text(
        "from syncclip.methods.ivlp import Ivlp\n\nclass Buggy(Ivlp):\n"
        "    def __init__(self, *arguments):\n        self.fail()\n"
        "    def fail(self):\n        raise KeyError('prompt')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def study(*_: object) -> None:
        trust.trust("buggy:Buggy")
        trust.module_of("buggy:Buggy").Buggy()

    monkeypatch.setattr("syncclip.studies.run.study", study)
    outcome = Outcome(capsys, "demo")
    assert outcome.status == 2
    assert outcome.err.splitlines() == [
        "Traceback of custom code:",
        f'  File "{tmp_path}/buggy.py", line 5, in __init__',
        "    self.fail()",
        f'  File "{tmp_path}/buggy.py", line 7, in fail',
        "    raise KeyError('prompt')",
        f"syncclip: {tmp_path}/buggy.py, line 7, in fail: KeyError: 'prompt'",
    ]


@pytest.mark.parametrize("command", ["recipe show travel", "datasets ls", "--help"])
@pytest.mark.parametrize(("target", "status"), [(">/dev/full", 2), (">&-", 0)], ids=["full", "closed"])
def test_an_unwritable_stdout_is_one_line(command: str, target: str, status: int) -> None:
    line = f'"{sys.executable}" -m syncclip {command} {target}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if status else 0), done.stderr


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}]
)
def test_output_is_the_same_in_every_locale(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "syncclip", "recipe", "show", "travel", "dataset.template=une {} à 日本"]
    others = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHONIO"))}
    done = subprocess.run(command, env={**others, **variables}, capture_output=True, check=True)
    assert "template: une {} à 日本\n" in done.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "icons", "--epochs", "2"], "use training.epochs=VALUE; see `syncclip train --help`"),
        (["synth", "icons", "--images_per_class", "2"], "use synthesis.images_per_class=VALUE; see `syncclip synth"),
        (["synth", "icons", "--epochs", "2"], "no such option: --epochs; see `syncclip synth --help`"),
        (["train", "icons", "--lr", "2"], "use methods.syncclip.learning_rate=VALUE; see `syncclip train --help`"),
        (["train", "icons", "--xyz"], "no such option: --xyz; see `syncclip train --help`"),
        (["train"], "missing argument 'RECIPE'; see `syncclip train --help`"),
        (["train", "icons", "training.epochs", "=", "2"], "expected section.key=value without spaces"),
        (["plan", "travl"], "did you mean 'travel'? Otherwise use a YAML file, or a recipe that `syncclip recipe ls`"),
        (["plan", "tabl5_losses"], "did you mean 'studies/table5_losses' or 'protocols/losses'?"),
    ],
)
def test_the_error_contains_the_intended_setting_or_name(
    capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert hint in Outcome(capsys, *arguments).error


@pytest.mark.parametrize(
    ("arguments", "ignored"),
    [
        (["synth", "travl", "training.epochs=2", "synthesis.steps=3", "methods.tip.views=2"], "synth"),
        (["submit", "synth", "travl", "training.epochs=2", "methods.tip.views=2"], "synth"),
        (["train", "travl", "synthesis.steps=2", "training.epochs=2", "study.seeds=[1]"], "train"),
        (["study", "travl", "synthesis.steps=2", "training.epochs=2"], ""),
    ],
)
def test_overrides_without_effect_on_the_command_are_reported(
    capsys: pytest.CaptureFixture[str], arguments: list[str], ignored: str
) -> None:
    keys = {"synth": "training.epochs, methods.tip.views", "train": "synthesis.steps, study.seeds"}
    warning = f"warning: `{ignored}` ignores {keys[ignored]}\n" if ignored else ""
    assert Outcome(capsys, *arguments).err.startswith(f"{warning}syncclip: unknown recipe 'travl'")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["evaluate", "{set}"], "{set} is a synthetic dataset, not a run; use `syncclip report {set}`"),
        (["classify", "{set}", "a.png"], "{set} is a synthetic dataset, not a run"),
        (["plan", "{set}"], "{set} is a synthetic dataset, not a recipe"),
        (["compare", "{set}", "{set}"], "{set} is a synthetic dataset, not a study or run"),
        (["recompute", "{set}"], "{set} is a synthetic dataset, not a study"),
        (["assess", "--pilot", "{set}"], "{set} is a synthetic dataset, not a study"),
        (["assess", "{set}"], "not a dataset of labelled images; use its dataset of real images instead, or set"),
        (["shards", "ls", "{data}"], "{data} is a packed dataset, not a synthetic dataset"),
        (["status", "{data}"], "{data} is a packed dataset, not a study, run or synthetic dataset"),
    ],
)
def test_a_folder_of_the_wrong_kind_is_named(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, arguments: list[str], error: str
) -> None:
    words = [word.format(set=tiny_set, data=tiny.dataset) for word in arguments]
    assert error.format(set=tiny_set, data=tiny.dataset) in Outcome(capsys, *words).error


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import os\nfrom os import undefined\n", "line 2, in <module>: ImportError: cannot import name 'undefined'"),
        ("class Mine(:\n    pass\n", "line 1: invalid syntax"),
        ("Mine = undefined\n", "line 1, in <module>: NameError: name 'undefined' is not defined"),
    ],
)
def test_an_error_while_custom_code_is_imported_names_its_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    error: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"faulty{abs(hash(source))}"
    Path(f"{module}.py").write_text(source)
    outcome = Outcome(capsys, "plan", "travel", f"training.method={module}:Mine")
    assert outcome.status == 2 and f"{module}.py, {error}" in outcome.err.splitlines()[-1]
