"""What a replica of the service answers: the classes of images, computed in batches."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from ray.serve.metrics import Histogram
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.core.text import cut
from syncclip.inference.model import DECODERS, Model
from syncclip.serving.decoding import Decoder
from syncclip.serving.front import failed, refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SMALL_BYTES = 4 << 20
"""Bodies up to this size are not queued behind larger ones: they are decoded in processes of their own."""

BATCH = 32
"""Images in one forward pass at most."""


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


class Service:
    """What a replica answers: the classes of the images in a complete request to `/classify`."""

    def __init__(self, model: Model, top: int = 5) -> None:
        """
        Args:
            top: classes of an answer unless a request overrides it.
        """
        self._model, self._top = model, top
        self._small, self._large = (ThreadPoolExecutor(count, "decode") for count in (DECODERS - 1, 1))
        self._decoders = threading.local()
        self._batches = Batches(self._compute)
        self._sizes = Histogram("syncclip_serve_batch_images", "Images in a forward pass.", [1, 2, 4, 8, 16, BATCH])
        model.probabilities([Image.new("RGB", (64, 64))])  # encodes the texts before the first request

    def app(self) -> ASGIApp:
        """The ASGI application behind a `Front`."""
        handlers: dict[Any, Any] = dict.fromkeys((HTTPException, UserError, Exception), _refuse)
        return Starlette(routes=[Route("/classify", self.classify, methods=["POST"])], exception_handlers=handlers)

    async def classify(self, request: Request) -> Response:
        """The likeliest classes of the image in the body, or of each file of a form."""
        given = request.query_params.get("top", str(self._top))
        if not re.fullmatch("[0-9]{1,4}", given) or int(given) < 1:
            raise UserError(f"top: {cut(given)!r} is not a number of classes from 1 to 9999, as in ?top=3")
        kind, body = request.headers.get("content-type", ""), await request.body()
        lane = self._small if len(body) <= SMALL_BYTES else self._large
        images = await asyncio.get_running_loop().run_in_executor(lane, self._pixels, kind, body)
        rows = np.stack(await asyncio.gather(*map(self._batches, images)))
        answers = [
            {"labels": [{"class": one.name, "probability": one.probability} for one in labels]}
            for labels in self._model.labels(rows, int(given))
        ]
        return JSONResponse(answers[0] if len(answers) == 1 else {"answers": answers})

    def _pixels(self, kind: str, body: bytes) -> list[Tensor]:
        """(3, S, S) of each image in a body."""
        if not hasattr(self._decoders, "own"):
            self._decoders.own = Decoder()
        return [self._model.preprocess(image) for image in self._decoders.own.images(kind, body)]

    def _compute(self, pixels: list[Tensor]) -> npt.NDArray[np.float64]:
        self._sizes.observe(len(pixels))
        return self._model.batch_probabilities(torch.stack(pixels))


async def _refuse(_: Request, error: Exception) -> Response:
    """An error as one sentence of JSON; of a defect no details."""
    if isinstance(error, HTTPException):
        return refusal(error)
    return refusal(HTTPException(400, str(error)) if isinstance(error, UserError) else failed())
