"""Submitting, joining and following jobs; `tests/cluster/test_jobs.py` does it on a real cluster."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncclip.cli import submit
from syncclip.core.settings import UserError
from tests.cli.test_app import Outcome
from tests.cli.test_submission import BUCKET, of


def test_the_options_of_a_reproduction_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing option '--root'" in Outcome(capsys, "submit", "reproduce", "few-shot").refusal
    assert "belong to reproduce" in Outcome(capsys, "submit", "train", "icons", "--root", "/data").refusal


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
    jobs = Jobs([earlier(one.name, True), earlier(f"{one.name}-2", False)])

    assert submit.start(jobs, one) == (f"{one.name}-2", True)
    assert jobs.submitted == []


def test_an_ended_job_is_submitted_again_under_the_next_number() -> None:
    one = of(BUCKET)
    jobs = Jobs([earlier(one.name, True), earlier("syncclip-synth-icons-other", False), earlier("", False)])

    assert submit.start(jobs, one) == (f"{one.name}-2", False)
    assert jobs.submitted[0]["submission_id"] == f"{one.name}-2"


def test_who_was_faster_is_joined() -> None:
    one = of(BUCKET)

    assert submit.start(Jobs(refusal=f"Job {one.name} already exists."), one) == (one.name, True)


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
        submit.connect("http://127.0.0.1:1")


def test_something_else_than_ray_is_told(dashboard: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    with pytest.raises(UserError, match="is no Ray dashboard"):
        submit.connect(dashboard[0])


def test_a_missing_token_is_told(dashboard: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    address, answers = dashboard
    answers["/api/version"] = (401, "Unauthorized: Missing authentication token")

    with pytest.raises(UserError, match="asks for a token; set RAY_AUTH_MODE=token"):
        submit.connect(address)


def test_a_token_is_looked_for_where_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not submit.has_token()

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret")
    assert submit.has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert not submit.has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert submit.has_token()


@pytest.mark.parametrize(("other", "here"), [([], True), (["192.0.2.7"], False)])
def test_a_cluster_of_this_machine_alone_is_known(
    other: list[str], here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [SimpleNamespace(node_ip=address) for address in ["127.0.0.1", *other]]
    monkeypatch.setattr("ray.util.state.list_nodes", lambda _: nodes)

    assert submit.runs_here("http://127.0.0.1:8265") is here


@pytest.mark.parametrize(
    ("log", "message", "why"),
    [
        ("synth: 3 of 9\nsyncclip: no space left\nsome Ray noise\n", "Job failed", "no space left"),
        ("Traceback\n  ...\nRuntimeError: odd\n\n", "Job failed", "RuntimeError: odd"),
        ("", "Failed to set up\nthe environment", "Failed to set up the environment"),
        ("", "", "the cluster reports no reason"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(log: str, message: str, why: str) -> None:
    assert submit.reason(log, message) == why


class Running:
    """A cluster that shows so much of a job's log at each look, in characters; at a negative number it fails."""

    log = "synth: 3 of 9\nsynth: 9 of 9\n"

    def __init__(self, *looks: int, state: str = "SUCCEEDED", code: int | None = 0) -> None:
        self.looks = list(looks)
        self.info = SimpleNamespace(status=state, driver_exit_code=code, message="")

    def get_job_status(self, _: str) -> Any:
        return SimpleNamespace(is_terminal=lambda: len(self.looks) == 1 and self.looks[0] >= 0)

    def get_job_logs(self, _: str) -> str:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if look < 0:
            raise RuntimeError("Request failed with status code 500")
        return self.log[:look]

    def get_job_info(self, _: str) -> Any:
        return self.info


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "PAUSE", 0.0)


@pytest.mark.parametrize(
    ("state", "code", "status"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130)]
)
def test_the_exit_status_is_that_of_the_job(state: str, code: int | None, status: int) -> None:
    assert submit.follow(Running(28, state=state, code=code), "job", "stop") == status


@pytest.mark.parametrize("looks", [(28,), (9, 28), (9, -1, 17, -1, -1, 28), (0, 28, 28)])
def test_the_log_is_printed_once_however_often_the_connection_breaks(
    looks: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.follow(Running(*looks), "job", "stop") == 0
    assert capsys.readouterr().out == Running.log


def test_a_cluster_that_is_gone_is_reported_in_the_end() -> None:
    with pytest.raises(UserError, match=r"stopped answering \(Request.* job syncclip-synth-a continues"):
        submit.follow(Running(9, -1), "syncclip-synth-a", "stop")
