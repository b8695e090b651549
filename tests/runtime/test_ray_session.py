from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from syncclip.core.settings import UserError
from syncclip.runtime import ray_session
from syncclip.runtime.ray_session import lives, unwrapped
from tests.conftest import TinyWorld
from tests.ray_head import ray_head


def test_debugging_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCCLIP_DEBUG", raising=False)
    assert not ray_session.debugging()
    monkeypatch.setenv("SYNCCLIP_DEBUG", "1")
    assert ray_session.debugging()


def test_quiet_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    ray_session.quiet()
    assert os.environ["RAY_DEDUP_LOGS"] == "0"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_initialised_ray_is_used_and_left_alone() -> None:
    import ray

    with ray_session.ray_session():
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_worker_raised_is_found_inside_the_wrappers_of_ray() -> None:
    import ray

    def outer() -> None:
        def inner() -> None:
            raise UserError("no such thing")

        ray.get(ray.remote(inner).remote())

    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(ray.remote(outer).remote())
    cause = unwrapped(caught.value)
    assert type(cause) is UserError and str(cause) == "no such thing"
    assert unwrapped(cause) is cause


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
def test_a_local_ray_starts_quietly_in_private_and_is_shut_down(long: bool) -> None:
    code = (
        "import ray, tempfile\nfrom pathlib import Path\nfrom syncclip.runtime.ray_session import ray_session\n"
        "def left(): return Path(tempfile.mkdtemp())\n"
        "with ray_session(cpus=1):\n    folder = ray.get(ray.remote(left).remote())\n    print(folder.exists())\n"
        "    around = Path(ray._private.worker._global_node.get_temp_dir_path()).parent\n"
        "    print(oct(around.stat().st_mode & 0o777))\n"
        "print(ray.is_initialized(), folder.exists())\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SYNCCLIP_"))}
    with TemporaryDirectory(prefix="sc-longer-", dir="/tmp") as base:
        if long:
            environment["RAY_TMPDIR"] = base
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=500
        )
        assert not any(Path(base).iterdir())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "0o700", "False", "False"]  # a worker's temporary files go with it
    assert done.stderr == ""


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_ray_listens_on_loopback_and_asks_for_a_token_that_others_cannot_read() -> None:
    code = """
import os, psutil, ray, subprocess, sys
from pathlib import Path
from syncclip.runtime.ray_session import ray_session
os.umask(0)
for _ in range(2):
    with ray_session(cpus=1):
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        places = {one.laddr.ip for p in family for one in p.net_connections("tcp") if one.status == "LISTEN"}
        token = Path(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN_PATH"]).remote()))
        print(*(one.removeprefix("::ffff:") for one in places))
        print(oct(token.stat().st_mode & 0o777), oct(token.parent.stat().st_mode & 0o777), len(token.read_text()))
        address = ray.get_runtime_context().gcs_address
        code = f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print('joined')"
        for other in ("0" * 64, ""):
            environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
            environment["RAY_AUTH_MODE"] = "token" if other else "disabled"
            environment |= {"RAY_AUTH_TOKEN": other} if other else {}
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
            print("joined" in done.stdout)
    print(token.exists(), os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN"))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SYNCCLIP_"))}
    environment |= {"RAY_AUTH_TOKEN": "of the user's cluster"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert set(lines[0].split()) == {"127.0.0.1"}
    assert lines[1:5] == ["0o600 0o700 64", "False", "False", "False None of the user's cluster"]
    assert lines[5:] == lines[:5]


def test_a_ray_without_tokens_is_refused_with_the_version_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("ray._raylet.AuthenticationTokenLoader")
    with (
        pytest.raises(UserError, match=r"^Ray [\d.]+ does not support tokens; run pip install -U .*2\.52"),
        ray_session._guarded(tmp_path),
    ):
        pass


class Daemons:
    """Stands in for a local Ray: a daemon for each start, each with a worker that doesn't end with it."""

    def __init__(self) -> None:
        self.daemons: list[psutil.Popen] = []
        self.workers: list[psutil.Process] = []
        self.slow = 0
        """How many of the first starts take too long."""

    def start(self, **_: object) -> None:
        self.daemons.append(psutil.Popen(["sh", "-c", "sleep 600 & wait"]))
        while not (workers := self.daemons[-1].children()):
            time.sleep(0.01)
        self.workers += workers
        if len(self.daemons) <= self.slow:
            raise Exception("The current node timed out during startup.")

    def shut_down(self) -> None:
        """As Ray does it: it doesn't know a start that failed."""
        for daemon in self.daemons[self.slow :]:
            daemon.kill()

    def left(self) -> list[psutil.Process]:
        return [process for process in (*self.daemons, *self.workers) if lives(process)]


