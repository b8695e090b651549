"""Ray sessions: connect to a cluster or start a private local Ray instance, report lost connections, stop workers."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from syncclip.core.labels import matches, terms
from syncclip.core.settings import UserError, check_token
from syncclip.core.text import printable
from syncclip.runtime import shutdown
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.processes import changed_environment
from syncclip.runtime.progress import print_message
from syncclip.runtime.tempdirs import MACHINE, private_tempdir, temporary_folder

if TYPE_CHECKING:
    import psutil

OBJECT_STORE_BYTES = 512 * 2**20
"""Size of a local Ray instance's object store in bytes; the store only contains shard specs and statistics."""

START_ATTEMPTS = 5
START_TIMEOUTS = "timed out during startup", "Failed to start GCS", "Timed out waiting for"
"""Error messages of Ray startup timeouts, which occur on busy machines; startup is retried."""

END_SECONDS = 10.0
"""Grace period in seconds for local workers, which hold GPU memory until they exit; Ray does not wait for them."""

KILL_SECONDS = 10.0
"""Timeout in seconds for killed processes to exit; a process blocked by a failed disk never exits."""

LONGEST_BASE, LONGEST_PLAIN = 6, 28
"""Maximum lengths of RAY_TMPDIR, in characters: for a subfolder named after the process, and for a subfolder with a
short random name. Ray limits socket paths to 107 characters."""

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""File on the head node in which `ray up` lists the available machine types and their limits."""

NODE_LABELS = frozenset({"ray.io/node-id", "ray.io/node-group"})
"""Labels that Ray sets on every node to distinguish nodes."""

QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Ray Train's controller polls every 2 s, and `report` waits for it; the delay would dominate short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # By default a raylet that misses 5 health checks (for example, on an overloaded machine) is declared dead and
    # aborts. A local Ray instance does not need health checks, since `watched` waits for its processes.
    "RAY_health_check_failure_threshold": "1000000",
}
"""Environment variables that Ray reads at import or startup; values set by the user take precedence."""

WATCH_INTERVAL = 2.0
"""Interval and timeout, in seconds, of connection attempts to a cluster's head node."""

PATIENCE = 30.0
"""Seconds without a connection after which a cluster is reported as lost."""

DAEMONS = ("raylet", "gcs_server")
"""Processes that a local Ray instance requires."""

STUCK_SECONDS = 5.0
"""Seconds after the loss of Ray before the process is terminated; some Ray calls wait forever for a lost head node."""

WATCHDOG = """
import socket, sys
message, *endpoints = sys.argv[1:]
if not sys.stdin.buffer.read():  # the command ended without a message
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError:
            sys.stderr.write(message + chr(10))
            break
"""
"""Source code of the watchdog process, which reports the loss of a cluster if Ray has terminated the command."""

EXIT_STATUS = 1
"""Exit status of a command whose Ray instance or cluster was lost."""


class LostRayError(UserError):
    """A Ray process or machine was lost; the error message has already been printed."""


def debugging() -> bool:
    """Return whether `--debug` or SYNCCLIP_DEBUG=1 enables tracebacks and Ray's own output."""
    return os.environ.get("SYNCCLIP_DEBUG", "") not in ("", "0")


def local_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1


def cluster_address() -> str | None:
    """Return the address of the cluster to join (RAY_ADDRESS); None to start a local Ray instance."""
    return os.environ.get("RAY_ADDRESS") or None


