"""Joining a Ray cluster, or starting a quiet one on this machine."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from syncclip.core.settings import UserError, check_token
from syncclip.core.trust import own_paths
from syncclip.runtime.ray_watch import lives, native_words_dropped, place_of, watched, witnessed
from syncclip.runtime.shutdown import at_once, handle_again
from syncclip.runtime.tempdirs import kept_apart, scratch_folder

if TYPE_CHECKING:
    import psutil

OBJECT_STORE_BYTES = 512 * 2**20
"""Local Ray's object store. Only shard specs and rows of statistics pass through it, so it need not grow."""

START_ATTEMPTS = 5
TOO_SLOW = "timed out during startup", "Failed to start GCS", "Timed out waiting for"
"""What Ray says of a start that took longer than it waits; on a busy machine the next may not."""

END_SECONDS = 10.0
"""For the workers of a local Ray to notice its end, before they are killed: Ray does not wait for them, and until then
they hold their GPU's memory."""

KILL_SECONDS = 10.0
"""For what was killed to end; nothing ends a process that waits for a broken disk."""

LONGEST_BASE, LONGEST_PLAIN = 6, 28
"""Characters of a folder in which a local Ray's own is made, under a name that says whose it is, or a shorter one; Ray
allows 107 for the names of its sockets in there."""

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` writes, on the head, which machines it may start."""

QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Ray Train's controller polls every 2 s and `report` waits for it; short epochs would spend their time there.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # By default a raylet that misses 5 health checks, as on an overloaded machine, is declared dead and aborts. A local
    # Ray needs none: `watched` sees whether its processes exist.
    "RAY_health_check_failure_threshold": "1000000",
}
"""Read by Ray while it is imported or started; a value that the user has set stays."""


def debugging() -> bool:
    """Whether `--debug` (or SYNCCLIP_DEBUG=1) asks for tracebacks and Ray's own output."""
    return os.environ.get("SYNCCLIP_DEBUG", "") not in ("", "0")


def local_cpus() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1


def cluster_address() -> str | None:
    """The cluster to join (RAY_ADDRESS); None to start a local one."""
    return os.environ.get("RAY_ADDRESS") or None


def quiet() -> None:
    """Silence Ray's own messages, unless `--debug` was given. Call before Ray starts."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not debugging():
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with these labels satisfies a label selector, whose values are "value" or "!value"."""
    return all((labels.get(key) == value.removeprefix("!")) != value.startswith("!") for key, value in selector.items())


def current_resources(selector: Mapping[str, str]) -> dict[str, float]:
    """CPUs, GPUs and other resources of the live nodes that satisfy a label selector."""
    import ray

    total = {"CPU": 0.0, "GPU": 0.0}
    for node in ray.nodes():
        if node["Alive"] and matches(node["Labels"], selector):
            for name, amount in node["Resources"].items():
                total[name] = total.get(name, 0.0) + amount
    return total


def capacity(selector: Mapping[str, str] | None = None) -> dict[str, float]:
    """CPUs, GPUs and other resources that the joined cluster has, or would have with every machine that it may start.

    A cluster that grows on demand is its head alone until something asks for more. Its limits are known on a head that
    `ray up` started; on Kubernetes they aren't, and count as infinite.

    Args:
        selector: a label selector; counts only the nodes that satisfy it.
    """
    selector = selector or {}
    there = current_resources(selector)
    if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE"):  # set in every pod of KubeRay
        return dict.fromkeys(there, math.inf)
    config = BOOTSTRAP.expanduser()
    if cluster_address() is None or not config.is_file():
        return there
    import yaml

    promised = dict.fromkeys(there, 0.0)
    for node in (yaml.safe_load(config.read_text(encoding="utf-8")).get("available_node_types") or {}).values():
        machines = node.get("max_workers") or 0
        if not machines or not matches(node.get("labels") or {}, selector):
            continue
        for name in promised:
            # a type without resources reports them only once it runs
            each = node["resources"].get(name, 0.0) if node.get("resources") else math.inf
            promised[name] += machines * each
    return {name: max(there[name], promised[name]) for name in there}


@contextmanager
def ray_session(cpus: int | None = None, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Ray, ready for use inside the `with` block.

    Uses the Ray that this process has already initialised; else joins the cluster that RAY_ADDRESS names (it is
    always set inside `ray job submit`); else starts Ray on this machine. What was started or joined here is shut
    down at the end, also after an error, and no process of a Ray that was started here outlives it; a Ray that the
    caller initialised stays as it is. Never searches the machine for other clusters, as `address="auto"` does.

    Args:
        cpus: CPUs of a Ray that is started here, by default all of this machine's; ignored where one is joined.
        variables: environment variables of this job's workers, for Ray's own use of them.

    Raises:
        ValueError: the cluster of RAY_ADDRESS can't be reached, or is of another version of Ray or Python.
    """
    quiet()
    import ray

    if ray.is_initialized():
        yield
        return
    level = logging.INFO if debugging() else logging.ERROR
    address = cluster_address() or "local"
    daemons: list[psutil.Process] = []
    with ExitStack() as stack:
        witness = stack.enter_context(witnessed(place_of(address)))
        if not debugging():
            stack.enter_context(native_words_dropped())
        if address != "local":
            _knock(address)
            _join(address, level, variables)
            stack.callback(_shut_down)
        else:
            folder = stack.enter_context(_folder_around(os.environ.get("RAY_TMPDIR", "/tmp")))  # as Ray itself decides
            private = stack.enter_context(scratch_folder())
            stack.enter_context(_guarded(private))
            with kept_apart(private):
                daemons = _start(cpus if cpus is not None else local_cpus(), level, folder, variables)
            stack.enter_context(_ended(daemons))
        quiet()  # importing Ray's libraries resets their loggers
        handle_again()
        stack.enter_context(watched(address, witness, daemons))
        yield


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Have a local Ray listen on loopback alone, and answer those only who read a token in a private folder.

    Left to itself, Ray listens on all of the machine's addresses, and writes its token so that other users can read it.
    """
    from ray import __version__, _raylet
    from ray._private import ray_constants

    native: Any = _raylet
    if not hasattr(native, "AuthenticationTokenLoader"):
        raise UserError(
            f"Ray {__version__} is installed, which knows no token; run pip install -U 'ray[default,train,data]>=2.52'"
        )

    def refresh() -> None:
        native.AuthenticationTokenLoader.instance().reset_cache()
        native.Config.initialize("")

    token, clusters = folder / "token", ray_constants.ENABLE_RAY_CLUSTER
    token.touch(0o600, exist_ok=False)
    token.write_text(secrets.token_hex(32))
    given = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    before = {name: os.environ.pop(name, None) for name in (*given, "RAY_AUTH_TOKEN")}
    os.environ.update(given)
    ray_constants.ENABLE_RAY_CLUSTER = False  # with which nodes of other machines are not expected
    refresh()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        refresh()


@contextmanager
def _folder_around(base: str) -> Iterator[Path | None]:
    """A private folder for that of a local Ray, which Ray opens to all users; None: names in it would be too long."""
    if len(base) <= LONGEST_BASE:
        with scratch_folder(base) as folder:
            yield folder
    elif len(base) <= LONGEST_PLAIN:
        with TemporaryDirectory(prefix="s", dir=base, ignore_cleanup_errors=True) as name:
            yield Path(name)
    else:
        yield None


@contextmanager
def _ended(daemons: list[psutil.Process]) -> Iterator[None]:
    """Let no process of a local Ray outlive the block, nor a second signal in it."""
    with at_once(lambda: _see_end(_with_descendants(daemons), 0)):
        try:
            yield
        finally:
            family = _with_descendants(daemons)
            _shut_down()
            _see_end(family, END_SECONDS)


def _shut_down() -> None:
    """Leave Ray once Ray Data's threads have ended: one that asks Ray anything afterwards ends the whole process."""
    import ray

    deadline = time.monotonic() + END_SECONDS
    for thread in threading.enumerate():
        kinds = type(thread), getattr(thread, "_target", None)
        if any(str(getattr(one, "__module__", "")).startswith("ray.data") for one in kinds):
            thread.join(max(0.0, deadline - time.monotonic()))
    ray.shutdown()


def _in_session_of_its_own() -> None:
    """In a child process: what a terminal or timeout(1) sends to all processes of the command doesn't reach Ray's."""
    if _starting:
        os.setsid()


_starting = False
os.register_at_fork(after_in_child=_in_session_of_its_own)


def _join(address: str, level: int, variables: Mapping[str, str] | None) -> None:
    """Join a cluster.

    Raises:
        ValueError: the cluster rejects the token, does not answer, or runs other versions of Ray or Python.
    """
    import ray
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RpcError

    check_token("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", ""))
    try:
        if not address.startswith("ray://"):
            # Reports a wrong token at once, `ray.init` after 20 s and as a lost connection; without one it would abort.
            ensure_token_if_auth_enabled(create_token_if_missing=False)
            GcsClient(address=address)
        ray.init(address=address, logging_level=level, log_to_driver=debugging(), job_config=own_paths(variables))
    except AuthenticationError as error:
        raise ValueError(
            f"the Ray cluster at RAY_ADDRESS={address} rejects the token, or there is none; set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN or the file ~/.ray/auth_token to the cluster's own"
        ) from error
    except (ConnectionError, RpcError) as error:
        raise ValueError(
            f"what listens at RAY_ADDRESS={address} does not answer as a Ray cluster; correct the address (HOST:PORT "
            "of the head), or unset RAY_ADDRESS to run on this machine"
        ) from error
    except RuntimeError as error:
        versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        if "Version mismatch" not in str(error) or len(versions) != 2:
            raise
        (ray_there, python_there), (ray_here, python_here) = versions
        raise ValueError(
            f"the cluster at RAY_ADDRESS={address} runs Ray {ray_there} on Python {python_there}, and here is Ray "
            f"{ray_here} on Python {python_here}; use the same versions, or `syncclip submit`, which runs on the "
            "cluster's own"
        ) from error


def _start(cpus: int, level: int, folder: Path | None, variables: Mapping[str, str] | None) -> list[psutil.Process]:
    """Start a local Ray and return its daemons; on a machine so busy that it isn't up within Ray's 30 s, try again.

    Ray leaves the daemons of a start that failed: they are killed, or they would slow down the next one.
    """
    import psutil
    import ray

    global _starting
    before = psutil.Process().children()
    place = {} if folder is None else {"_temp_dir": str(folder / "r")}
    for _ in range(START_ATTEMPTS):
        failure: Exception | None = None
        _starting = True
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=level,
                log_to_driver=debugging(),
                job_config=own_paths(variables),
                **place,
            )
        except Exception as error:
            failure = error
        finally:
            _starting = False
        daemons = [process for process in psutil.Process().children() if process not in before]
        if failure is None:
            return daemons
        family = _with_descendants(daemons)
        ray.shutdown()
        _see_end(family, 0)
        if not any(words in str(failure) for words in TOO_SLOW):
            break
    assert failure is not None
    raise failure


def _with_descendants(processes: list[psutil.Process]) -> list[psutil.Process]:
    import psutil

    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += [process, *process.children(recursive=True)]
    return found


def _see_end(family: list[psutil.Process], grace: float) -> None:
    """Wait until all have ended; kill those that haven't after so many seconds."""
    import psutil

    for seconds in (grace, KILL_SECONDS):
        deadline, pause = time.monotonic() + seconds, 0.05
        for process in family:
            while lives(process) and time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(1.2 * pause, 0.5)
        family = [process for process in family if lives(process)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _knock(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10.0):
            pass
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster answers at RAY_ADDRESS={address}; start it, correct the address (HOST:PORT of the head), "
            "or unset RAY_ADDRESS to run on this machine"
        ) from error
