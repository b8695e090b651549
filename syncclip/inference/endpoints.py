"""What a replica of the service answers: page, classes of images, metrics; its token, and the limits of a request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import python_multipart  # noqa: F401  (what Starlette reads forms with)
import ray
import torch
from PIL import Image
from ray.serve.metrics import Counter, Histogram
from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.core.text import cut, printable, size
from syncclip.inference.model import DECODERS, Label, Model
from syncclip.inference.web import fetch
from syncclip.shards.images import decode_image

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES, MOST_FILES = 32 << 20, 64
"""Of a request's body, and images in it."""

BATCH = 32
"""Images in one forward pass at most."""

OPEN = ("/", "/healthz")
"""What needs no token: the page, which holds nothing of the run, and whether a replica is ready."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SERIES = re.compile(r"(?:# \w+ )?(ray_syncclip_serve_\w+?)(?:_bucket|_sum|_count)?[ {]")
"""A line of Ray's metrics that is ours, and the name of what it measures."""


class Batches:
    """Images that come while others are computed are the next batch; one that comes alone does not wait for more.

    Not so `serve.batch`: without a time to wait, it makes a batch of every image that comes while another is computed.
    """

    def __init__(self, compute: Callable[[list[Tensor]], Any]) -> None:
        self._compute = compute
        self._waiting: SimpleQueue[tuple[Tensor, Future[Any]]] = SimpleQueue()
        Thread(target=self._work, name="batches", daemon=True).start()

    async def __call__(self, pixels: Tensor) -> Any:
        """What `compute` says of an image (3, S, S)."""
        future: Future[Any] = Future()
        self._waiting.put((pixels, future))
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            batch = [one for one in batch if one[1].set_running_or_notify_cancel()]  # its client may have gone
            try:
                found = self._compute([pixels for pixels, _ in batch])
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), row in zip(batch, found, strict=True):
                    future.set_result(row)


