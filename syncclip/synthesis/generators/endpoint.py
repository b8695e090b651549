"""Client for OpenAI-compatible image endpoints, such as vLLM-Omni and SGLang."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3
from PIL import Image
from urllib3.exceptions import HTTPError, IncompleteRead, ReadTimeoutError

from syncclip.core.secrets import remember_options
from syncclip.core.settings import UserError, check_token
from syncclip.core.text import cut, few, first_line, printable, size
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.storage.retries import UnreachableError
from syncclip.synthesis.generators.settings import REQUEST_KEYS, TOKEN, GeneratorSettings

IDENTITY = ("root", "parent", "pipeline_class", "dit_precision", "vae_precision")
"""Fields of a model's description that, like its name, don't change when the server restarts."""
BUSY = frozenset({408, 429, *range(500, 600)})
"""HTTP status codes for which requests are retried."""
RETRIES = 6
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 60.0
"""Initial and maximum pause of the exponential backoff, in seconds."""
TIMEOUT_SECONDS = 600.0
"""Time limit for reading a response body, in seconds."""
MAX_RESPONSE_BYTES = 256 << 20
CHUNK_BYTES = 1 << 16
REMEDIES = dict.fromkeys((401, 403), f"set {TOKEN} to a token that the server accepts")
REMEDIES |= dict.fromkeys((400, 413, 422), "change synthesis.generator")
REMEDIES |= dict.fromkeys(BUSY, "check the server's log, or try again later; committed shards are kept")


class Endpoint:
    """Counterpart of `Generator` that requests the images of a batch concurrently from a server.

    Requests to a busy or unreachable server are retried for about a minute. The images may not be reproducible.

    Args:
        fingerprint: fingerprint of the planned model, from `check`; empty for a new plan.
        token: API token, redacted in all messages; default: the value of the environment variable named by `TOKEN`.
    """

    texts: None = None
    computed = 0.0

    def __init__(self, settings: GeneratorSettings, fingerprint: str = "", token: str | None = None) -> None:
        token = (token or os.environ.get(TOKEN, "")).strip()
        remember_options({TOKEN: token})
        check_token(TOKEN, token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = urllib3.Timeout(connect=10, read=TIMEOUT_SECONDS)
        self._http = urllib3.PoolManager(headers=headers, retries=False, timeout=timeout, maxsize=256)
        values = settings.model_dump(include={*REQUEST_KEYS}, exclude_none=True)
        self._body = {REQUEST_KEYS[key]: value for key, value in values.items()}
        self._body |= {"n": 1, "response_format": "b64_json", "output_format": "png"}
        self._body["size"] = f"{settings.width}x{settings.height}"
        self.settings, self.fingerprint = settings, fingerprint
        self.fingerprint = self.check()

    def check(self) -> str:
        """Return the fingerprint (16 hex digits) of the served model; raise a UserError if it is not as planned."""
        name, url = self.settings.model, self.settings.pipeline
        models = self._call("/models", lambda data: {row["id"]: [row.get(key) for key in IDENTITY] for row in data})
        fingerprint = hashlib.sha256(json.dumps([name, models.get(name)]).encode()).hexdigest()[:16]
        if name not in models or self.fingerprint not in ("", fingerprint):
            expected = f"the {name} that " + ("the dataset was created with" if self.fingerprint else "is configured")
            served = few(cut(printable(str(model))) for model in models)
            raise UserError(
                f"{url} serves {served}, not {expected}; serve that model, or correct synthesis.generator.model"
            )
        return fingerprint

    def start(self, prompts: Sequence[str], seeds: Sequence[int], *_: object) -> Callable[[], list[Image.Image]]:
        """Request one RGB image for each (prompt, seed) pair, like `Generator.start`."""
        bodies = [{**self._body, "prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
        with ThreadPoolExecutor(len(bodies), "endpoint") as threads:
            images = list(threads.map(lambda body: self._call("/images/generations", self._image, body), bodies))
        self.check()  # the server may have restarted with a different model
        return lambda: images

    def _image(self, data: Any) -> Image.Image:
        (row,) = data
        try:
            image = decode_image(base64.b64decode(row["b64_json"], validate=True), "its image")
        except UnreadableImageError as error:
            raise ValueError(str(error)) from error
        if (pixels := "{}x{}".format(*image.size)) != self._body["size"]:
            raise UserError(
                f"{self.settings.pipeline} returned an image of {pixels} pixels instead of {self._body['size']}; set "
                "synthesis.generator.width and height to a size that the model supports"
            )
        return image

    def _call(self, path: str, parse: Callable[[Any], Any], body: object = None) -> Any:
        """Send a request, and return the result of `parse` for the response's `data` field."""
        url = self.settings.pipeline.rstrip("/") + path
        remedy = "start the server, or correct synthesis.generator.pipeline (usually http://HOST:PORT/v1)"
        try:
            status, content = self._request("POST" if body else "GET", url, body)
        except (HTTPError, ValueError) as error:  # ValueError: the token is not a valid header
            raise UnreachableError(f"{url} is unreachable: {printable(first_line(error))}; {remedy}") from error
        # Redact secrets before cutting the text, since a partial secret would not be recognised.
        text = printable(" ".join(content[:10_000].decode(errors="replace").split()))
        response = f"{url} returned {status}: {text[:200]}"
        if status != 200:
            error_class = UnreachableError if status in BUSY else UserError
            raise error_class(f"{response}; {REMEDIES.get(status, remedy)}")
        try:
            return parse(json.loads(content)["data"])
        except UserError:
            raise
        except Exception as error:
            raise UnreachableError(
                f"{response}: invalid response ({printable(first_line(error))}); {remedy}"
            ) from error

    def _request(self, method: str, url: str, body: object) -> tuple[int, bytes]:
        """Send a request, and return the response's status and content; raise an HTTPError after `RETRIES` retries."""
        for attempt in range(RETRIES + 1):
            pause = BACKOFF_SECONDS * (2**attempt + random.random())
            try:
                response = self._http.request(method, url, json=body, redirect=False, preload_content=False)
                content = _content(response, url)
                if response.status not in BUSY or attempt == RETRIES:
                    return response.status, content
                pause = urllib3.Retry().get_retry_after(response) or pause
            except HTTPError:
                if attempt == RETRIES:
                    raise
            time.sleep(min(pause, MAX_BACKOFF_SECONDS))
        raise AssertionError("the last attempt returns or raises")


def _content(response: urllib3.BaseHTTPResponse, url: str) -> bytes:
    """Return the undecoded response body, limited by `TIMEOUT_SECONDS` and `MAX_RESPONSE_BYTES`."""
    deadline, content = time.monotonic() + TIMEOUT_SECONDS, bytearray()
    try:
        while data := response.read1(CHUNK_BYTES, decode_content=False):
            content += data
            if len(content) > MAX_RESPONSE_BYTES:
                limit = size(MAX_RESPONSE_BYTES)
                raise UserError(f"{url}: the response is larger than {limit}; check synthesis.generator.pipeline")
            if time.monotonic() > deadline:
                raise ReadTimeoutError(response._pool, url, f"no complete response within {TIMEOUT_SECONDS:g} s")  # type: ignore[attr-defined]
        if response.length_remaining:
            raise IncompleteRead(len(content), response.length_remaining)
    except BaseException:
        response.close()
        raise
    response.release_conn()
    return bytes(content)
