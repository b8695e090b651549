"""`syncclip submit`: run a command as a job on a Ray cluster, through Ray's job client.

The resolved recipe, the package and the user's own methods are uploaded; the cluster needs only their dependencies.
The job name contains a hash of all inputs, so submitting the same command again joins or resumes the job.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import syncclip
from syncclip import storage
from syncclip.clip.backbone import EMBEDDED
from syncclip.core.secrets import harmless, shareable
from syncclip.core.settings import UserError
from syncclip.core.text import printable
from syncclip.core.trust import require_trust
from syncclip.recipe.overrides import as_override
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.resolve import readable_run, with_absolute_paths
from syncclip.runtime.progress import print_message
from syncclip.runtime.ray_session import debugging
from syncclip.runtime.shutdown import GRACE, exit_status
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.storage.urls import absolute

if TYPE_CHECKING:
    from syncclip.protocols.run import Request

POLL_SECONDS, MAX_FAILED_POLLS = 2.0, 30
"""Seconds between polls of a job's log, and maximum number of consecutive failed polls."""

STOPPED = 130
"""Exit status for a stopped job and for an interrupted command."""

PATHS = re.compile(r"[^=]*(root|file|url|teacher|synthetic(\.\d+)?)=|[^=]+=(/|~|\.\.?/|file://)")
"""Pattern for `key=value` where the key or the start of the value indicates a path."""

PRIVATE = ("*.pem", "*.key", "*.p12", "id_*", "credentials*")
"""File name patterns for private keys and credentials, which must not be uploaded with the package."""

LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Verbose loggers of Ray's job client, whose levels are set individually."""


@dataclass(frozen=True)
class Job:
    """A job to submit.

    Attributes:
        label: `<command>-<recipe or protocol>`, part of the job name.
        arguments: arguments of `syncclip`, which runs in the uploaded folder.
        recipe: recipe to upload; its custom methods determine the other uploaded files.
    """

    label: str
    arguments: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        """Name of the job: its label and a hash of its arguments and recipe."""
        return f"syncclip-{self.label}-{digest([self.arguments, self.recipe.to_yaml()])[:8]}"

    @property
    def entrypoint(self) -> str:
        """Shell command that the head node runs in the uploaded folder."""
        return shlex.join(["python", "-m", "syncclip", *self.arguments])

    def write_upload(self, folder: Path) -> None:
        """Write the recipe, the package and the user's own methods into an empty folder."""
        (folder / f"{self.recipe.name}.yaml").write_text(self.recipe.to_yaml(), encoding="utf-8")
        unused = [] if f'"{EMBEDDED}"' in self.recipe.model_dump_json(exclude={"name"}) else [EMBEDDED]
        excluded = shutil.ignore_patterns(".*", "__pycache__", *PRIVATE, *unused)

        def ignore(parent: str, names: list[str]) -> set[str]:
            return {*excluded(parent, names), *(name for name in names if Path(parent, name).is_symlink())}

        shutil.copytree(Path(syncclip.__file__).parent, folder / "syncclip", ignore=ignore)
        for file in custom_code(self.recipe):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file)


def custom_code(recipe: Recipe) -> list[Path]:
    """Return the Python files of the user's own methods, relative to the working directory.

    The result contains each method's file and package, but no symbolic links and no code outside the directory.
    """
    here, files = Path.cwd(), set[Path]()
    for module in {name.partition(":")[0] for name in recipe.code.values()}:
        package = here / module.partition(".")[0]
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "/")
        if file.is_relative_to(package):
            files |= {*package.rglob("*.py")}
        elif file == package.with_suffix(".py"):
            files.add(file)
    relative = (file.relative_to(here) for file in files if file.resolve() == file)
    return sorted(file for file in relative if all(part.isidentifier() for part in file.with_suffix("").parts))


