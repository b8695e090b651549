"""Ray in a command: start, join, capacity and loss."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from syncclip.core.settings import UserError
from syncclip.runtime import ray_session
from syncclip.runtime.ray_session import lives, unwrapped
from tests.conftest import TinyWorld
from tests.ray_head import ray_head
from tests.training.processes import exit_code


def test_quiet_keeps_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    ray_session.quiet()
    assert os.environ["RAY_DEDUP_LOGS"] == "0"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_initialised_ray_is_used_and_not_shut_down() -> None:
    import ray

    with ray_session.ray_session():
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_of_the_tests_is_not_initialised_in_forked_processes() -> None:
    import ray

    assert exit_code(lambda: sys.exit(1 if ray.is_initialized() else 0)) == 0
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_exception_of_a_nested_task_is_unwrapped() -> None:
    import ray

    def outer() -> None:
        def inner() -> None:
            raise UserError("no such file")

        ray.get(ray.remote(inner).remote())

    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(ray.remote(outer).remote())
    cause = unwrapped(caught.value)
    assert type(cause) is UserError and str(cause) == "no such file"
    assert unwrapped(cause) is cause


LOCAL = """
import os, psutil, ray, subprocess, sys, tempfile
from pathlib import Path
from syncclip.runtime.ray_session import ray_session

CLIENT = '''
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    print("rejected")
'''

def on_worker():
    return tempfile.mkdtemp(), os.environ["RAY_AUTH_TOKEN_PATH"]

os.umask(0)
for base in ("/tmp", sys.argv[1]):
    os.environ["RAY_TMPDIR"] = base
    with ray_session(cpus=1):
        temporary, token = map(Path, ray.get(ray.remote(on_worker).remote()))
        parent = Path(ray._private.worker._global_node.get_temp_dir_path()).parent
        print(temporary.exists(), *(oct(path.stat().st_mode & 0o777) for path in (parent, token.parent, token)))
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [socket for process in family for socket in process.net_connections("tcp")]
        print({socket.laddr.ip.removeprefix("::ffff:") for socket in sockets if socket.status == "LISTEN"})
        without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        for auth in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
            command = [sys.executable, "-c", CLIENT, ray.get_runtime_context().gcs_address]
            print(subprocess.run(command, env=without | auth, capture_output=True, text=True).stdout.strip())
    print(ray.is_initialized(), temporary.exists(), token.exists(), os.environ["RAY_AUTH_TOKEN"])
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_ray_is_private_silent_and_leaves_no_files() -> None:
    """It listens on loopback, requires a token, and is started twice: with a short and with a long RAY_TMPDIR."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SYNCCLIP_"))}
    with TemporaryDirectory(prefix="sc-longer-", dir="/tmp") as base:
        command = [sys.executable, "-c", LOCAL, base]
        environment["RAY_AUTH_TOKEN"] = "user's"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert not any(Path(base).iterdir())
    assert (done.returncode, done.stderr) == (0, "")
    expected = ["True 0o700 0o700 0o600", "{'127.0.0.1'}", "rejected", "rejected", "False False False user's"]
    assert done.stdout.splitlines() == 2 * expected


class Daemons:
    """Replaces a local Ray: each start makes a daemon with a worker that outlives it."""

    def __init__(self) -> None:
        self.daemons: list[psutil.Popen] = []
        self.workers: list[psutil.Process] = []
        self.timeouts = 0
        """Number of the first starts that exceed Ray's timeout."""

    def start(self, **_: object) -> None:
        self.daemons.append(psutil.Popen(["sh", "-c", "sleep 600 & wait"]))
        while not (workers := self.daemons[-1].children()):
            time.sleep(0.01)
        self.workers += workers
        if len(self.daemons) <= self.timeouts:
            raise Exception("The current node timed out during startup.")

    def shut_down(self) -> None:
        """Like Ray, ignore the daemons of a failed start."""
        for daemon in self.daemons[self.timeouts :]:
            daemon.kill()

    def alive(self) -> list[psutil.Process]:
        return [process for process in (*self.daemons, *self.workers) if lives(process)]


@pytest.fixture
def daemons(no_ray_yet: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemons]:
    replaced = Daemons()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", replaced.start)
    monkeypatch.setattr("ray.shutdown", replaced.shut_down)
    monkeypatch.setattr(ray_session, "END_SECONDS", 0.1)
    monkeypatch.setattr(ray_session, "watched", lambda *_: nullcontext())
    yield replaced
    for process in replaced.alive():
        process.kill()
    for daemon in replaced.daemons:
        daemon.wait()


def test_no_worker_outlives_a_local_ray(daemons: Daemons) -> None:
    other = psutil.Popen(["sleep", "600"])
    with ray_session.ray_session():
        assert len(daemons.alive()) == 2
    assert daemons.alive() == []
    assert lives(other)
    other.kill()
    other.wait()


def test_a_start_that_times_out_is_cleaned_up_and_retried(daemons: Daemons) -> None:
    daemons.timeouts = 2
    with ray_session.ray_session():
        assert len(daemons.daemons) == 3
        assert set(daemons.alive()) == {daemons.daemons[-1], daemons.workers[-1]}
    assert daemons.alive() == []