def quiet() -> None:
    """Silence Ray's own messages unless `--debug` is set; must be called before Ray starts."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not debugging():
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)


def current_resources(selector: Mapping[str, str]) -> dict[str, float]:
    """Return the CPUs, GPUs and other resources of the live nodes that match a label selector."""
    import ray

    total = {"CPU": 0.0, "GPU": 0.0}
    for node in ray.nodes():
        if node["Alive"] and matches(node["Labels"], selector):
            for name, count in node["Resources"].items():
                total[name] = total.get(name, 0.0) + count
    return total


def capacity(selector: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return the resources of all nodes that match a label selector, including nodes that autoscaling may add.

    The autoscaling limits are only available on a head node started by `ray up`. On Kubernetes, the limits are
    unknown and assumed to be infinite.
    """
    selector = selector or {}
    current = current_resources(selector)
    if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE"):  # set in every KubeRay pod
        return dict.fromkeys(current, math.inf)
    if not (types := _node_types()):
        return current
    limits = dict.fromkeys(current, 0.0)
    for node in types:
        machines = node.get("max_workers") or 0
        if machines and matches(node.get("labels") or {}, selector):
            for name in limits:  # undeclared resources are known once a node runs
                limits[name] += machines * (node["resources"].get(name, 0.0) if node.get("resources") else math.inf)
    return {name: max(current[name], limits[name]) for name in current}


