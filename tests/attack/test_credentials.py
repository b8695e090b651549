"""No credential of a recipe appears in any file, message, process list or upload."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip import jobs, storage
from syncclip.cli import app, submit
from syncclip.core import secrets
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.storage import retries
from tests.attack.credentials import URLS, VALUES, kept, leaks, leaks_below, options, process_list, recipe, value
from tests.conftest import TinyWorld
from tests.synthetic_sets.test_repair import generate_here
from tests.worlds.rewritten import rewrite

PROJECT = Path(__file__).parents[2]


def test_the_search_finds_forty_kinds_of_credentials() -> None:
    assert len(VALUES) >= 40
    assert leaks(repr(options()).encode())
    assert set(leaks(repr([options(), URLS]).encode())) == set(VALUES)


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the values to mask."""
    monkeypatch.setattr(secrets, "_seen", {"never logged"})
    monkeypatch.setattr(secrets, "_pattern", None)


@pytest.fixture
def secretive(tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe with all credentials and an unreachable tracker."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(retries, "PAUSES", ())
    (tmp_path / "own").mkdir()
    training = {"method": "coop", "data": "real", "epochs": 1}
    return Recipe.load(recipe(tmp_path / "own/mine.yaml", tiny.recipe, training=training))


def test_no_command_writes_or_says_a_credential(
    secretive: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    run, synthetic = results / "run", results / "set"
    monkeypatch.chdir(tmp_path)
    jobs.run_here(secretive, str(run))
    generate_here(jobs.plan(secretive), str(synthetic))
    owner = storage.read_owner(str(synthetic / "plan.json"))
    storage.write_with_checksum(str(synthetic / "synthesis.yaml"), secretive.to_yaml().encode(), owner=owner)
    assert "mlflow can't be reached" in (run / "run.json").read_text()
    commands = (
        *(f"evaluate {run}", f"report {run}", f"status {run}", f"prompts show {run}", "plan own/mine.yaml"),
        f"prompts export {run} --out {results}/card",
        f"shards export {synthetic} --to huggingface --out {results}/hub",
        *(f"shards verify {synthetic}", f"shards quality {synthetic}", f"report {synthetic}"),
    )
    for command in commands:
        assert app.run(command.split()) == 0, command
    output = capfd.readouterr()
    assert leaks((output.out + output.err).encode()) == []
    assert leaks_below(results) == {}


@pytest.mark.parametrize("key", URLS)
@pytest.mark.parametrize("command", ["train own/mine.yaml", "synth own/mine.yaml", "plan own/mine.yaml"])
def test_no_refusal_says_a_credential(
    secretive: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    key: str,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("syncclip.training.ray_train.train_on_ray", lambda *_: pytest.fail("no error before"))
    monkeypatch.setattr("syncclip.jobs.synthesise_set", lambda *_, **__: pytest.fail("no error before"))
    words = [*command.split(), "training.data=both", f"{key}={URLS[key]}"]
    if key == "training.mlflow_uri":
        words.append("training.mlflow_uri=[1]")
    try:
        app.run(words)
    except BaseException as error:
        assert leaks(str(error).encode()) == []
    output = capfd.readouterr()
    assert leaks((output.out + output.err).encode()) == []
    assert leaks_below(tmp_path / "runs") == {}


@pytest.mark.parametrize(
    "override",
    [
        f"storage.options={value('secret')}",
        f"storage.options.secret={{{value('secret')}",
        f"storage.option={{secret: {value('secret')}}}",
        f"storage.options.secret={value('secret')} ${{nothing}}",
        f"storage.options={{client_kwargs: {{headers: {{Authorization: {value('header')}}}}}",
        f"--storage.options.secret={value('secret')}",
        f"storage=[{value('secret')}]",
    ],
)
def test_an_error_of_an_option_does_not_contain_its_value(override: str, capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["plan", "icons"], ["report", "here"], ["shards", "ls", "here"]):
        assert app.run([*command, override]) == 2
        assert leaks(capfd.readouterr().err.encode()) == []


def test_an_upload_contains_no_credential(secretive: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^storage\.options\.\w+: the option"):
        submit.recipe_job("train", secretive, "s3://bucket/run", shared=True)
    plain = secretive.with_values({"storage.options": {}})
    with pytest.raises(UserError, match=r"^training\.mlflow_uri: the URL"):
        submit.recipe_job("train", plain, "s3://bucket/run", shared=True)
    job = submit.recipe_job("train", plain.with_values({"training.mlflow_uri": None}), "s3://b/run", shared=True)
    (tmp_path / "job").mkdir()
    job.write_upload(tmp_path / "job")
    assert leaks_below(tmp_path / "job") == {}
    assert leaks(job.entrypoint.encode()) == []


def test_an_export_of_an_earlier_versions_run_holds_none(secretive: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    jobs.run_here(secretive, str(run))
    first = (run / "recipe.yaml").read_text().partition("\n")[2]  # without the checksum
    text = first[: first.index("  options:")] + f"  options: {{connection_string: {value('connection_string')}}}\n"
    rewrite(run / "recipe.yaml", text.encode())
    for command in (f"prompts export {run} --out {tmp_path}/card", f"report {run}"):
        assert app.run(command.split()) == 0
    (run / "recipe.yaml").unlink()
    assert leaks_below(tmp_path / "card", run) == {}


@pytest.mark.attack
@pytest.mark.ray
@pytest.mark.parametrize("command", ["train", "synth", "study", "evaluate", "tune"])
def test_neither_rays_files_nor_a_process_list_hold_a_credential(tiny: TinyWorld, tmp_path: Path, command: str) -> None:
    (tmp_path / "own").mkdir()
    configurations = [{"method": "coop", "data": "real", "search_space": {"training.epochs": [1, 2]}}]
    mine = recipe(
        tmp_path / "own/mine.yaml",
        tiny.recipe,
        training={"method": "coop", "data": "real", "epochs": 1},
        study={"configurations": configurations, "images_per_class": [1]},
    )
    short = Path("/tmp") / f"sq{os.getpid()}{command[:2]}"  # Ray's sockets need a short path
    short.mkdir()
    results = tmp_path / "results"
    words = [command, mine, "--out", str(results)]
    if command == "evaluate":
        jobs.run_here(Recipe.load(mine), str(results))
        words = ["evaluate", str(results), "evaluation.workers=2", f"storage.options={{secret: {value('secret')}}}"]
    environment = {
        **os.environ,
        "TMPDIR": str(short),
        "RAY_TMPDIR": str(short),
        "PYTHONPATH": str(PROJECT),
        "SYNCCLIP_DEBUG": "1",
    }
    try:
        with process_list() as command_lines, kept(short, tmp_path / "kept"):
            done = subprocess.run(
                [sys.executable, "-m", "syncclip", *words], env=environment, capture_output=True, timeout=400
            )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert list((tmp_path / "kept").glob("*worker-*"))  # includes Ray's files
        assert leaks_below(short, results, tmp_path / "kept") == {}
        assert leaks(done.stdout + done.stderr) == []
        typed = {line for line in command_lines if b"storage.options={secret" in line}  # by the user
        assert leaks(b"".join(command_lines - typed)) == []
    finally:
        shutil.rmtree(short)


@pytest.mark.attack
def test_errors_of_a_store_contain_no_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for status in (400, 403, 500):
        storage.configure({"key": value("key"), "secret": value("secret"), "endpoint_url": "http://127.0.0.1:9"})
        monkeypatch.setattr(retries, "PAUSES", ())
        with pytest.raises(UserError) as raised:
            storage.read_bytes(f"s3://bucket/{status}?token={value('token')}")
        assert leaks(str(raised.value).encode()) == []
    storage.configure({})