def test_a_start_that_always_times_out_fails(daemons: Daemons) -> None:
    daemons.timeouts = 100
    with pytest.raises(Exception, match="timed out during startup"), ray_session.ray_session():
        pass
    assert len(daemons.daemons) == ray_session.START_ATTEMPTS
    assert daemons.alive() == []


GPUS = """
  head: {max_workers: 0, resources: {CPU: 2}}
  draw-spot: {max_workers: 8, resources: {CPU: 8, GPU: 1}, labels: {ray.io/market-type: spot}}
  draw-on-demand: {max_workers: 2, resources: {CPU: 8, GPU: 1}}
"""
"""Node types of an autoscaling cluster."""


@pytest.fixture
def autoscaling_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a head with two CPUs that `ray up` started."""
    config = tmp_path / "ray_bootstrap_config.yaml"
    config.write_text(f"available_node_types:\n{GPUS}")
    monkeypatch.setattr(ray_session, "BOOTSTRAP", config)
    node = {"Alive": True, "Labels": {}, "Resources": {"CPU": 2.0, "memory": 10.0}}
    monkeypatch.setattr("ray.nodes", lambda: [node, {**node, "Alive": False}])
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    return config


@pytest.mark.usefixtures("autoscaling_head")
@pytest.mark.parametrize(("value", "gpus"), [("!spot", 2), ("spot", 8), ("on-demand", 0), ("!on-demand", 10)])
def test_capacity_includes_machines_that_a_cluster_may_start(value: str, gpus: int) -> None:
    assert ray_session.capacity() == {"CPU": 80, "GPU": 10, "memory": 10}
    assert ray_session.capacity({"ray.io/market-type": value})["GPU"] == gpus


def test_capacity_of_node_types_without_resources_is_infinite(autoscaling_head: Path) -> None:
    autoscaling_head.write_text("available_node_types:\n  local.cluster.node: {max_workers: 2, resources: {}}")
    assert ray_session.capacity()["GPU"] == math.inf


def test_capacity_without_autoscaling_is_that_of_the_live_nodes(
    autoscaling_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as local:
        local.delenv("RAY_ADDRESS")
        assert ray_session.capacity()["GPU"] == 0
    autoscaling_head.unlink()
    assert ray_session.capacity() == {"CPU": 2, "GPU": 0, "memory": 10}


@pytest.mark.usefixtures("autoscaling_head")
def test_capacity_on_kubernetes_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    assert ray_session.capacity()["GPU"] == math.inf


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_unreachable_cluster_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match=f"no Ray cluster responds at RAY_ADDRESS={address}"):
        ray_session._check_reachable(address)


def test_other_versions_of_ray_and_python_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(**_: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.11.0\n    Python: 3.9.2\nThis process on "
            "node 127.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )

    monkeypatch.setattr("ray.init", reject)
    monkeypatch.setattr("ray._raylet.GcsClient", lambda **_: None)
    versions = r"Ray 2\.11\.0 on Python 3\.9\.2, but this machine runs Ray 2\.60\.0 on Python 3\.11\.7"
    with pytest.raises(ValueError, match=versions):
        ray_session._join("10.0.0.1:6379", 0, None)


JOINING = """
from syncclip.runtime.ray_session import ray_session
try:
    with ray_session():
        print("joined")
except ValueError as error:
    print(error)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("heads")
def test_a_wrong_or_missing_token_is_a_one_line_error(tmp_path: Path) -> None:
    token, rejected = "a" * 64, "rejected the token or received none; set RAY_AUTH_MODE=token, and set RAY_AUTH_TOKEN"
    cases: list[tuple[dict[str, str], str]] = [
        ({}, rejected),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}, rejected),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, rejected),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "clé"}, "RAY_AUTH_TOKEN: the token contains characters"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, "joined"),
    ]
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as head:
        own |= {"HOME": str(tmp_path), "RAY_ADDRESS": head.to_join["RAY_ADDRESS"]}
        command = [sys.executable, "-c", JOINING]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        for variables, expected in cases:
            done = subprocess.run(command, env={**own, **variables}, **pipes)  # type: ignore[call-overload]
            assert done.returncode == 0 and done.stdout.count("\n") == 1 and expected in done.stdout, done
            assert token not in done.stdout


def test_workers_import_from_the_paths_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = str(tmp_path / "own"), str(tmp_path / "other")
    monkeypatch.setattr(sys, "path", [*sys.path, own])
    paths = ray_session._job_config(None)._py_driver_sys_path
    paths.extend([own, other])
    assert paths == [own]