def require_nodes(selector: Mapping[str, str], key: str) -> None:
    """Raise a UserError that lists the nodes' labels if no node or node type matches the label selector of a setting.

    If Ray is not running, the selector must match the unlabelled node of a local Ray instance.
    """
    import ray

    if not selector or (capacity(selector)["CPU"] if ray.is_initialized() else matches({}, selector)):
        return
    live = [node["Labels"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    every = [*live, *(node.get("labels") or {} for node in _node_types())]
    labels = {f"{name}={value}" for each in every for name, value in each.items() if name not in NODE_LABELS}
    raise UserError(f"{key}: no node has {terms(selector)}; labels of the nodes: {', '.join(sorted(labels)) or 'none'}")


def _node_types() -> list[dict[str, Any]]:
    """Return the node types of a cluster started by `ray up`, if this machine is its head node."""
    config = BOOTSTRAP.expanduser()
    if cluster_address() is None or not config.is_file():
        return []
    import yaml

    return list((yaml.safe_load(config.read_text(encoding="utf-8")).get("available_node_types") or {}).values())


@contextmanager
def ray_session(cpus: int | None = None, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Initialise Ray for the duration of the `with` block, unless this process has already initialised it.

    If RAY_ADDRESS is set (as in all jobs submitted with `ray job submit`), the process joins that cluster; otherwise it
    starts a local Ray instance. Unlike `address="auto"`, this does not search for other clusters. Ray is shut down
    after the `with` block, and all processes of a local Ray instance are terminated.

    Args:
        cpus: number of CPUs of a local Ray instance; default: all CPUs available to this process.
        variables: environment variables that Ray sets in the workers.

    Raises:
        ValueError: the cluster at RAY_ADDRESS is unreachable, or runs a different version of Ray or Python.
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
        if not debugging():
            stack.enter_context(_native_logs_dropped())
        if address != "local":
            _check_reachable(address)
            _join(address, level, variables)
            stack.callback(_shut_down)
        else:
            base = os.environ.get("RAY_TMPDIR", "/tmp")  # Ray's own default
            parent: Path | None = None
            # Ray's folder is world-readable, so it needs a private parent, unless the paths would be too long.
            if len(base) <= LONGEST_BASE:
                parent = stack.enter_context(private_tempdir(base))
            elif len(base) <= LONGEST_PLAIN:
                plain = TemporaryDirectory(prefix="s", dir=base, ignore_cleanup_errors=True)
                parent = Path(stack.enter_context(plain))
            # Ray kills workers before they can remove their temporary files, so this process removes the folder.
            private = stack.enter_context(private_tempdir())
            stack.enter_context(_guarded(private))
            with changed_environment({MACHINE: str(temporary_folder()), "TMPDIR": str(private)}):
                daemons = _start(cpus if cpus is not None else local_cpus(), level, parent, variables)
            stack.enter_context(_ended(daemons))
        quiet()  # importing Ray's libraries resets their loggers
        shutdown.reinstall_handlers()
        stack.enter_context(watched(address, daemons))
        yield


@contextmanager
def _native_logs_dropped() -> Iterator[None]:
    """Discard what Ray's C++ code and daemons write to this process's stderr; Ray has no option for this."""
    import ray._private.worker as ray_worker

    ray_worker._worker_logs_enabled = False  # otherwise a thread prints the raylet's messages
    sys.stderr.flush()
    visible, python = os.dup(2), sys.stderr
    with suppress(OSError, ValueError, AttributeError):  # not a file, as in a notebook
        if python.fileno() == 2:
            sys.stderr = os.fdopen(visible, "w", buffering=1, encoding=python.encoding, errors=python.errors)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(visible, 2)
        sys.stderr = python
        ray_worker._worker_logs_enabled = True


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Restrict a local Ray instance to the loopback interface and to clients that can read a token in a private folder.

    By default, Ray listens on all addresses of the machine, and other users can read the token.
    """
    from ray import _raylet
    from ray._private import ray_constants

    native: Any = _raylet

    def reload() -> None:
        native.AuthenticationTokenLoader.instance().reset_cache()
        native.Config.initialize("")

    token, clusters = folder / "token", ray_constants.ENABLE_RAY_CLUSTER
    token.touch(0o600, exist_ok=False)
    token.write_text(secrets.token_hex(32))
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_AUTH_TOKEN": None,
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    ray_constants.ENABLE_RAY_CLUSTER = False  # no nodes on other machines
    try:
        with changed_environment(values):
            reload()
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        reload()


@contextmanager
def _ended(daemons: list[psutil.Process]) -> Iterator[None]:
    """Terminate all processes of a local Ray instance at the end of the `with` block or on a second signal."""
    with shutdown.at_once(lambda: _end(_with_descendants(daemons), 0)):
        try:
            yield
        finally:
            family = _with_descendants(daemons)
            _shut_down()
            _end(family, END_SECONDS)


def _shut_down() -> None:
    """Shut down Ray after Ray Data's threads have ended; a later Ray call from a thread would kill the process."""
    import ray

    deadline = time.monotonic() + END_SECONDS
    for thread in threading.enumerate():
        sources = type(thread), getattr(thread, "_target", None)
        if any(str(getattr(source, "__module__", "")).startswith("ray.data") for source in sources):
            thread.join(max(0.0, deadline - time.monotonic()))
    ray.shutdown()


def _detach_child() -> None:
    """Start a new session in a child process, so that signals from a terminal or timeout(1) do not reach Ray."""
    if _starting:
        os.setsid()


_starting = False
os.register_at_fork(after_in_child=_detach_child)


def _job_config(variables: Mapping[str, str] | None) -> Any:
    """Return a job configuration that makes workers import modules from the same paths as this process.

    By default, workers first search the working directory, which may contain an unrelated `torch.py`.
    """
    from ray.job_config import JobConfig

    class SearchPath(list[str]):
        """List that rejects paths outside this process's `sys.path`."""

        def extend(self, paths: Iterable[str]) -> None:
            own_paths = {str(Path(path or ".").absolute()) for path in sys.path}
            super().extend(path for path in paths if path in own_paths)

    config = JobConfig(runtime_env={"env_vars": dict(variables)} if variables else None)
    config._py_driver_sys_path = SearchPath()
    return config


def _check_reachable(address: str) -> None:
    """Raise a ValueError if no server listens at the address; Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (port.isdigit() and _listens((host, int(port)), 10.0)):
        raise ValueError(
            f"no Ray cluster responds at RAY_ADDRESS={address}; start it, correct the address (HOST:PORT of the head "
            "node), or unset RAY_ADDRESS to run on this machine"
        )


def _join(address: str, level: int, variables: Mapping[str, str] | None) -> None:
    """Join a cluster.

    Raises:
        ValueError: the cluster rejects the token, does not respond, or runs a different version of Ray or Python.
    """
    import ray
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RpcError

    check_token("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", ""))
    try:
        if not address.startswith("ray://"):
            # Report a wrong token immediately; `ray.init` would report a lost connection after 20 s, or abort.
            ensure_token_if_auth_enabled(create_token_if_missing=False)
            GcsClient(address=address)
        ray.init(address=address, logging_level=level, log_to_driver=debugging(), job_config=_job_config(variables))
    except AuthenticationError as error:
        raise ValueError(
            f"the Ray cluster at RAY_ADDRESS={address} rejected the token or received none; set RAY_AUTH_MODE=token, "
            "and set RAY_AUTH_TOKEN or the content of ~/.ray/auth_token to the cluster's token"
        ) from error
    except (ConnectionError, RpcError) as error:
        raise ValueError(
            f"the service at RAY_ADDRESS={address} is not a Ray cluster; correct the address (HOST:PORT of the head "
            "node), or unset RAY_ADDRESS to run on this machine"
        ) from error
    except RuntimeError as error:
        versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        if "Version mismatch" not in str(error) or len(versions) != 2:
            raise
        (cluster_ray, cluster_python), (local_ray, local_python) = versions
        raise ValueError(
            f"the cluster at RAY_ADDRESS={address} runs Ray {cluster_ray} on Python {cluster_python}, but this machine "
            f"runs Ray {local_ray} on Python {local_python}; use the same versions, or run `syncclip submit`"
        ) from error


def _start(cpus: int, level: int, folder: Path | None, variables: Mapping[str, str] | None) -> list[psutil.Process]:
    """Start a local Ray instance and return its daemons; retry if startup exceeds Ray's timeout on a busy machine.

    Daemons of a failed startup, which Ray does not stop, are killed because they would slow down the next attempt.
    """
    import psutil
    import ray

    global _starting
    previous = psutil.Process().children()
    location = {} if folder is None else {"_temp_dir": str(folder / "r")}
    for attempts_left in reversed(range(START_ATTEMPTS)):
        _starting = True
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=level,
                log_to_driver=debugging(),
                job_config=_job_config(variables),
                **location,
            )
            break
        except Exception as error:
            family = _with_descendants([child for child in psutil.Process().children() if child not in previous])
            ray.shutdown()
            _end(family, 0)
            if not attempts_left or not any(message in str(error) for message in START_TIMEOUTS):
                raise
        finally:
            _starting = False
    return [child for child in psutil.Process().children() if child not in previous]


def _with_descendants(processes: list[psutil.Process]) -> list[psutil.Process]:
    import psutil

    family = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family += [process, *process.children(recursive=True)]
    return family


def _end(family: list[psutil.Process], grace: float) -> None:
    """Wait for processes to exit, and kill those that are still running after `grace` seconds."""
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


def lives(process: psutil.Process) -> bool:
    """Return whether a process is running; False for a zombie, which remains in a container without an init process."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def watched(address: str, daemons: Sequence[psutil.Process] = ()) -> Iterator[None]:
    """Report the loss of a Ray process or machine during the block, even if a Ray call blocks the main thread.

    Args:
        address: address of a cluster, or "local".
        daemons: daemons of a local Ray instance.

    Raises:
        LostRayError: a Ray process or machine was lost.
    """
    import psutil

    name = "the local Ray instance" if address == "local" else f"the Ray cluster at {address}"
    lost, ended = threading.Event(), threading.Event()
    message = f"{name} {{}} (killed, stopped, or out of memory); run the same command to resume"
    unresponsive = message.format("stopped responding")
    stuck = threading.Timer(STUCK_SECONDS, shutdown.end_process, [None, EXIT_STATUS])
    stuck.daemon = True

    def report() -> None:
        if not ended.is_set() and not lost.is_set():
            lost.set()
            stuck.start()
            dismiss()
            print_message(f"syncclip: {unresponsive}")  # first, since Ray may end the process at its next call
            shutdown.interrupt_main(f"{name} was lost")

    def wait_for(daemon: psutil.Process) -> None:
        with suppress(psutil.Error):
            daemon.wait()
        report()

    failures = 0

    def check_connections() -> None:
        nonlocal failures
        failures = 0 if all(map(_listens, endpoints)) else failures + 1
        if failures * WATCH_INTERVAL >= PATIENCE:
            report()

    with ExitStack() as stack:
        dismiss = _no_watchdog
        if address == "local":
            for daemon in daemons:
                if daemon.name() in DAEMONS:
                    threading.Thread(target=wait_for, args=[daemon], daemon=True).start()
        else:
            endpoints = _endpoints(address)
            dismiss = stack.enter_context(_watchdog(f"syncclip: {unresponsive}", endpoints))
            stack.enter_context(repeating(check_connections, WATCH_INTERVAL))
        try:
            yield
        except BaseException as error:
            if lost.is_set():
                raise LostRayError(unresponsive) from error
            if not _is_loss(error):
                raise
            dismiss()
            part = message.format(f"lost a process or a machine: {type(error).__name__}")
            print_message(f"syncclip: {part}")
            raise LostRayError(part) from error
        finally:
            ended.set()
            stuck.cancel()


@contextmanager
def _watchdog(message: str, endpoints: Sequence[tuple[str, int]]) -> Iterator[Callable[[], None]]:
    """Start a watchdog process that reports the loss of a cluster if Ray terminates this process.

    Ray silently terminates a command whose raylet is lost, possibly before `watched` detects the loss.

    Args:
        message: message to print to stderr if the process ends within the `with` block and an endpoint is unreachable.

    Yields:
        A function that stops the watchdog, to be called before this process prints a message.
    """
    import subprocess

    addresses = [f"{host}:{port}" for host, port in endpoints]
    command = [sys.executable, "-I", "-S", "-c", WATCHDOG, printable(message), *addresses]
    try:
        stderr = sys.stderr.fileno()  # not 2, which drops messages of native code
    except (AttributeError, OSError, ValueError):  # no stderr, or one without a file
        stderr = subprocess.DEVNULL
    watchdog = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
    )

    def dismiss() -> None:
        with suppress(OSError, ValueError):  # the process has ended, or was already dismissed
            assert watchdog.stdin is not None
            watchdog.stdin.write(b"dismissed")
            watchdog.stdin.close()

    try:
        yield dismiss
    finally:
        dismiss()
        watchdog.wait()


def _no_watchdog() -> None:
    """Do nothing; replaces the function yielded by `_watchdog` if there is no watchdog process."""


def _listens(endpoint: tuple[str, int], timeout: float = WATCH_INTERVAL) -> bool:
    try:
        with socket.create_connection(endpoint, timeout=timeout):
            return True
    except OSError:
        return False


def _endpoints(address: str) -> list[tuple[str, int]]:
    """Return (host, port) of a cluster's head node and, if present, of this machine's raylet."""
    import ray

    if address.startswith("ray://"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        return [(host, int(port))]
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    node = next((node for node in ray.nodes() if node["NodeID"] == context.get_node_id()), None)
    raylet = [] if node is None else [(node["NodeManagerAddress"], node["NodeManagerPort"])]
    return [(host, int(port)), *raylet]


def _is_loss(error: BaseException) -> bool:
    """Return whether an error was caused by the loss of a Ray process or machine rather than by a task."""
    from ray import exceptions

    losses = (
        *(exceptions.RayActorError, exceptions.RaySystemError, exceptions.ObjectLostError, exceptions.RpcError),
        *(exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.WorkerCrashedError),
        *(exceptions.ObjectStoreFullError, exceptions.OutOfDiskError, exceptions.OutOfMemoryError),
    )
    return isinstance(unwrapped(error), losses)


def unwrapped(error: BaseException) -> BaseException:
    """Return the exception raised by a worker, without Ray's wrappers."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "cause", None) or getattr(error, "health_check_failure", None)
        if inner is None and type(error).__module__.startswith("ray."):
            inner = error.__cause__
    return error


def stop_on_sigterm() -> None:
    """Request a stop on SIGTERM, and exit after the grace period; call in a worker's main thread."""

    def receive(*_: object) -> None:
        shutdown.request()
        end = threading.Timer(shutdown.GRACE, signal.raise_signal, [signal.SIGKILL])
        end.daemon = True
        end.start()

    signal.signal(signal.SIGTERM, receive)
