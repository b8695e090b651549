"""An OpenAI-compatible endpoint (vLLM-Omni, SGLang, others) in place of a pipeline, for those who serve one already."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import urllib3
from PIL import Image
from urllib3.connection import HTTPConnection, HTTPSConnection

from syncclip.core.secrets import remember_options
from syncclip.core.settings import UserError, check_token
from syncclip.core.text import cut, few, first_line, printable, size
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.storage.retries import UnreachableError
from syncclip.synthesis.generators.settings import SENT, TOKEN, GeneratorSettings

IDENTITY = ("root", "parent", "pipeline_class", "dit_precision", "vae_precision")
"""What a server tells of a model, beside its name, that stays the same when it is started again."""
BUSY = frozenset({408, 429, *range(500, 600)})
"""Statuses that mean: not now."""
RETRIES, PAUSE, LONGEST, SILENCE = 6, 1.0, 60, 600.0
"""Further tries, the pause in seconds that is doubled before each, the longest, and the total time of an answer."""
MOST_BYTES = 256 << 20
"""Upper bound on the size of an answer."""
REMEDIES = dict.fromkeys((401, 403), f"set {TOKEN} to a token that it takes")
REMEDIES |= dict.fromkeys((400, 413, 422), "change what synthesis.generator asks for")
REMEDIES |= dict.fromkeys(BUSY, "look into its log, or try again later; what is committed stays")


class _Response(http.client.HTTPResponse):
    """A response whose body has a size limit."""

    def read(self, amt: int | None = None) -> bytes:
        data = super().read(MOST_BYTES + 1 if amt is None else amt)
        if len(data) > MOST_BYTES:
            raise UserError(f"the endpoint's answer is larger than {size(MOST_BYTES)}; correct the endpoint")
        if amt is None and self.length:
            raise http.client.IncompleteRead(data, self.length)
        return data


class _Connection(HTTPConnection):
    """A connection on which an answer, from its first byte to its last, has a total time limit."""

    response_class = _Response

    def getresponse(self) -> Any:
        late = threading.Event()
        end = threading.Timer(SILENCE, self._end, [self.sock, late])  # closing drops `self.sock`
        end.daemon = True
        end.start()
        try:
            response = super().getresponse()
        finally:
            end.cancel()
        if late.is_set():  # a header that was cut off looks complete
            raise TimeoutError(f"no complete answer within {SILENCE:g} s")
        return response

    @staticmethod
    def _end(sock: socket.socket, late: threading.Event) -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # the thread that reads sees the end of the connection


class _SecureConnection(_Connection, HTTPSConnection): ...


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Endpoint:
    """Takes the place of a `Generator`: a server is asked for the images of a batch at once, by one request each.

    Busy or away, it is asked again for about a minute; slow, for `SILENCE` at each try. Its bytes are its own affair.

    Args:
        fingerprint: what `check` gave when the plan was made.
        token: what the server asks for, masked in all messages from then on; by default the environment's.
    """

    texts: None = None
    """The server encodes them."""
    computed = 0.0
    """The server computes."""

    def __init__(self, settings: GeneratorSettings, fingerprint: str = "", token: str | None = None) -> None:
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of each further try
        token = (token or os.environ.get(TOKEN, "")).strip()
        remember_options({TOKEN: token})
        check_token(TOKEN, token)
        again = urllib3.Retry(RETRIES, status_forcelist=BUSY, allowed_methods=None, raise_on_status=False)
        again = again.new(backoff_factor=PAUSE, backoff_jitter=PAUSE, backoff_max=LONGEST, retry_after_max=LONGEST)
        wait = urllib3.Timeout(connect=10, read=SILENCE)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = urllib3.PoolManager(headers=headers, retries=again, timeout=wait, maxsize=256)
        self._http.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        given = settings.model_dump(include={*SENT}, exclude_none=True)
        self._asked = {SENT[key]: value for key, value in given.items()} | {"n": 1, "response_format": "b64_json"}
        self._asked |= {"size": f"{settings.width}x{settings.height}", "output_format": "png"}
        self.settings, self.fingerprint = settings, fingerprint
        self.fingerprint = self.check()

    def check(self) -> str:
        """Fingerprint (16 hex digits) of the model, by what the server tells of it.

        Raises:
            UserError: it serves another one than was planned, or refuses.
            UnreachableError: it doesn't answer, or not as the API does.
        """
        name, where = self.settings.model, self.settings.pipeline
        told = self._ask("/models", lambda data: {one["id"]: [one.get(key) for key in IDENTITY] for one in data})
        found = hashlib.sha256(json.dumps([name, told.get(name)]).encode()).hexdigest()[:16]
        if name not in told or self.fingerprint not in ("", found):
            meant = f"the {name} that " + ("the set was started with" if self.fingerprint else "is asked for")
            served = few(cut(printable(str(one))) for one in told)
            raise UserError(f"{where} serves {served}, not {meant}; serve it, or correct synthesis.generator.model")
        return found

    def start(self, prompts: Sequence[str], seeds: Sequence[int], *_: object) -> Callable[[], list[Image.Image]]:
        """One RGB image for each (prompt, seed), in their order; as `Generator.start`, without guides."""
        bodies = [{**self._asked, "prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
        with ThreadPoolExecutor(len(bodies), "endpoint") as threads:
            images = list(threads.map(lambda body: self._ask("/images/generations", self._image, body), bodies))
        self.check()  # the server may have been started again, with another model
        return lambda: images

    def _image(self, data: Any) -> Image.Image:
        (one,) = data
        try:
            image = decode_image(base64.b64decode(one["b64_json"], validate=True), "its image")
        except UnreadableImageError as error:
            raise ValueError(str(error)) from error
        if (pixels := "{}x{}".format(*image.size)) != self._asked["size"]:
            what = f"{self.settings.pipeline} makes images of {pixels} pixels, not of {self._asked['size']}"
            raise UserError(f"{what}; set synthesis.generator.width and height to what its model can")
        return image

    def _ask(self, path: str, read: Callable[[Any], Any], body: object = None) -> Any:
        """What `read` makes of an answer's data."""
        url = self.settings.pipeline.rstrip("/") + path
        remedy = "start it, or correct synthesis.generator.pipeline, which mostly is http://HOST:PORT/v1"
        try:
            answer = self._http.request("POST" if body else "GET", url, json=body, redirect=False, decode_content=False)
        except (urllib3.exceptions.HTTPError, ValueError) as error:  # ValueError: the token fits into no header
            raise UnreachableError(f"{url} can't be asked: {printable(first_line(error))}; {remedy}") from error
        said = printable(
            " ".join(answer.data[:10_000].decode(errors="replace").split())
        )  # then cut: half a token would be unknown
        told = f"{url} answers {answer.status}: {said[:200]}"
        if answer.status != 200:
            kind = UnreachableError if answer.status in BUSY else UserError
            raise kind(f"{told}; {REMEDIES.get(answer.status, remedy)}")
        try:
            return read(json.loads(answer.data)["data"])
        except UserError:
            raise
        except Exception as error:  # whatever it holds
            raise UnreachableError(
                f"{told}: this is no answer of the API ({printable(first_line(error))}); {remedy}"
            ) from error