def recipe_job(command: str, recipe: Recipe, out: str | None, *, shared: bool) -> Job:
    """Create the job that runs `syncclip <command> <recipe> --out <out>`.

    Args:
        shared: whether this machine's paths are valid on every node.

    Raises:
        UserError: the recipe contains secrets, untrusted code, or local paths that the cluster cannot access; or a
            study configuration is invalid.
    """
    if command == "study":
        from syncclip.studies.cells import check_configurations  # imports the training code

        check_configurations(recipe)
    options, paths = _with_absolute_paths({"--out": out}, recipe, shared)
    recipe = recipe.with_values(paths)
    return Job(f"{command}-{recipe.name}", (command, f"{recipe.name}.yaml", *_words(options)), recipe)


def reproduce_job(request: Request, *, shared: bool) -> Job:
    """Create the job that runs `syncclip reproduce`; raise the same errors as `recipe_job`."""
    recipe = next(iter(request.recipes().values()))  # all have the same methods and backbone
    options = {"--root": request.root, "--synthetic": request.synthetic, "--out": request.out}
    options, paths = _with_absolute_paths(options, recipe, shared)
    arguments = (
        *("reproduce", request.protocol, *_words(options)),
        *(word for name in request.datasets for word in ("--dataset", name)),
        *(word for name in request.methods for word in ("--method", name)),
        *request.overrides,
        *(as_override(key, path, Recipe) for key, path in paths.items() if not key.startswith("dataset.")),
    )
    return Job(f"reproduce-{request.protocol}", arguments, recipe)


def classify_job(
    run: str, shards: str, out: str | None, actors: int, num_gpus: float, labels: Sequence[str] = (), *, shared: bool
) -> Job:
    """Create the job that runs `syncclip classify` on a folder of shards; raise the same errors as `recipe_job`."""
    recipe, _, run = readable_run(run)
    options = {"RUN": run, "SHARDS": shards, "--out": out}
    options, _ = _with_absolute_paths(options, recipe, shared, section="backbone")
    arguments = ("classify", str(options.pop("RUN")), str(options.pop("SHARDS")), "--actors", str(actors))
    trusted = (word for name in recipe.code.values() for word in ("--trust", name))
    gpus = ("--num-gpus", f"{num_gpus:g}") if num_gpus else ()
    nodes = (word for label in labels for word in ("--label", label))
    return Job(f"classify-{recipe.name}", (*trusted, *arguments, *gpus, *nodes, *_words(options)), recipe)


def _words(options: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return command-line arguments for all options that are set."""
    return tuple(word for option, value in options.items() if value for word in (option, value))


def _with_absolute_paths(
    options: Mapping[str, str | None], recipe: Recipe, shared: bool, section: str | None = None
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return a command's options, and its recipe's local paths keyed by setting; all paths are made absolute.

    Args:
        section: recipe section that the command uses; None for all sections.

    Raises:
        UserError: see `recipe_job`.
    """
    for key, name in recipe.code.items():  # on the cluster, the uploaded recipe counts as the user's own
        require_trust(name, f"recipe {recipe.name!r}: {key}: ")
    exposed = "which a job would expose to everyone with access to the cluster"
    for name, value in recipe.storage.options.items():
        if harmless({name: value}) != {name: value}:
            raise UserError(
                f"storage.options.{name}: the option may contain a key or a password, {exposed}; give the "
                "cluster's machines an IAM role, or set the option through environment variables on those machines"
            )
    values = with_absolute_paths(recipe).model_dump(mode="json", include={section} if section else None)
    texts = {option: value for option, value in options.items() if value} | dict(_texts(values))
    if options["--out"]:
        texts.pop("storage.root", None)
    paths = {}
    for key, text in texts.items():
        named = {key.rpartition(".")[2]: text}
        if shareable(named) != named:
            raise UserError(f"{key}: the URL contains a password, a signature or a token, {exposed}; remove it")
        if storage.is_local(text) and (key in options or PATHS.match(f"{key}={text}")):
            if not shared:
                raise UserError(
                    f"{key}: {text} is a path on this machine, but the cluster runs on other machines; use a URL, or "
                    "add --shared if the path is valid on every node"
                )
            paths[key] = absolute(text)
    return {option: paths.pop(option, value) for option, value in options.items()}, paths


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in nested values, with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping | list):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(inner, f"{key}.{name}" if key else str(name))


