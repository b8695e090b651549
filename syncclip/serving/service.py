"""A trained run as an HTTP service on Ray Serve: settings, the Serve application, start and shutdown."""

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

from pydantic import Field, ValidationError, field_validator

from syncclip.core.labels import LabelSelector
from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError, check_token
from syncclip.core.text import counted, first_line, install_command
from syncclip.core.validation_errors import explain
from syncclip.inference.model import load
from syncclip.runs.resolve import readable_run
from syncclip.runtime.progress import print_message
from syncclip.runtime.ray_session import capacity, cluster_address, debugging, local_cpus, ray_session, require_nodes
from syncclip.runtime.shutdown import GRACE, at_once

try:
    from ray import serve
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import LoggingConfig

    from syncclip.serving.app import CALLBACK, RESPONSE_SECONDS, TOKEN, Replica, proxy_variables
except ImportError as error_:
    raise UserError(f"serve: {first_line(error_)}; run `{install_command('serve')}`") from error_

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.types import ASGIApp

NAME = "syncclip"
"""Name of the application in Ray Serve."""

MAX_ONGOING_REQUESTS = 64
"""Maximum number of ongoing requests per replica; proxy middleware limits the number of waiting requests."""

KEEP_ALIVE_SECONDS = 5
"""Timeout in seconds for idle connections."""

MAX_STARTS = 3
"""Maximum number of attempts to start a replica on a cluster, where an object store may be briefly unavailable."""


class ServiceSettings(Settings):
    """Settings of the service (run and replicas), used as `args` of an application in a Ray Serve config."""

    run: str
    """Finished run: a folder, a URL, or `hf://owner/name` on the Hugging Face Hub."""
    backbone: str | None = None
    """Name or path of the run's CLIP model, as in `backbone.name`; default: the model used in training."""
    pretrained: str | None = None
    """Tag or path of the CLIP weights, as in `backbone.pretrained`; default: the weights used in training."""
    top: int = Field(5, ge=1)
    """Number of most probable classes to return per image, unless a request sets `top`."""
    neighbours: bool = False
    """Whether clients may request the nearest training images of the run's real and synthetic datasets."""
    replicas: int = Field(1, ge=1)
    """Number of replicas, each with its own model."""
    num_cpus: float = Field(1, gt=0)
    """CPUs per replica."""
    num_gpus: float = Field(0, ge=0)
    """GPUs per replica; several replicas share a GPU if the value is below 1."""
    label_selector: LabelSelector = Field(default_factory=dict)
    """Ray node labels required for replicas; by default, replicas run on any node."""
    autoscaling_config: dict[str, Any] | None = None
    """Ray Serve's `autoscaling_config`, such as `{min_replicas: 1, max_replicas: 8}`; replaces `replicas`."""

    @field_validator("autoscaling_config")
    @classmethod
    def _check_autoscaling(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            if unknown := sorted(value.keys() - AutoscalingConfig.model_fields.keys()):
                raise ValueError(f"{unknown[0]} is not an option of Ray Serve's AutoscalingConfig")
            AutoscalingConfig.model_validate(value)
        return value

    @property
    def initial_replicas(self) -> int:
        """Number of replicas that start with the service."""
        if self.autoscaling_config is None:
            return self.replicas
        scaling = AutoscalingConfig.model_validate(self.autoscaling_config)
        return int(scaling.initial_replicas or scaling.min_replicas)


def service_settings(values: dict[str, Any]) -> ServiceSettings:
    """Validate the service's settings; raise a UserError if a value is invalid."""
    try:
        return ServiceSettings.model_validate(values)
    except ValidationError as error:
        raise UserError("{}: {}".format(*explain(error, ServiceSettings))) from error


def app(args: dict[str, Any]) -> Application:
    """Build the service for a Ray Serve config file: `import_path: syncclip.serving.service:app`.

    Args:
        args: values of `ServiceSettings`.

    Raises:
        UserError: a value is invalid, or SYNCCLIP_SERVE_TOKEN is not set, which would expose the service to everyone.
    """
    settings = service_settings(args)
    token = os.environ.get(TOKEN)
    if not token:
        raise UserError(
            f"{TOKEN} is not set, so the service would be open to everyone; set a token, e.g. from a Secret"
        )
    check_token(TOKEN, token)
    if os.environ.get(CALLBACK[0]) != CALLBACK[1]:
        raise UserError(
            f"{CALLBACK[0]} is not {CALLBACK[1]}, so the proxies would not check the token; set it in every pod"
        )
    return application(settings)


def application(settings: ServiceSettings, starts: int = MAX_STARTS) -> Application:
    """Return the service as a Ray Serve application, for use behind a `Front`.

    Args:
        starts: maximum number of attempts to start a replica.
    """
    session = current()

    def build() -> ASGIApp:
        session.enter()
        device = "auto" if settings.num_gpus else "cpu"
        model = load(settings.run, settings.backbone, settings.pretrained, device)
        return Replica(model, settings.top, settings.neighbours).app()

    deployment = serve.deployment(
        name="classifier",
        num_replicas="auto" if settings.autoscaling_config else settings.replicas,
        autoscaling_config=settings.autoscaling_config,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_constructor_retry_count=starts,
        graceful_shutdown_timeout_s=GRACE,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus}
        | ({"label_selector": settings.label_selector} if settings.label_selector else {}),
    )
    return deployment(serve.ingress(build)()).bind()