LOST = """
import os, socket, sys, time
import psutil
from syncclip.runtime import ray_session
from syncclip.runtime.shutdown import listening
ray_session.DAEMONS, ray_session.STUCK_SECONDS = ("sleep",), 0.5
ray_session.WATCH_INTERVAL, ray_session.PATIENCE = 0.1, 0.3
with listening():
    daemon = psutil.Popen(["sleep", "600"])
    head = socket.create_server(("127.0.0.1", 0))
    address = "local" if sys.argv[1] == "daemon" else f"ray://127.0.0.1:{head.getsockname()[1]}"
    try:
        with ray_session.watched(address, [daemon]):
            daemon.kill()
            head.close()
            if sys.argv[2] == "ended by Ray":
                os._exit(1)
            while True:
                try:
                    time.sleep(60)
                except KeyboardInterrupt:
                    if sys.argv[2] != "stuck":
                        raise
    except ray_session.LostRayError:
        print("raised")
"""


@pytest.mark.parametrize(
    ("lost", "main_thread", "status", "out"),
    [
        ("daemon", "waiting", 0, "raised\n"),
        ("daemon", "stuck", 1, ""),
        ("head", "waiting", 0, "raised\n"),
        ("head", "stuck", 1, ""),
        ("head", "ended by Ray", 1, ""),
    ],
)
def test_the_loss_of_ray_is_reported_and_interrupts_the_main_thread(
    lost: str, main_thread: str, status: int, out: str
) -> None:
    command = [sys.executable, "-c", LOST, lost, main_thread]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, out)
    name = "the local Ray instance" if lost == "daemon" else "the Ray cluster at ray://127"
    assert done.stderr.startswith(f"syncclip: {name}") and done.stderr.count("\n") == 1


def test_a_killed_command_does_not_report_the_loss_of_a_running_cluster() -> None:
    program = LOST.replace("head.close()", "os._exit(1)")
    with socket.create_server(("127.0.0.1", 0)) as head:
        program = program.replace("head.getsockname()[1]", str(head.getsockname()[1]))
        command = [sys.executable, "-c", program, "head", "waiting"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.nightly
@pytest.mark.xdist_group("heads")
def test_a_command_ends_with_one_message_if_the_clusters_head_is_lost(tiny: TinyWorld, tmp_path: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"
    command = [sys.executable, "-m", "syncclip", "synth", tiny.recipe, "--out", str(out)]
    with ray_head() as head, log.open("w") as output:
        environment = {**os.environ, **head.to_join}
        driver = subprocess.Popen(
            [*command, "synthesis.images_per_class=400"], env=environment, stdout=output, stderr=output
        )
        try:
            while not (out / "00000_stats.json").exists():
                assert driver.poll() is None, log.read_text()
                time.sleep(0.05)
            head.lose()
            status = driver.wait(300)
        finally:
            driver.kill()
            driver.wait()
    deadline = time.monotonic() + 60
    messages: list[str] = []
    while not messages and time.monotonic() < deadline:  # the witness prints after the command has ended
        time.sleep(0.1)
        messages = [line for line in log.read_text().splitlines() if not line.startswith("synth: ")]
    assert status == 1, messages
    (message,) = messages
    assert f"the Ray cluster at {head.to_join['RAY_ADDRESS']} " in message
    assert message.endswith("run the same command to resume")


BUSY = """
import sys, time
import psutil, ray
from syncclip.runtime.ray_session import ray_session
with ray_session(1):
    family = psutil.Process().children(recursive=True)
    part = [process for process in family if any(sys.argv[1] in text for text in (process.name(), *process.cmdline()))]
    assert part
    for process in part:
        process.suspend()
    time.sleep(float(sys.argv[2]))
    for process in part:
        process.resume()
    time.sleep(float(sys.argv[2]) / 2)
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    ("part", "seconds"),
    [
        ("raylet", 4),
        *(
            pytest.param(part, 10, marks=pytest.mark.nightly)
            for part in ("gcs_server", "DashboardAgent", "RuntimeEnvAgent")
        ),
    ],
)
def test_a_local_ray_survives_a_pause_of_its_processes(part: str, seconds: int) -> None:
    """As on an overloaded machine; health checks are 50 times as strict as by default, to fail within seconds."""
    strict = {"RAY_health_check_period_ms": "200", "RAY_health_check_timeout_ms": "200"}
    strict |= {"RAY_health_check_initial_delay_ms": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", BUSY, part, str(seconds)]
    done = subprocess.run(command, env={**environment, **strict}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


WITH_PROGRESS = """
import os, sys, time
from syncclip.runtime.progress import Progress
from syncclip.runtime.ray_session import ray_session
with Progress(2, "runs", "study") as progress, ray_session():
    os.write(2, b"native")
    progress.update(1)
    time.sleep(2)  # a live line is redrawn several times per second
    print("in session", file=sys.stderr)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_progress_is_shown_during_a_ray_session(terminal: bool) -> None:
    """Although the session drops what native code writes to file descriptor 2."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    reader, writer = os.openpty() if terminal else os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as output:
        started = subprocess.Popen([sys.executable, "-c", WITH_PROGRESS], env=environment, stderr=writer)
        os.close(writer)
        shown = b""
        with suppress(OSError):  # of a terminal without writers
            while part := output.read(4096):
                shown += part
    assert started.wait() == 0
    during = shown.partition(b"0/2")[2].partition(b"in session")[0]
    assert b"1/2" in during and b"runs/s" in during and b"native" not in shown
