"""What a job is, before any cluster sees it; `tests/cluster/test_jobs.py` submits them to a real one."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncclip.cli import app, submission
from syncclip.cli.submission import Submission
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome

BUCKET = "storage.root=s3://bucket/runs"


def of(*overrides: str, out: str | None = None, here: bool = False, shared: bool = False) -> Submission:
    return submission.submission("synth", Recipe.load("icons", overrides), out, here=here, shared=shared)


def test_the_same_recipe_has_the_same_name() -> None:
    assert of(BUCKET) == of(BUCKET)
    assert of(BUCKET).identifier.startswith("syncclip-synth-icons-")


@pytest.mark.parametrize("other", [("synthesis.seed=1", {}), (BUCKET, {"out": "s3://bucket/elsewhere"})])
def test_another_recipe_or_place_has_another_name(other: tuple[str, dict[str, str]]) -> None:
    override, where = other

    assert of(BUCKET, override, **where).identifier != of(BUCKET).identifier


def test_the_command_on_the_cluster_reads_the_recipe_beside_it() -> None:
    one = of(out="s3://bucket/a set")

    assert one.entrypoint == "python -m syncclip synth icons.yaml --out 's3://bucket/a set'"


@pytest.mark.parametrize(
    ("overrides", "out", "key"),
    [
        ((), None, "storage.root: runs is a path"),
        ((), "results", "--out: results is a path"),
        ((BUCKET, "dataset.root=/data"), None, "dataset.root: /data is a path"),
        ((BUCKET, "training.synthetic=./set"), None, "training.synthetic: ./set is a path"),
        ((BUCKET, "dataset.name=birds"), None, "dataset.name: birds is a path"),
    ],
)
def test_paths_of_this_machine_are_refused_where_the_cluster_is_elsewhere(
    overrides: tuple[str, ...], out: str | None, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()

    with pytest.raises(UserError, match=key):
        of(*overrides, out=out)


def test_names_that_are_no_paths_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("icons", "syncclip", "ivlp"):  # folders that happen to be called like a dataset or a method
        (tmp_path / folder).mkdir()

    assert of(BUCKET, "synthesis.generator.pipeline=stabilityai/sdxl-turbo").recipe.training.method == "syncclip"


def reproduction(*overrides: str, root: str = "s3://bucket/data", here: bool = False, **more: Any) -> Submission:
    return submission.reproduction("base-to-novel", root, overrides=overrides, here=here, **more)


def test_a_reproduction_travels_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed: list[Any] = []

    def reproduce(*given: Any) -> SimpleNamespace:
        typed.extend(given)
        return SimpleNamespace(page="page.html")

    monkeypatch.setattr("syncclip.protocols.run.reproduce", reproduce)
    one = reproduction("study.seeds=[1, 2]", datasets=["dtd", "eurosat"], methods=["coop"], out="s3://bucket/out")

    assert one.identifier.startswith("syncclip-reproduce-base-to-novel-")
    assert app.run(shlex.split(one.entrypoint)[3:]) == 0
    assert typed == [
        *("base-to-novel", "s3://bucket/data", ["dtd", "eurosat"], ["coop"]),
        *("s3://bucket/out", None, ["study.seeds=[1, 2]"]),
    ]
    assert not any(name.endswith("dtd.yaml") and "/" not in name for name in laid_out(one, tmp_path / "job"))


@pytest.mark.parametrize(
    ("overrides", "places", "key"),
    [
        ((), {"root": "/data", "out": "s3://bucket/out"}, "--root: /data is a path"),
        ((), {"synthetic": "sets", "out": "s3://bucket/out"}, "--synthetic: sets is a path"),
        ((), {}, "storage.root: runs is a path"),
        (("backbone.name=./clip",), {"out": "s3://bucket/out"}, "backbone.name: ./clip is a path"),
    ],
)
def test_a_reproductions_paths_of_this_machine_are_refused_elsewhere_and_made_absolute_here(
    overrides: tuple[str, ...], places: dict[str, str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=key):
        reproduction(*overrides, **places)
    words = shlex.split(reproduction(*overrides, here=True, **places).entrypoint)
    option, _, path = key.removesuffix(" is a path").partition(": ")
    absolute = str(tmp_path / path)
    if option.startswith("--"):
        assert words[words.index(option) + 1] == absolute
    else:
        assert words[-1 if "out" not in places else -3] == f'{option}="{absolute}"'


def test_a_reproduction_of_something_else_has_another_name() -> None:
    some = [reproduction(out="s3://b/o"), reproduction(out="s3://b/o", datasets=["dtd"]), reproduction(out="s3://b/p")]
    assert len({one.identifier for one in some}) == 3
    assert reproduction(out="s3://b/o") == some[0]


def test_a_reproductions_mistakes_are_told_before_it_is_submitted() -> None:
    with pytest.raises(UserError, match="is not trained on 'dtdd'; did you mean 'dtd'"):
        reproduction(datasets=["dtdd"])
    with pytest.raises(UserError, match="a key or a password"):
        reproduction("storage.options.secret=abc")


def test_the_options_of_a_reproduction_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing option '--root'" in Outcome(capsys, "submit", "reproduce", "few-shot").refusal
    assert "are reproduce's" in Outcome(capsys, "submit", "train", "icons", "--root", "/data").refusal


def test_on_this_machine_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert of(here=True).recipe.storage.root == str(tmp_path / "runs")
    assert of(here=True, out="set").out == str(tmp_path / "set")
    assert of("dataset.root=/data", shared=True).recipe.dataset.root == "/data"


def test_keys_are_not_sent() -> None:
    with pytest.raises(UserError, match="a key or a password"):
        of(BUCKET, "storage.options.secret=abc")


def laid_out(one: Submission, folder: Path) -> set[str]:
    folder.mkdir()
    submission.lay_out(one, folder)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_package_and_the_recipe_travel_and_nothing_else(tmp_path: Path) -> None:
    files = laid_out(of(BUCKET), tmp_path / "job")

    assert {"icons.yaml", "syncclip/__main__.py", "syncclip/recipe/shipped/icons.yaml"} <= files
    assert "syncclip/embedded/icons/clip/open_clip_model.safetensors" in files
    assert {name.split("/")[0] for name in files} == {"icons.yaml", "syncclip"}
    assert not any("__pycache__" in name or "scripts" in name for name in files)
    assert Recipe.load(str(tmp_path / "job" / "icons.yaml")) == of(BUCKET).recipe


def test_the_embedded_world_stays_here_where_nothing_uses_it(tmp_path: Path) -> None:
    other = ("dataset.name=s3://bucket/birds", "backbone.name=ViT-B-16", "synthesis.generator.pipeline=a/b")

    assert not any("embedded/icons" in name for name in laid_out(of(BUCKET, *other), tmp_path / "job"))


def test_a_method_of_ones_own_travels_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = Path(__file__).parents[2] / "examples"
    (tmp_path / "ownway.py").write_text((examples / "taskres.py").read_text())

    files = laid_out(of(BUCKET, "training.method=ownway:TaskRes"), tmp_path / "job")

    assert "ownway.py" in files


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "LARGEST_UPLOAD", 3 << 20)

    with pytest.raises(
        UserError, match=r"3 MB is the most; the largest files are syncclip/embedded/icons/\S+ \(\d+ MB"
    ):
        laid_out(of(BUCKET), tmp_path / "job")


@dataclass
class Jobs:
    """A cluster's list of jobs, as far as `submit` looks at it."""

    before: list[SimpleNamespace] = field(default_factory=list)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    refusal: str = ""

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.before

    def submit_job(self, **job: Any) -> None:
        if self.refusal:
            raise RuntimeError(self.refusal)
        self.submitted.append(job)


