"""A trained run as an HTTP service on Ray Serve: its settings, the application of Serve, its start and its end."""

from __future__ import annotations

import http.client
import logging
import math
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError, check_token, explain
from syncclip.core.text import first_line, install_command
from syncclip.inference.model import load
from syncclip.runs.resolve import readable_run
from syncclip.runtime.ray_session import capacity, cluster_address, debugging, local_cpus, ray_session
from syncclip.runtime.shutdown import GRACE, at_once

try:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from syncclip.serving.endpoints import Service
    from syncclip.serving.front import ANSWER_SECONDS, CALLBACK, TOKEN, proxy_variables
except ImportError as missing:
    raise UserError(f"serve: {first_line(missing)}; run `{install_command('serve')}`") from missing

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.types import ASGIApp

NAME = "syncclip"
"""Name of the application in Ray Serve."""

ONGOING = 64
"""Upper bound on requests in a replica; the front of each proxy bounds those that wait."""

KEEP_ALIVE_SECONDS = 5
"""After which an idle connection is closed."""

STARTS = 3
"""Of a replica on a cluster, where a store may be away for a moment; a command whose run is not there ends at once."""


class ServiceSettings(Settings):
    """What a service answers with; `args` of an application in a file of Ray Serve."""

    run: str
    """The finished run: a folder, a URL, or `hf://owner/name` on the Hugging Face hub."""
    backbone: str | None = None
    """Where the run's CLIP is now, as `backbone.name` of a recipe; None: where it was in the training."""
    pretrained: str | None = None
    """The same of `backbone.pretrained`."""
    top: int = Field(5, ge=1)
    """Classes of an answer, where a request says nothing else."""
    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(1, gt=0)
    """Of each replica."""
    num_gpus: float = Field(0, ge=0)
    """Of each replica; less than 1: several share one."""


def app(args: dict[str, Any]) -> Application:
    """The service for a file of Ray Serve, which names it as `import_path: syncclip.serving.service:app`.

    Args:
        args: values of `ServiceSettings`.

    Raises:
        UserError: one is wrong, or no token is in SYNCCLIP_SERVE_TOKEN: such a file may open the service to a network.
    """
    try:
        settings = ServiceSettings.model_validate(args)
    except ValidationError as error:
        raise UserError("{}: {}".format(*explain(error, ServiceSettings))) from error
    token = os.environ.get(TOKEN)
    if not token:
        raise UserError(f"{TOKEN}: the service would be open to whoever reaches it; set a token, as from a Secret")
    check_token(TOKEN, token)
    if os.environ.get(CALLBACK[0]) != CALLBACK[1]:
        raise UserError(f"{CALLBACK[0]}: set it to {CALLBACK[1]} in every pod, so that the proxies check the token")
    return application(settings)


def application(settings: ServiceSettings, starts: int = STARTS) -> Application:
    """The service as an application of Ray Serve, to be used behind a `Front`.

    Args:
        starts: of a replica that fails to start, at most.
    """
    session = current()

    def build() -> ASGIApp:
        session.enter()
        device = "auto" if settings.num_gpus else "cpu"
        model = load(settings.run, settings.backbone, settings.pretrained, device)
        return Service(model, settings.top).app()

    deployment = serve.deployment(
        name="classifier",
        num_replicas=settings.replicas,
        max_ongoing_requests=ONGOING,
        max_constructor_retry_count=starts,
        graceful_shutdown_timeout_s=GRACE,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
    )
    return deployment(serve.ingress(build)()).bind()


@contextmanager
def serving(settings: ServiceSettings, host: str, port: int, token: str | None) -> Iterator[str]:
    """The service while the block runs, from when it answers; gives its address.

    Raises:
        UserError: the run or its CLIP is not there, the port is taken, Ray has too few GPUs or already serves.
    """
    check_token(TOKEN, token or "")
    settings = settings.model_copy(update={"run": readable_run(settings.run)[2]})
    if cluster_address() is None:
        _check_port(host, port)
        os.environ.setdefault("RAY_worker_niceness", "0")  # of the replicas, for whose answers people wait; Ray's is 15
    cpus = max(local_cpus(), math.ceil(settings.replicas * settings.num_cpus))
    with ray_session(cpus, proxy_variables(token)):
        if not debugging():
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
        status = serve.status()
        if status.proxies or status.applications:
            raise UserError("Ray Serve runs on this cluster already; deploy syncclip.serving.service:app there")
        gpus = settings.replicas * settings.num_gpus
        if gpus > capacity().get("GPU", 0.0):
            raise UserError(f"--num-gpus: {gpus:g} are asked for, and Ray has fewer; take less, or 0 to use the CPU")
        with at_once(serve.shutdown), _ended():
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            _start(application(settings, starts=1), host, port)
            _check_front(address)
            try:
                yield address
            finally:
                serve.delete(NAME)  # it finishes what is in flight, which an end of all of Serve does not


def _start(target: Application, host: str, port: int) -> None:
    options = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
    serve.start("HeadOnly", options, logging_config=LoggingConfig(enable_access_log=False))
    try:
        serve.run(target, name=NAME)
    except RuntimeError as error:
        told = "\n".join(one.message for one in serve.status().applications[NAME].deployments.values())
        if (reason := re.search(r"UserError: (.*)", told)) is None:
            raise RuntimeError(told or str(error)) from error
        raise UserError(reason[1]) from error


def _check_front(address: str) -> None:
    """Make sure that Ray Serve's proxy has loaded the front, which hides Serve's own `/-/routes`."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=ANSWER_SECONDS)) as connection:
        connection.request("GET", "/-/routes", headers={"host": "localhost"})
        if connection.getresponse().status not in (401, 404):
            raise UserError(
                f"serve: this cluster's Ray Serve did not load {CALLBACK[1]}; use the same syncclip on all its machines"
            )


@contextmanager
def _ended() -> Iterator[None]:
    """Let no Serve outlive the block, as it would on a cluster."""
    try:
        yield
    finally:
        serve.shutdown()


def _check_port(host: str, port: int) -> None:
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(place)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {first_line(error)}; name another port or host") from error