@pytest.fixture
def daemons(no_ray_yet: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemons]:
    made = Daemons()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", made.start)
    monkeypatch.setattr("ray.shutdown", made.shut_down)
    monkeypatch.setattr(ray_session, "END_SECONDS", 0.1)
    monkeypatch.setattr(ray_session, "watched", lambda *_: nullcontext())
    yield made
    for process in made.left():
        process.kill()
    for daemon in made.daemons:
        daemon.wait()


def test_no_worker_outlives_a_local_ray_that_was_killed_before_it_ended_them(daemons: Daemons) -> None:
    other = psutil.Popen(["sleep", "600"])
    with ray_session.ray_session():
        assert len(daemons.left()) == 2
    assert daemons.left() == []
    assert lives(other)
    other.kill()
    other.wait()


def test_what_a_start_that_took_too_long_left_is_ended_before_the_next(daemons: Daemons) -> None:
    daemons.slow = 2
    with ray_session.ray_session():
        assert len(daemons.daemons) == 3
        assert set(daemons.left()) == {daemons.daemons[-1], daemons.workers[-1]}
    assert daemons.left() == []


def test_a_ray_that_never_starts_is_given_up_and_leaves_nothing(daemons: Daemons) -> None:
    daemons.slow = 100
    with pytest.raises(Exception, match="timed out during startup"), ray_session.ray_session():
        pass
    assert len(daemons.daemons) == ray_session.START_ATTEMPTS
    assert daemons.left() == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_unreachable_cluster_is_told_in_one_sentence(address: str) -> None:
    code = (
        "from syncclip.runtime.ray_session import ray_session\n"
        "try:\n    with ray_session():\n        pass\nexcept ValueError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"no Ray cluster responds at RAY_ADDRESS={address}" in done.stdout, done.stderr


def promise(folder: Path, monkeypatch: pytest.MonkeyPatch, types: str) -> None:
    """As on a head that `ray up` started: two CPUs of its own, and machines that it may start."""
    file = folder / "ray_bootstrap_config.yaml"
    file.write_text(f"available_node_types:\n{types}")
    monkeypatch.setattr(ray_session, "BOOTSTRAP", file)
    head = {"Alive": True, "Labels": {}, "Resources": {"CPU": 2.0, "memory": 10.0}}
    monkeypatch.setattr("ray.nodes", lambda: [head, {**head, "Alive": False}])
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)


GPUS = """
  head: {max_workers: 0, resources: {CPU: 2}}
  draw-spot: {max_workers: 8, resources: {CPU: 8, GPU: 1}, labels: {ray.io/market-type: spot}}
  draw-on-demand: {max_workers: 2, resources: {CPU: 8, GPU: 1}}
"""


def test_a_cluster_counts_with_the_machines_that_it_may_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promise(tmp_path, monkeypatch, GPUS)

    assert ray_session.capacity() == {"CPU": 80, "GPU": 10, "memory": 10}