class Guard:
    """Asks for the token, refuses what is too large before it is read or while it is, and counts what was answered."""

    def __init__(self, app: ASGIApp, token_sha256: bytes | None) -> None:
        self._app, self._token = app, token_sha256
        self._answers = Counter("syncclip_serve_requests", "Answered requests.", ("path", "status"))
        bounds = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
        self._seconds = Histogram("syncclip_serve_seconds", "Of a request in its replica.", bounds, ("path",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, read, path = time.perf_counter(), 0, scope["path"]
        tags = {"path": path if path in (*OPEN, "/classify", "/metrics") else "other"}

        async def receive_some() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                raise _too_large()
            return message

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answers.inc(tags={**tags, "status": str(message["status"])})
                self._seconds.observe(time.perf_counter() - begun, tags=tags)
            await send(message)

        refusal = self._refusal(path, Headers(scope=scope))
        return await (self._app if refusal is None else _refused(refusal))(scope, receive_some, send_counted)

    def _refusal(self, path: str, headers: Headers) -> HTTPException | None:
        if self._token is not None and path not in OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            digest = hashlib.sha256(given.strip().encode()).digest()
            if kind.lower() != "bearer" or not hmac.compare_digest(digest, self._token):
                sentence = "a token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
                return HTTPException(401, sentence, {"www-authenticate": "Bearer"})
        length = headers.get("content-length", "")
        return _too_large() if length.isdecimal() and int(length) > MOST_BYTES else None


class Service:
    """What a replica answers."""

    def __init__(self, model: Model, top: int = 5, allow_urls: bool = False) -> None:
        """
        Args:
            top: classes of an answer, where a request says nothing else.
            allow_urls: whether requests may name an image by its web address.
        """
        self._model, self._top, self._allow_urls = model, top, allow_urls
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._batches = Batches(self._compute)
        self._sizes = Histogram("syncclip_serve_batch_images", "Images in a forward pass.", [1, 2, 4, 8, 16, BATCH])
        self._page = resources.files(__package__).joinpath("assets/page.html").read_text(encoding="utf-8")
        # Lest the first request wait until the texts are encoded.
        model.probabilities([Image.new("RGB", (64, 64))])

    def app(self, token_sha256: bytes | None) -> ASGIApp:
        """As an ASGI application; without a token whoever reaches it may use it."""
        routes = [
            Route("/", self.page),
            Route("/healthz", self.healthz),
            Route("/metrics", self.metrics),
            Route("/classify", self.classify, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = dict.fromkeys((HTTPException, UserError, Exception), _refuse)
        return Starlette(routes=routes, middleware=[Middleware(Guard, token_sha256)], exception_handlers=handlers)

    async def page(self, _: Request) -> Response:
        """The page on which a person drops an image."""
        return HTMLResponse(self._page, headers={"content-security-policy": POLICY, "cache-control": "no-store"})

    async def healthz(self, _: Request) -> Response:
        """A replica is ready."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """What all replicas counted, on whatever machine, as Ray has collected it."""
        return PlainTextResponse(await asyncio.to_thread(_collected), media_type="text/plain; version=0.0.4")

    async def classify(self, request: Request) -> Response:
        """The likeliest classes of the image in the body, or of each file of a form."""
        given = request.query_params.get("top", str(self._top))
        if not given.isdecimal() or int(given) < 1:
            raise UserError(f"top: {cut(given)!r} is no number of classes; give one, such as ?top=3")
        images = await self._images(request)
        found = await asyncio.gather(*(self._labels(name, data, int(given)) for name, data in images))
        answers = [{"labels": [{"class": one.name, "probability": one.probability} for one in row]} for row in found]
        return JSONResponse(answers[0] if len(answers) == 1 else {"answers": answers})

    async def _images(self, request: Request) -> list[tuple[str, bytes]]:
        """(name, file) of each image in the body."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            async with request.form(max_files=MOST_FILES) as form:
                files = [one for one in form.getlist("image") if isinstance(one, UploadFile)]
                found = [(one.filename or "image", await one.read()) for one in files]
            if not found:
                raise UserError("the form has no file in its field `image`; name it so")
            return found
        data = await request.body()
        if kind != "application/json":
            if not data:
                raise UserError("the body is empty; send an image, or a form with a file in its field `image`")
            return [("the body", data)]
        if not self._allow_urls:
            raise HTTPException(403, "addresses of images are not taken here; send the image itself")
        try:
            url = json.loads(data)["url"]
        except (ValueError, TypeError, KeyError, RecursionError):
            url = None
        if not isinstance(url, str):
            raise UserError('the body is no JSON of the form {"url": "https://..."}')
        return [("url", await asyncio.get_running_loop().run_in_executor(self._decoders, fetch, url, MOST_BYTES))]

    async def _labels(self, name: str, data: bytes, top: int) -> list[Label]:
        def pixels() -> Tensor:
            return self._model.preprocess(decode_image(data, cut(printable(name))))

        ready = await asyncio.get_running_loop().run_in_executor(self._decoders, pixels)
        return self._model.labels((await self._batches(ready))[None], top)[0]

    def _compute(self, pixels: list[Tensor]) -> npt.NDArray[np.float64]:
        self._sizes.observe(len(pixels))
        return self._model.batch_probabilities(torch.stack(pixels))


def _collected() -> str:
    """Our series at every node's metrics port, those of one name together, as the format wants it."""
    lines: dict[str, str] = {}
    for node in ray.nodes():
        with (
            suppress(OSError),
            urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}", timeout=5) as reply,
        ):
            found = ((line, SERIES.match(line)) for line in reply.read().decode().splitlines())
            lines |= {line: match[1] for line, match in found if match is not None}
    return "".join(f"{line}\n" for line in sorted(lines, key=lines.__getitem__))


def _too_large() -> HTTPException:
    return HTTPException(
        413, f"the body is larger than {size(MOST_BYTES)}, the most that is read; scale the image down"
    )


def _refused(error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail.rstrip(".")}, error.status_code, error.headers)


async def _refuse(_: Request, error: Exception) -> Response:
    """A refusal as one sentence of JSON; of a defect only that it is one."""
    if isinstance(error, HTTPException):
        known = error.status_code not in (404, 405)
        return _refused(error if known else HTTPException(error.status_code, "there is only POST /classify, and GET /"))
    if isinstance(error, UserError):
        return _refused(HTTPException(400, str(error)))
    return _refused(HTTPException(500, "a defect of the service; its log has more"))