def earlier(name: str, terminal: bool) -> SimpleNamespace:
    return SimpleNamespace(submission_id=name, status=SimpleNamespace(is_terminal=lambda: terminal))


def test_a_job_that_is_at_it_is_joined() -> None:
    one = of(BUCKET)
    jobs = Jobs([earlier(one.identifier, True), earlier(f"{one.identifier}-2", False)])

    assert submission.submit(jobs, one) == (f"{one.identifier}-2", True)
    assert jobs.submitted == []


def test_an_ended_job_is_submitted_again_under_the_next_number() -> None:
    one = of(BUCKET)
    jobs = Jobs([earlier(one.identifier, True), earlier("syncclip-synth-icons-other", False), earlier("", False)])

    assert submission.submit(jobs, one) == (f"{one.identifier}-2", False)
    assert jobs.submitted[0]["submission_id"] == f"{one.identifier}-2"


def test_who_was_faster_is_joined() -> None:
    one = of(BUCKET)

    assert submission.submit(Jobs(refusal=f"Job {one.identifier} already exists."), one) == (one.identifier, True)


@pytest.fixture
def dashboard() -> Iterator[tuple[str, dict[str, tuple[int, Any]]]]:
    """A server of this machine and what it answers, by path: status and JSON."""
    answers: dict[str, tuple[int, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = answers.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def test_no_cluster_is_told_with_the_address() -> None:
    with pytest.raises(UserError, match="no Ray cluster answers at http://127.0.0.1:1;"):
        submission.connect("http://127.0.0.1:1")


def test_something_else_than_ray_is_told(dashboard: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    with pytest.raises(UserError, match="is no Ray dashboard"):
        submission.connect(dashboard[0])


def test_another_version_of_ray_is_refused_with_both_names(dashboard: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    import ray

    address, answers = dashboard
    answers["/api/version"] = (200, {"ray_version": "2.11.0"})

    with pytest.raises(UserError, match=rf"runs Ray 2\.11\.0, and here is Ray {ray.__version__}"):
        submission.connect(address)
    assert submission.connect(address, any_version=True) is not None


def test_a_missing_token_is_told(dashboard: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    address, answers = dashboard
    answers["/api/version"] = (401, "Unauthorized: Missing authentication token")

    with pytest.raises(UserError, match="asks for a token; set RAY_AUTH_MODE=token"):
        submission.connect(address)


@pytest.mark.parametrize(("other", "here"), [([], True), (["another-machine"], False)])
def test_a_cluster_of_this_machine_alone_is_known(
    dashboard: tuple[str, dict[str, tuple[int, Any]]], other: list[str], here: bool
) -> None:
    import socket

    from ray.job_submission import JobSubmissionClient

    address, answers = dashboard
    answers["/api/version"] = (200, {"ray_version": "2.60.0"})
    answers["/nodes?view=hostNameList"] = (200, {"data": {"hostNameList": [socket.gethostname(), *other]}})

    assert submission.runs_here(JobSubmissionClient(address)) is here