def connect(address: str) -> Any:
    """Return Ray's job client for a cluster; `address` is the dashboard's URL, such as "http://HOST:8265".

    Raises:
        UserError: no dashboard responds at the address, or the dashboard requires a token.
    """
    if has_token():  # unlike Ray's other clients, the job client does not look for a token by default
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not debugging():
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster at {address}; start it, correct the dashboard's address (such as "
            "http://HEAD:8265), or open a tunnel with `ray dashboard CLUSTER.yaml`"
        ) from error
    except AuthenticationError as error:
        raise UserError(
            f"the cluster at {address} requires a token; set RAY_AUTH_MODE=token, and put the token into "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"the server at {address} is not a Ray dashboard ({str(error).splitlines()[0]}); correct the address"
        ) from error


def has_token() -> bool:
    """Return whether this user has a Ray cluster token; the first `ray.init` creates one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()


def is_local_cluster(address: str) -> bool:
    """Return whether all nodes of the cluster run on this machine."""
    from ray.util import get_node_ip_address
    from ray.util.state import list_nodes

    return {node.node_ip for node in list_nodes(address)} <= {"127.0.0.1", get_node_ip_address()}


def start(client: Any, job: Job) -> tuple[str, bool]:
    """Submit the job, or join it if it is running; return (submission ID, whether it was already running).

    Finished jobs remain in the cluster's list; a resubmitted job gets a numeric suffix.
    """
    pattern = re.compile(rf"{re.escape(job.name)}(-\d+)?")
    previous = [listed for listed in client.list_jobs() if pattern.fullmatch(listed.submission_id or "")]
    for listed in previous:
        if not listed.status.is_terminal():
            return str(listed.submission_id), True
    identifier = f"{job.name}-{len(previous) + 1}" if previous else job.name
    # `ray job stop` sends SIGTERM, and by default SIGKILL 3 s later.
    variables = {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": str(round(2 * GRACE))}
    if debugging():
        variables["SYNCCLIP_DEBUG"] = "1"
    with private_tempdir() as folder:
        job.write_upload(folder)
        environment = {"working_dir": str(folder), "env_vars": variables}
        try:
            client.submit_job(entrypoint=job.entrypoint, submission_id=identifier, runtime_env=environment)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return identifier, True  # submitted concurrently by another process
    return identifier, False


def follow(client: Any, name: str, stop: str) -> int:
    """Print the job's log until the job ends, then the reason for any failure; return the exit status.

    Args:
        stop: clause that explains how to stop the job, for the message after Ctrl-C.

    Raises:
        UserError: the cluster is no longer reachable.
    """
    try:
        log = _tail(client, name)
    except KeyboardInterrupt:
        print_message(f"the job continues; {stop}; run the same command to follow the log again")
        return exit_status() or STOPPED
    info = client.get_job_info(name)
    state = str(info.status)
    if state == "SUCCEEDED":
        return 0
    status = STOPPED if state == "STOPPED" else info.driver_exit_code or 1
    why = (
        "the job was stopped; run the same command to resume" if state == "STOPPED" else reason(log, info.message or "")
    )
    print_message(f"job {name} failed with exit status {status}: {why}")
    return int(status)


def _tail(client: Any, name: str) -> str:
    """Print the job's log as it grows, and return it when the job ends.

    The log is polled because a stream would break if a tunnel dropped or the head node was busy.
    """
    printed = failures = 0
    while True:
        try:
            ended = client.get_job_status(name).is_terminal()  # first, so that the log of an ended job is complete
            log = str(client.get_job_logs(name))
        except (RuntimeError, OSError) as error:
            failures += 1
            if failures == MAX_FAILED_POLLS:
                raise UserError(
                    f"the cluster is no longer reachable ({error}); if it is running, job {name} continues; run the "
                    "same command to follow the job's log"
                ) from error
        else:
            typer.echo(printable(log[printed:], "\n\t"), nl=False)
            printed, failures = len(log), 0
            if ended:
                return log
        time.sleep(POLL_SECONDS)


def reason(log: str, message: str) -> str:
    """Return the reason for a failure: the command's error message, else its last output line, else Ray's message."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("syncclip: ") for line in lines if line.startswith("syncclip: ")]
    return (errors or lines or [" ".join(message.split()) or "the cluster reports no reason"])[-1]