@pytest.mark.parametrize(("value", "gpus"), [("!spot", 2), ("spot", 8), ("on-demand", 0), ("!on-demand", 10)])
def test_capacity_counts_the_machines_that_a_selector_accepts(
    value: str, gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise(tmp_path, monkeypatch, GPUS)

    assert ray_session.capacity({"ray.io/market-type": value})["GPU"] == gpus


def test_machines_of_which_nothing_is_known_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promise(tmp_path, monkeypatch, "  local.cluster.node: {max_workers: 2, resources: {}}")

    assert ray_session.capacity()["GPU"] == math.inf


def test_a_cluster_that_cannot_grow_has_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promise(tmp_path, monkeypatch, GPUS)
    monkeypatch.setattr(ray_session, "BOOTSTRAP", tmp_path / "none")

    assert ray_session.capacity() == {"CPU": 2, "GPU": 0, "memory": 10}


def test_what_another_cluster_may_start_says_nothing_of_a_ray_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise(tmp_path, monkeypatch, GPUS)
    monkeypatch.delenv("RAY_ADDRESS")

    assert ray_session.capacity()["GPU"] == 0


def test_on_kubernetes_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promise(tmp_path, monkeypatch, GPUS)
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")

    assert ray_session.capacity()["GPU"] == math.inf


def test_another_version_is_told_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.11.0\n    Python: 3.9.2\nThis process on "
            "node 127.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray_session, "_check_reachable", lambda _: None)
    monkeypatch.setattr("ray._raylet.GcsClient", lambda **_: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")

    sentence = r"runs Ray 2\.11\.0 on Python 3\.9\.2, but this machine runs Ray 2\.60\.0 on Python 3\.11\.7"
    with pytest.raises(ValueError, match=sentence), ray_session.ray_session():
        pass


JOINING = """
import sys
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
def test_a_wrong_or_missing_token_is_one_sentence(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = "a" * 64
    rejected = "rejected the token, or none was given; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or"
    cases: list[tuple[dict[str, str], str]] = [
        ({}, rejected),
        ({"RAY_AUTH_MODE": "token"}, rejected),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}, rejected),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, rejected),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "clé"},
            "RAY_AUTH_TOKEN: the token contains characters",
        ),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, "joined"),
    ]
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as head:
        for variables, expected in cases:
            environment = {**own, "HOME": str(tmp_path), "RAY_ADDRESS": head.to_join["RAY_ADDRESS"], **variables}
            done = subprocess.run(
                [sys.executable, "-c", JOINING], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0 and done.stdout.count("\n") == 1 and expected in done.stdout, done
            assert token not in done.stdout


def test_workers_find_modules_where_this_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = str(tmp_path / "known"), str(tmp_path / "unknown")
    monkeypatch.setattr(sys, "path", [*sys.path, known])
    paths = ray_session._job_config(None)._py_driver_sys_path
    paths.extend([known, unknown])
    assert paths == [known]


LOST = """
import sys, time
import psutil
from syncclip.runtime import ray_session
from syncclip.runtime.shutdown import listening
ray_session.DAEMONS, ray_session.STUCK_SECONDS = ("sleep",), 0.5
with listening():
    daemon = psutil.Popen(["sleep", "600"])
    try:
        with ray_session.watched("local", [daemon]):
            daemon.kill()
            while True:
                try:
                    time.sleep(60)
                except KeyboardInterrupt:
                    if len(sys.argv) == 1:
                        raise
    except ray_session.LostRayError:
        print("raised")
"""


@pytest.mark.parametrize(("stuck", "status", "out"), [([], 0, "raised\n"), (["stuck"], 1, "")])
def test_a_daemons_end_is_reported_and_interrupts_the_main_thread(stuck: list[str], status: int, out: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOST, *stuck], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.startswith("syncclip: this machine's Ray stopped responding") and done.stderr.count("\n") == 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("heads")
def test_a_command_ends_with_one_message_if_the_clusters_head_is_lost(tiny: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with ray_head() as head:
        command = [sys.executable, "-m", "syncclip", "synth", tiny.recipe, "--out", str(out)]
        with (tmp_path / "log").open("w+") as log:
            driver = subprocess.Popen(
                [*command, "synthesis.images_per_class=400"], env={**os.environ, **head.to_join}, stdout=log, stderr=log
            )
            try:
                while not (out / "00000_stats.json").exists():
                    assert driver.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.05)
                head.lose()
                status = driver.wait(300)
            finally:
                driver.kill()
                driver.wait()
            log.seek(0)
            messages = [line for line in log.read().splitlines() if not line.startswith("synth: ")]
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
    paused = [one for one in family if sys.argv[1] in one.name() or any(sys.argv[1] in word for word in one.cmdline())]
    assert paused
    for one in paused:
        one.suspend()
    time.sleep(10)
    for one in paused:
        one.resume()
    time.sleep(5)
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("part", ["raylet", "gcs_server", "DashboardAgent", "RuntimeEnvAgent"])
def test_a_local_ray_that_is_unresponsive_for_a_while_is_not_lost(part: str) -> None:
    """As on an overloaded machine; health checks are made 50 times as strict, to fail within seconds."""
    strict = {"RAY_health_check_period_ms": "200", "RAY_health_check_timeout_ms": "200"}
    strict |= {"RAY_health_check_initial_delay_ms": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", BUSY, part]
    done = subprocess.run(command, env={**environment, **strict}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
