"""A command as a job of a Ray cluster: what travels there, and under which name.

The resolved recipe travels, the package itself and methods of one's own; the cluster needs only what these import. The
name comes from the recipe, so that submitting twice joins or resumes what runs, and never doubles it.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

import syncclip
from syncclip import storage
from syncclip.clip.backbone import EMBEDDED
from syncclip.core.ray_session import debugging
from syncclip.core.settings import UserError
from syncclip.datasets.loading import known
from syncclip.recipe.recipe import Recipe, digest

Job = Literal["synth", "train", "study", "reproduce"]

LARGEST_UPLOAD = 200 << 20
"""Bytes; Ray keeps what is uploaded in the head's memory."""

PLACES = ("name", "root", "pretrained", "pipeline", "synthetic")
"""Keys whose value may be a plain folder's name."""

CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Loggers of Ray's client that tell every step; each has a level of its own."""


@dataclass(frozen=True)
class Submission:
    """A job as it will be submitted."""

    identifier: str
    """`syncclip-<job>-<recipe or protocol>-<hash of all that decides the job>`."""
    job: Job
    recipe: Recipe
    """It decides what travels along; a reproduction has one for each dataset, alike in this."""
    out: str | None
    arguments: tuple[str, ...] = ()
    """What stands behind the job's name instead of the recipe's file, which doesn't travel then."""

    @property
    def entrypoint(self) -> str:
        """The shell command that the head runs in the uploaded folder."""
        out = ["--out", self.out] if self.out else []
        arguments = self.arguments or [self.file]
        return shlex.join(["python", "-m", "syncclip", self.job, *arguments, *out])

    @property
    def file(self) -> str:
        """The recipe's name in the uploaded folder."""
        return f"{self.recipe.name}.yaml"


def submission(job: Job, recipe: Recipe, out: str | None, *, here: bool, shared: bool = False) -> Submission:
    """The job that `syncclip <job> <recipe> --out <out>` is on a cluster.

    Args:
        here: whether the cluster is this machine; then paths of it are made absolute.
        shared: whether every node sees this machine's paths under the same names.

    Raises:
        UserError: the recipe names paths that the cluster doesn't have, or holds keys.
    """
    _check_keys(recipe)
    absolute = _absolute(local_paths(recipe, out), here or shared)
    out = absolute.pop("--out", out)
    recipe = recipe.with_values(absolute)
    return Submission(f"syncclip-{job}-{recipe.name}-{digest([job, recipe.to_yaml(), out])[:8]}", job, recipe, out)


def reproduction(
    protocol: str,
    root: str,
    datasets: Sequence[str] = (),
    methods: Sequence[str] = (),
    out: str | None = None,
    synthetic: str | None = None,
    overrides: Sequence[str] = (),
    *,
    here: bool,
    shared: bool = False,
) -> Submission:
    """The job that `syncclip reproduce` is on a cluster; arguments as of `reproduction.run.reproduce`, and see above.

    Raises:
        UserError: what `reproduce` would refuse before it reads data; or see `submission`.
    """
    from syncclip.protocols.protocols import find_protocol
    from syncclip.protocols.run import recipes_of

    recipes = recipes_of(find_protocol(protocol), root, datasets, methods, overrides)
    recipe = next(iter(recipes.values()))
    _check_keys(recipe)
    named = {"--root": root, "--synthetic": synthetic}
    paths = {option: path for option, path in named.items() if path is not None and storage.is_local(path)}
    paths |= {key: path for key, path in local_paths(recipe, out).items() if key != "dataset.root"}
    absolute = _absolute(paths, here or shared)
    out = absolute.pop("--out", out)
    options = {option: absolute.pop(option, path) for option, path in named.items()}
    arguments = [
        protocol,
        *(part for option, path in options.items() if path is not None for part in (option, path)),
        *(part for name in datasets for part in ("--dataset", name)),
        *(part for name in methods for part in ("--method", name)),
        *overrides,
        *(f"{key}={json.dumps(path)}" for key, path in absolute.items()),
    ]
    decisive = [arguments, out, [one.to_yaml() for one in recipes.values()]]
    return Submission(
        f"syncclip-reproduce-{protocol}-{digest(decisive)[:8]}", "reproduce", recipe, out, tuple(arguments)
    )


def _check_keys(recipe: Recipe) -> None:
    if yaml.safe_load(recipe.to_yaml())["storage"]["options"] != recipe.storage.options:
        raise UserError(
            "storage.options holds a key or a password, which a job would show to all who reach the cluster; give its "
            "machines a role, or the variables of their environment"
        )


def _absolute(paths: Mapping[str, str], seen: bool) -> dict[str, str]:
    """Paths of this machine made absolute, or refused where the cluster doesn't see them."""
    if paths and not seen:
        key, path = next(iter(paths.items()))
        raise UserError(
            f"{key}: {path} is a path of this machine, and the cluster runs on others; use a URL, or say --shared if "
            "every node sees it under this name"
        )
    return {key: str(Path(storage.local_path(path)).absolute()) for key, path in paths.items()}