@contextmanager
def serving(settings: ServiceSettings, host: str, port: int, token: str | None) -> Iterator[str]:
    """Run the service during the block, and yield its URL once it is ready.

    Raises:
        UserError: the run or its CLIP model is missing, the port is in use, Ray has too few GPUs, or Ray Serve is
            already running.
    """
    check_token(TOKEN, token or "")
    settings = settings.model_copy(update={"run": readable_run(settings.run)[2]})
    if cluster_address() is None:
        _check_port(host, port)
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15; clients wait for the replicas
    cpus = max(local_cpus(), math.ceil(settings.initial_replicas * settings.num_cpus))
    print_message(f"serve: {'connecting to' if cluster_address() else 'starting'} Ray")
    with ray_session(cpus, proxy_variables(token)):
        if not debugging():
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
        status = serve.status()
        if status.proxies or status.applications:
            raise UserError(
                "Ray Serve is already running on this cluster; use `serve deploy` with syncclip.serving.service:app"
            )
        require_nodes(settings.label_selector, "--label")
        gpus = settings.initial_replicas * settings.num_gpus
        if gpus > (available := capacity().get("GPU", 0.0)):
            raise UserError(
                f"--num-gpus: replicas require {gpus:g} GPUs, but Ray has {available:g}; use fewer GPUs, or 0 to "
                "use the CPU"
            )
        with at_once(serve.shutdown):
            try:
                url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                _start(application(settings, starts=1), settings.initial_replicas, host, port)
                _check_middleware(url)
                try:
                    yield url
                finally:
                    serve.delete(NAME)  # unlike a shutdown, this completes requests in flight
            finally:
                serve.shutdown()  # otherwise Ray Serve would keep running on a cluster


def _start(target: Application, replicas: int, host: str, port: int) -> None:
    options = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
    print_message(f"serve: starting Ray Serve on {host}:{port}")
    serve.start("HeadOnly", options, logging_config=LoggingConfig(enable_access_log=False))
    print_message(f"serve: loading CLIP weights and the run into {counted(replicas, 'replica')}")
    try:
        serve.run(target, name=NAME)
    except RuntimeError as error:
        deployments = serve.status().applications[NAME].deployments.values()
        messages = "\n".join(deployment.message for deployment in deployments)
        if (reason := re.search(r"UserError: (.*)", messages)) is None:
            raise RuntimeError(messages or str(error)) from error
        raise UserError(reason[1]) from error


def _check_middleware(url: str) -> None:
    """Check that Ray Serve's proxy has loaded the middleware, which hides Ray Serve's `/-/routes` path."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=RESPONSE_SECONDS)) as connection:
        connection.request("GET", "/-/routes", headers={"host": "localhost"})
        if connection.getresponse().status not in (401, 404):
            raise UserError(
                f"serve: Ray Serve on this cluster did not load {CALLBACK[1]}; install the same syncclip on all nodes"
            )


def _check_port(host: str, port: int) -> None:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {first_line(error)}; use a different port or host") from error
