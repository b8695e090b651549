"""`syncclip submit`: run a command as a job of a Ray cluster, by Ray's own job client."""

from __future__ import annotations

import logging
import os
import re
import time
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import syncclip
from syncclip.cli.arguments import Datasets, Methods, Out, Overrides, Root, Synthetic
from syncclip.core.settings import UserError
from syncclip.core.text import printable
from syncclip.runtime.progress import say
from syncclip.runtime.ray_session import debugging
from syncclip.runtime.shutdown import GRACE, exit_status
from syncclip.runtime.tempdirs import scratch_folder

if TYPE_CHECKING:
    from syncclip.cli.submission import Submission

PAUSE, ATTEMPTS = 2.0, 30
"""Seconds between two looks at a job's log, and how many in a row may fail."""

STOPPED = 130
"""Exit status of a job that somebody stopped, as of a command that was interrupted."""

CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Loggers of Ray's client that report every step; each has a level of its own."""


class JobName(str, Enum):
    """The commands that run on a cluster."""

    synth = "synth"
    train = "train"
    study = "study"
    reproduce = "reproduce"
    classify = "classify"


def submit(
    job: Annotated[
        JobName, typer.Argument(metavar="synth|train|study|reproduce|classify", help="The command to run there.")
    ],
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A shipped recipe or a YAML file; for `reproduce`, the protocol; for `classify`, run and shards.",
        ),
    ],
    overrides: Overrides,
    dataset: Datasets,
    method: Methods,
    out: Out = None,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="The cluster's dashboard, http://HEAD:8265."),
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
    shared: Annotated[
        bool, typer.Option("--shared", help="Every node sees this machine's paths under the same names.")
    ] = False,
    root: Root = None,
    synthetic: Synthetic = None,
    actors: Annotated[int | None, typer.Option("--actors", min=1, help="Of `classify`.")] = None,
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="Of `classify`: GPUs of an actor.")] = 0.0,
) -> None:
    """Run a command on a Ray cluster. Submitted again, it is joined or resumed, never run twice."""
    from syncclip.cli import submission

    if job is JobName.reproduce:
        if root is None:
            raise UserError("missing option '--root': reproduce needs the folder of all datasets")
        from syncclip.protocols.run import Request

        request = Request(recipe, root, dataset, method, out, synthetic, overrides)
        build = partial(submission.reproduction, request)
    elif root or dataset or method or synthetic:
        raise UserError(
            f"--root, --dataset, --method and --synthetic belong to reproduce; {job.value} reads them from its recipe"
        )
    elif job is JobName.classify:
        if len(overrides) != 1:
            raise UserError("submit classify takes a run and one folder of shards, each a URL or a path")
        build = partial(submission.classification, recipe, overrides[0], out, actors or 1, num_gpus)
    elif actors or num_gpus:
        raise UserError(f"--actors and --num-gpus belong to classify; {job.value} reads `synthesis` in its recipe")
    else:
        build = partial(submission.submission, job.value, syncclip.Recipe.load(recipe, overrides), out)
    client = connect(address)
    name, joined = start(client, build(shared=shared or runs_here(address)))
    say(f"job {name} is {'already running' if joined else 'submitted'} at {address}")
    stop = f"`ray job stop {name} --address {address}` stops it"
    if not wait:
        say(f"it runs without this command; {stop}")
    elif status := follow(client, name, stop):
        raise typer.Exit(status)


def connect(address: str) -> Any:
    """Ray's client for the jobs of a cluster.

    Args:
        address: of the dashboard, "http://HOST:8265".

    Raises:
        UserError: nothing, or something other than Ray, answers there; or it asks for a token.
    """
    if has_token():  # Ray's programs that join a cluster do the same, its client of jobs doesn't
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not debugging():
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
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


def has_token() -> bool:
    """Whether a token for clusters lies where Ray looks for it; a first `ray.init` of the user puts one there."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return Path(path).is_file()


def runs_here(address: str) -> bool:
    """Whether all nodes of the cluster are this machine."""
    from ray.util import get_node_ip_address
    from ray.util.state import list_nodes

    return {node.node_ip for node in list_nodes(address)} <= {"127.0.0.1", get_node_ip_address()}


def start(client: Any, job: Submission) -> tuple[str, bool]:
    """Submit the job, or join the one that is running.

    Returns:
        The name under which it runs, and whether it ran already. What failed, was stopped or finished stays in the
        cluster's list; a number is added to the job's name then.
    """
    name = re.compile(rf"{re.escape(job.name)}(-\d+)?")
    earlier = [one for one in client.list_jobs() if name.fullmatch(one.submission_id or "")]
    for one in earlier:
        if not one.status.is_terminal():
            return str(one.submission_id), True
    identifier = f"{job.name}-{len(earlier) + 1}" if earlier else job.name
    # `ray job stop` sends SIGTERM, and SIGKILL by default 3 s later.
    variables = {
        "PYTHONUNBUFFERED": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(round(2 * GRACE)),
        **({"SYNCCLIP_DEBUG": "1"} if debugging() else {}),
    }
    with scratch_folder() as folder:
        job.write_upload(folder)
        environment = {"working_dir": str(folder), "env_vars": variables}
        try:
            client.submit_job(entrypoint=job.entrypoint, submission_id=identifier, runtime_env=environment)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return identifier, True  # another submission of the same job was faster
    return identifier, False


def follow(client: Any, name: str, stop: str) -> int:
    """Print the job's log until it ends, and why it failed if it did; returns its exit status.

    Args:
        stop: how to stop it, as a sentence.

    Raises:
        UserError: the cluster has stopped answering.
    """
    try:
        log = tail(client, name)
    except KeyboardInterrupt:
        say(f"the job continues; {stop}, and the same command follows it again")
        return exit_status() or STOPPED
    info = client.get_job_info(name)
    state = str(info.status)
    if state == "SUCCEEDED":
        return 0
    status = STOPPED if state == "STOPPED" else info.driver_exit_code or 1
    why = "it was stopped; the same command resumes it" if state == "STOPPED" else reason(log, info.message or "")
    say(f"job {name} failed with exit status {status}: {why}")
    return int(status)


def tail(client: Any, name: str) -> str:
    """Print the job's log as it grows, until the job ends, and return it.

    The log is asked for again and again, as a stream of it breaks long before the job ends where a tunnel is lost or
    the head is busy.

    Raises:
        UserError: the cluster has stopped answering.
    """
    printed = failures = 0
    while True:
        try:
            ended = client.get_job_status(name).is_terminal()  # asked first: the log of an ended job is whole
            log = str(client.get_job_logs(name))
            failures = 0
        except (RuntimeError, OSError) as error:
            failures += 1
            if failures == ATTEMPTS:
                raise UserError(
                    f"the cluster has stopped answering ({error}); if it is still up, job {name} continues, and the "
                    "same command follows it again"
                ) from error
        else:
            typer.echo(printable(log[printed:], "\n\t"), nl=False)
            printed = len(log)
            if ended:
                return log
        time.sleep(PAUSE)


def reason(log: str, message: str) -> str:
    """Why a job failed, in one line: the command's own sentence, else its last line of output, else Ray's message."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line.removeprefix("syncclip: ") for line in lines if line.startswith("syncclip: ")]
    return (own or lines or [" ".join(message.split()) or "the cluster reports no reason"])[-1]