def local_paths(recipe: Recipe, out: str | None) -> dict[str, str]:
    """Key -> path of all that the recipe, or `--out`, names on the machine that reads it."""
    paths = {key: text for key, text in _texts(recipe.model_dump(mode="json")) if _is_path(key, text)}
    if out is not None:
        paths.pop("storage.root", None)
        if storage.is_local(out):
            paths["--out"] = out
    return paths


def _is_path(key: str, text: str) -> bool:
    if key == "storage.root":
        return storage.is_local(text)
    if not storage.is_local(text) or key == "name" or (key == "dataset.name" and known(text)):
        return False
    if text.startswith(("/", "~", "./", "../", "file://")):
        return True
    placed = "/" in text or key.rpartition(".")[2] in PLACES
    return placed and text != EMBEDDED and storage.local_path(text).exists()


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{place}")


def lay_out(one: Submission, folder: Path) -> None:
    """Put all that the job needs into an empty folder: recipe, package, methods of one's own.

    Raises:
        UserError: it is too much to upload.
    """
    if not one.arguments:
        (folder / one.file).write_text(one.recipe.to_yaml(), encoding="utf-8")
    values = dict(_texts(one.recipe.model_dump(mode="json", exclude={"name"})))
    package = Path(syncclip.__file__).parent
    unused = ["__pycache__", "*.pyc", "scripts"] + ([] if EMBEDDED in values.values() else [EMBEDDED])
    shutil.copytree(package, folder / "syncclip", ignore=shutil.ignore_patterns(*unused))
    for key, text in values.items():
        if key.rpartition(".")[2] == "method" and ":" in text:
            _take_along(text.partition(":")[0].partition(".")[0], folder)
    sizes = {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if sum(sizes.values()) > LARGEST_UPLOAD:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path} ({sizes[path] >> 20} MB)" for path in largest)
        raise UserError(
            f"{sum(sizes.values()) >> 20} MB would have to be uploaded, and {LARGEST_UPLOAD >> 20} MB is the most; the "
            f"largest files are {named}: keep data in a bucket, and name its URL in the recipe"
        )


def _take_along(module: str, folder: Path) -> None:
    """Lay a method's module or package beside the recipe, where it lies in this folder; else the nodes have it."""
    if Path(f"{module}.py").is_file():
        shutil.copy(f"{module}.py", folder)
    elif Path(module).is_dir():
        shutil.copytree(module, folder / module, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def connect(address: str, *, any_version: bool = False) -> Any:
    """Ray's client for the jobs of a cluster.

    Args:
        address: of the dashboard, "http://HOST:8265".

    Raises:
        UserError: nothing, or no Ray, answers there; it asks for a token; it is of another version than Ray here.
    """
    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not debugging():
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = JobSubmissionClient(address)
        there = client._do_request("GET", "/api/version", timeout=60).json()["ray_version"]
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {address}; start it, correct the address (that of the dashboard, such as "
            "http://HEAD:8265), or open a tunnel to it with `ray dashboard CLUSTER.yaml`"
        ) from error
    except AuthenticationError as error:
        raise UserError(
            f"the cluster at {address} asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file "
            "~/.ray/auth_token to the cluster's own"
        ) from error
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"what answers at {address} is no Ray dashboard ({str(error).splitlines()[0]}); correct the address"
        ) from error
    if there != ray.__version__ and not any_version:
        raise UserError(
            f"the cluster at {address} runs Ray {there}, and here is Ray {ray.__version__}; install the same "
            "here, or say --any-version if that can't be"
        )
    return client


def runs_here(client: Any) -> bool:
    """Whether all nodes of the cluster are this machine."""
    answer = client._do_request("GET", "/nodes?view=hostNameList", timeout=60).json()
    return set(answer["data"]["hostNameList"]) <= {socket.gethostname()}


def submit(client: Any, one: Submission) -> tuple[str, bool]:
    """Submit the job, or join the one that is at it.

    Returns:
        The name under which it runs, and whether it was there before. What failed, was stopped or finished stays in the
        cluster's list; the job goes by the same name with a number then.

    Raises:
        UserError: see `lay_out`.
    """
    before = {job.submission_id: job for job in client.list_jobs() if _of(job.submission_id, one.identifier)}
    for name, job in before.items():
        if not job.status.is_terminal():
            return name, True
    name = f"{one.identifier}-{len(before) + 1}" if before else one.identifier
    with tempfile.TemporaryDirectory(prefix="syncclip-job-") as folder:
        lay_out(one, Path(folder))
        variables = {"PYTHONUNBUFFERED": "1", **({"SYNCCLIP_DEBUG": "1"} if debugging() else {})}
        try:
            client.submit_job(
                entrypoint=one.entrypoint,
                submission_id=name,
                runtime_env={"working_dir": folder, "env_vars": variables},
                metadata={"recipe": one.arguments[0] if one.arguments else one.recipe.name, "job": one.job},
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return name, True  # somebody else was faster
    return name, False


def _of(name: str | None, identifier: str) -> bool:
    return name is not None and re.fullmatch(rf"{re.escape(identifier)}(-\d+)?", name) is not None
