"""`syncclip serve`: errors before and during the start, the token, and termination."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from syncclip.core.settings import UserError
from syncclip.runtime.shutdown import INTERRUPTED_MESSAGE
from syncclip.serving import service
from tests.cli.test_app import Outcome, imported_by
from tests.inference.conftest import Train, images, train
from tests.ray_head import free_ports
from tests.serving.served import PATIENCE, served
from tests.worlds.clip import make_clip_folder

__all__ = ["images", "train"]  # fixtures


def test_others_are_let_in_with_a_token_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCCLIP_SERVE_TOKEN", raising=False)
    hosts = ("0.0.0.0", "192.0.2.7", "::", "example.org")
    slow, _ = imported_by(*(["serve", "missing", "--host", host] for host in hosts), status=2)
    assert not slow


def test_user_errors_are_one_line(capsys: pytest.CaptureFixture[str], train: Train, tmp_path: Path) -> None:
    assert "set a token with SYNCCLIP_SERVE_TOKEN" in Outcome(capsys, "serve", "missing", "--host", "0.0.0.0").error
    assert "no run found" in Outcome(capsys, "serve", str(tmp_path)).error
    run = train("training.method=zeroshot").url
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "different port" in Outcome(capsys, "serve", run, "--port", port).error
    assert "different port or host" in Outcome(capsys, "serve", run, "--host", "192.0.2.7", "--token", "x").error


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["runs/a"], True),
        (["hf://a/b"], False),
        (["hf://a/b", "--neighbours"], True),
        (["runs/a", "--no-neighbours"], False),
        (["runs/a", "--host", "0.0.0.0", "--token", "x"], False),
        (["runs/a", "--host", "0.0.0.0", "--token", "x", "--neighbours"], True),
    ],
)
def test_training_images_of_local_runs_are_shown_on_this_machine_by_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], shown: bool
) -> None:
    def serving(settings: service.ServiceSettings, *_: object) -> None:
        raise UserError(f"neighbours: {settings.neighbours}")

    monkeypatch.setattr(service, "serving", serving)
    assert Outcome(capsys, "serve", *arguments).error == f"neighbours: {shown}"


@pytest.mark.ray
@pytest.mark.slow
def test_a_public_service_requires_its_token_and_leaves_no_process(train: Train, images: Path) -> None:
    run, image = train("training.method=zeroshot").url, (images / "00.png").read_bytes()
    with served(run, "--host", "0.0.0.0", SYNCCLIP_SERVE_TOKEN="open sesame") as service:
        assert service.ask("/classify", image)[0] == 401
        assert service.ask("/classify", image, authorization="Bearer open sesame")[0] == 200
        processes = psutil.Process(service.command.pid).children(recursive=True)
        assert any("ServeReplica" in " ".join(item.cmdline()) for item in processes)
        os.killpg(service.command.pid, signal.SIGTERM)
        out, err = service.command.communicate(timeout=PATIENCE)
    assert (service.command.returncode, out) == (143, "")
    *progress, _, last = err.splitlines()
    assert last == INTERRUPTED_MESSAGE
    assert progress == [
        "serve: starting Ray",
        f"serve: starting Ray Serve on 0.0.0.0:{service.port}",
        "serve: loading CLIP weights and the run into 1 replica",
    ]
    assert not [item for item in processes if item.is_running() and item.status() != psutil.STATUS_ZOMBIE]
    with socket.create_server(("", service.port)):
        pass


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_an_error_in_a_replica_is_one_line(capsys: pytest.CaptureFixture[str], train: Train, tmp_path: Path) -> None:
    run, other = train("training.method=zeroshot").url, make_clip_folder(tmp_path / "other", seed=5)
    options = ["--backbone", f"local-dir:{other}", "--port", str(free_ports(1)[0])]
    error = Outcome(capsys, "serve", run, *options).error
    assert error.startswith(f"{run}: CLIP model ")
    assert "does not match the model used for training (different weights" in error
