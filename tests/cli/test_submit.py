"""Jobs of `submit`: arguments, upload, submission and log; `tests/cluster` runs them on a cluster."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncclip import jobs
from syncclip.cli import app, submit
from syncclip.cli.submit import Job
from syncclip.core.settings import UserError
from syncclip.protocols.run import Request
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld

BUCKET = "storage.root=s3://bucket/runs"
EXAMPLE = Path(__file__).parents[2] / "examples" / "taskres.py"


def job_of(*overrides: str, out: str | None = None, shared: bool = False) -> Job:
    return submit.recipe_job("synth", Recipe.load("icons", overrides), out, shared=shared)


def test_the_name_contains_a_hash_of_the_job() -> None:
    assert job_of(BUCKET) == job_of(BUCKET)
    assert job_of(BUCKET).name.startswith("syncclip-synth-icons-")
    others = job_of(BUCKET, "synthesis.seed=1"), job_of(BUCKET, out="s3://bucket/elsewhere")
    assert len({job_of(BUCKET).name, *(job.name for job in others)}) == 3


def test_the_command_on_the_cluster_reads_the_uploaded_recipe() -> None:
    assert job_of(out="s3://bucket/a set").entrypoint == "python -m syncclip synth icons.yaml --out 's3://bucket/a set'"


def test_a_studys_configurations_are_checked_before_submission() -> None:
    recipe = Recipe.load("icons", [BUCKET, "study.configurations=[{method: ivp}]"])
    with pytest.raises(UserError, match=r"study\.configurations\[0\] 'ivp-both': training\.method: unknown method"):
        submit.recipe_job("study", recipe, None, shared=False)


def test_submitting_a_synthesis_imports_no_training_code() -> None:
    code = "import sys\nimport syncclip.cli.submit\nassert not {'syncclip.jobs', 'syncclip.studies'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("overrides", "out", "error"),
    [
        ((), None, "storage.root: runs is a path"),
        ((), "results", "--out: results is a path"),
        ((BUCKET, "dataset.root=/data"), None, "dataset.root: /data is a path"),
        ((BUCKET, "training.synthetic=./set"), None, "training.synthetic: ./set is a path"),
        ((BUCKET, "training.teacher=labels"), None, "training.teacher: labels is a path"),
        ((BUCKET, "dataset.name=birds"), None, "dataset.name: .*/birds is a path"),
    ],
)
def test_local_paths_are_rejected_for_a_remote_cluster(
    overrides: tuple[str, ...], out: str | None, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    with pytest.raises(UserError, match=error):
        job_of(*overrides, out=out)


def test_names_are_not_paths_even_if_such_folders_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("icons", "syncclip", "ivlp"):  # names of a dataset and of methods
        (tmp_path / folder).mkdir()
    assert job_of(BUCKET, "synthesis.generator.pipeline=stabilityai/sdxl-turbo").recipe.training.method == "syncclip"


def test_local_paths_become_absolute_on_a_shared_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_of(shared=True).recipe.storage.root == str(tmp_path / "runs")
    assert job_of(shared=True, out="set").arguments[-1] == str(tmp_path / "set")
    assert job_of("dataset.root=/data", shared=True).recipe.dataset.root == "/data"


def reproduction(*overrides: str, root: str = "s3://bucket/data", shared: bool = False, **options: Any) -> Job:
    return submit.reproduce_job(Request("base-to-novel", root, overrides=overrides, **options), shared=shared)


def test_the_job_of_a_reproduction_repeats_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []

    def reproduce(request: Request) -> SimpleNamespace:
        requests.append(request)
        return SimpleNamespace(page="page.html")

    monkeypatch.setattr("syncclip.protocols.run.reproduce", reproduce)
    job = reproduction("study.seeds=[1, 2]", datasets=["dtd", "eurosat"], methods=["coop"], out="s3://bucket/out")
    assert job.name.startswith("syncclip-reproduce-base-to-novel-")
    assert app.run(shlex.split(job.entrypoint)[3:]) == 0
    options = "s3://bucket/data", ["dtd", "eurosat"], ["coop"], "s3://bucket/out"
    assert requests == [Request("base-to-novel", *options, overrides=["study.seeds=[1, 2]"])]
    others = reproduction(out="s3://b/o"), reproduction(out="s3://b/o", datasets=["dtd"]), reproduction(out="s3://b/p")
    assert len({other.name for other in others}) == 3 and reproduction(out="s3://b/o") == others[0]


@pytest.mark.parametrize(
    ("overrides", "options", "error"),
    [
        ((), {"root": "/data", "out": "s3://bucket/out"}, "--root: /data is a path"),
        ((), {"synthetic": "sets", "out": "s3://bucket/out"}, "--synthetic: sets is a path"),
        ((), {}, "storage.root: runs is a path"),
        (("backbone.name=./clip",), {"out": "s3://bucket/out"}, "backbone.name: ./clip is a path"),
    ],
)
def test_local_paths_of_a_reproduction_are_rejected_or_made_absolute(
    overrides: tuple[str, ...], options: dict[str, str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=error):
        reproduction(*overrides, **options)
    words = shlex.split(reproduction(*overrides, shared=True, **options).entrypoint)
    option, _, path = error.removesuffix(" is a path").partition(": ")
    absolute = str(tmp_path / path)
    if option.startswith("--"):
        assert words[words.index(option) + 1] == absolute
    else:
        assert words[-1] == f"{option}={absolute}"


def test_errors_of_a_reproduction_are_reported_before_submission(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="does not train on 'dtdd'; did you mean 'dtd'"):
        reproduction(datasets=["dtdd"])
    with pytest.raises(UserError, match="a key or a password"):
        reproduction("storage.options.secret=abc")
    assert "missing option '--root'" in Outcome(capsys, "submit", "reproduce", "few-shot").error
    assert "only apply to reproduce" in Outcome(capsys, "submit", "train", "icons", "--root", "/data").error


def test_the_job_of_a_classification_repeats_its_arguments(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot"]), str(tmp_path / "run")).url

    def classification(shards: str, out: str | None = None, shared: bool = True, actors: int = 2) -> Job:
        return submit.classify_job(trained, shards, out, actors, 0.5, shared=shared)

    words = shlex.split(classification("s3://bucket/set", "s3://bucket/out").entrypoint)[3:]
    assert words == [
        *("classify", trained, "s3://bucket/set", "--actors", "2", "--num-gpus", "0.5", "--out", "s3://bucket/out")
    ]
    monkeypatch.chdir(Path(trained).parent)
    assert shlex.split(classification("set").entrypoint)[5] == str(Path(trained).parent / "set")
    assert classification("set").name.startswith("syncclip-classify-")
    assert classification("set").name != classification("set", actors=3).name
    with pytest.raises(UserError, match="RUN: .* is a path on this machine"):
        classification("s3://bucket/set", shared=False)
    with pytest.raises(UserError, match="SHARDS: the URL contains a password"):
        classification("https://me:secret@host/set")


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("storage.options.secret=abc", r"storage\.options\.secret: the option"),
        (
            "storage.options.client_kwargs={headers: {Authorization: abc}}",
            r"storage\.options\.client_kwargs: the option",
        ),
        ("storage.options.endpoint_url=http://me:abc@host", r"storage\.options\.endpoint_url: the option"),
        ("training.mlflow_uri=http://me:abc@host", r"training\.mlflow_uri: the URL"),
        ("dataset.root=https://host/data?X-Amz-Signature=abc", r"dataset\.root: the URL"),
    ],
)
def test_keys_are_not_sent(override: str, error: str) -> None:
    with pytest.raises(UserError, match=f"^{error} .*password") as raised:
        job_of(BUCKET, override)
    assert "abc" not in str(raised.value)
    with pytest.raises(UserError, match=r"^--out: the URL contains a password"):
        job_of(BUCKET, out="sftp://me:abc@host/results")


def uploaded(job: Job, folder: Path) -> set[str]:
    folder.mkdir()
    job.write_upload(folder)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_package_and_recipe_are_uploaded(tmp_path: Path) -> None:
    files = uploaded(job_of(BUCKET), tmp_path / "job")
    assert {"icons.yaml", "syncclip/__main__.py", "syncclip/recipe/shipped/icons.yaml"} <= files
    assert "syncclip/embedded/icons/clip/open_clip_model.safetensors" in files
    assert {name.split("/")[0] for name in files} == {"icons.yaml", "syncclip"}
    assert not any("__pycache__" in name or "scripts" in name for name in files)
    assert Recipe.load(str(tmp_path / "job" / "icons.yaml")) == job_of(BUCKET).recipe
    other = ("dataset.name=s3://bucket/birds", "backbone.name=ViT-B-16", "synthesis.generator.pipeline=a/b")
    assert not any("embedded/icons" in name for name in uploaded(job_of(BUCKET, *other), tmp_path / "other"))


def test_nothing_but_the_methods_own_python_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package, outside = tmp_path / "ownpackage", tmp_path / "outside"
    for folder in (package / "inner", package / ".git", package / "not-python", outside):
        folder.mkdir(parents=True)
    (package / "way.py").write_text(EXAMPLE.read_text())
    hidden = (".env", "id_rsa", "key.pem", "data.csv", ".git/config", ".hidden.py", "not-python/a.py")
    for name in ("inner/more.py", *hidden):
        (package / name).write_text("planted = 1\n")
    (outside / "elsewhere.py").write_text("planted = 1\n")
    (package / "link.py").symlink_to(outside / "elsewhere.py")
    (package / "linked").symlink_to(outside, target_is_directory=True)
    (tmp_path / "beside.py").write_text("planted = 1\n")
    (tmp_path / "ownway.py").write_text(EXAMPLE.read_text())

    files = uploaded(job_of(BUCKET, "training.method=ownpackage.way:TaskRes"), tmp_path / "job")
    own = {name for name in files if not name.startswith("syncclip/")}
    assert own == {"icons.yaml", "ownpackage/way.py", "ownpackage/inner/more.py"}
    assert "ownway.py" in uploaded(job_of(BUCKET, "training.method=ownway:TaskRes"), tmp_path / "file")
    # An installed package of the same name as a folder here.
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "taskres.py").write_text("planted = 1\n")
    files = uploaded(job_of(BUCKET, "training.method=examples.taskres:TaskRes"), tmp_path / "installed")
    assert not any(name.startswith("examples/") for name in files)


class Client:
    """Stub of Ray's job client.

    Args:
        listed: (submission ID, whether it has ended) of the cluster's jobs.
        polls: lengths of the log at each poll; negative for a failed poll.
    """

    log = "synth: 3 of 9\nsynth: 9 of 9\n"

    def __init__(
        self, listed: Sequence[tuple[str, bool]] = (), error: str = "", polls: Sequence[int] = (), **info: Any
    ) -> None:
        self.listed, self.error, self.polls, self.submitted = listed, error, list(polls), list[str]()
        self.info = SimpleNamespace(**{"status": "SUCCEEDED", "driver_exit_code": 0, "message": "", **info})

    def list_jobs(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(submission_id=name, status=SimpleNamespace(is_terminal=lambda ended=ended: ended))
            for name, ended in self.listed
        ]

    def submit_job(self, *, submission_id: str, **_: Any) -> None:
        if self.error:
            raise RuntimeError(self.error)
        self.submitted.append(submission_id)

    def get_job_status(self, _: str) -> Any:
        return SimpleNamespace(is_terminal=lambda: len(self.polls) == 1 and self.polls[0] >= 0)

    def get_job_logs(self, _: str) -> str:
        poll = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        if poll < 0:
            raise RuntimeError("Request failed with status code 500")
        return self.log[:poll]

    def get_job_info(self, _: str) -> Any:
        return self.info


def test_a_running_job_is_joined_and_an_ended_one_is_numbered() -> None:
    job = job_of(BUCKET)
    running = Client([(job.name, True), (f"{job.name}-2", False)])
    assert submit.start(running, job) == (f"{job.name}-2", True) and running.submitted == []
    ended = Client([(job.name, True), ("syncclip-synth-icons-other", False), ("", False)])
    assert submit.start(ended, job) == (f"{job.name}-2", False) and ended.submitted == [f"{job.name}-2"]
    concurrent = Client(error=f"Job {job.name} already exists.")
    assert submit.start(concurrent, job) == (job.name, True)


@pytest.fixture
def dashboard() -> Iterator[tuple[str, dict[str, tuple[int, Any]]]]:
    """URL of a local server, and its responses by path: status and JSON."""
    responses: dict[str, tuple[int, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = responses.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", responses
    server.shutdown()
    server.server_close()


def test_errors_of_a_connection_are_reported(dashboard: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    with pytest.raises(UserError, match="no Ray cluster at http://127.0.0.1:1;"):
        submit.connect("http://127.0.0.1:1")
    address, responses = dashboard
    with pytest.raises(UserError, match="is not a Ray dashboard"):
        submit.connect(address)
    responses["/api/version"] = (401, "Unauthorized: Missing authentication token")
    with pytest.raises(UserError, match="requires a token; set RAY_AUTH_MODE=token"):
        submit.connect(address)


def test_a_token_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not submit.has_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret")
    assert submit.has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    assert not submit.has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert submit.has_token()


@pytest.mark.parametrize(("other", "local"), [([], True), (["192.0.2.7"], False)])
def test_a_cluster_on_this_machine_is_detected(other: list[str], local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [SimpleNamespace(node_ip=address) for address in ["127.0.0.1", *other]]
    monkeypatch.setattr("ray.util.state.list_nodes", lambda _: nodes)
    assert submit.is_local_cluster("http://127.0.0.1:8265") is local


@pytest.mark.parametrize(
    ("log", "message", "expected"),
    [
        ("synth: 3 of 9\nsyncclip: no space left\nsome Ray noise\n", "Job failed", "no space left"),
        ("Traceback\n  ...\nRuntimeError: odd\n\n", "Job failed", "RuntimeError: odd"),
        ("", "Failed to set up\nthe environment", "Failed to set up the environment"),
        ("", "", "the cluster reports no reason"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(log: str, message: str, expected: str) -> None:
    assert submit.reason(log, message) == expected


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("state", "code", "status"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130)]
)
def test_the_exit_status_is_that_of_the_job(state: str, code: int | None, status: int) -> None:
    client = Client(polls=[28], status=state, driver_exit_code=code)
    assert submit.follow(client, "job", "stop") == status


@pytest.mark.parametrize("polls", [(28,), (9, 28), (9, -1, 17, -1, -1, 28), (0, 28, 28)])
def test_the_log_is_printed_once_although_polls_fail(
    polls: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.follow(Client(polls=polls), "job", "stop") == 0
    assert capsys.readouterr().out == Client.log


def test_a_lost_cluster_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no longer reachable \(Request.* job syncclip-synth-a continues"):
        submit.follow(Client(polls=[9, -1]), "syncclip-synth-a", "stop")


def test_keys_and_links_in_the_package_folder_are_not_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "syncclip"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/code.py", "id_rsa", "inner/key.pem", "inner/credentials.json", ".env"):
        (package / name).write_text("")
    (tmp_path / "secret.txt").write_text("")
    (package / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr("syncclip.__file__", str(package / "__init__.py"))
    files = uploaded(job_of(BUCKET), tmp_path / "job")
    assert {name for name in files if name.startswith("syncclip/")} == {
        "syncclip/__init__.py",
        "syncclip/inner/code.py",
    }
