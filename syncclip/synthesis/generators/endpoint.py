"""An OpenAI-compatible endpoint (vLLM-Omni, SGLang, others) in place of a pipeline, for those who serve one already."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3
from PIL import Image

from syncclip.core.secrets import redacted, remember_options
from syncclip.core.settings import UserError, check_token
from syncclip.core.text import few, first_line
from syncclip.storage.faults import UnreachableError
from syncclip.synthesis.generators.settings import SENT, TOKEN, GeneratorSettings

IDENTITY = ("root", "parent", "pipeline_class", "dit_precision", "vae_precision")
"""What a server tells of a model, beside its name, that stays the same when it is started again."""
BUSY = frozenset({408, 429, *range(500, 600)})
"""Statuses that mean: not now."""
RETRIES, PAUSE, LONGEST, SILENCE = 6, 1.0, 60, 600.0
"""Further tries, the pause in seconds that is doubled before each, the longest, and what an answer may take."""
REMEDIES = dict.fromkeys((401, 403), f"set {TOKEN} to a token that it takes")
REMEDIES |= dict.fromkeys((400, 413, 422), "change what synthesis.generator asks for")
REMEDIES |= dict.fromkeys(BUSY, "look into its log, or try again later; what is committed stays")


class Endpoint:
    """Takes the place of a `Generator`: a server is asked for the images of a batch at once, by one request each.

    Busy or away, it is asked again for about a minute; silent, for `SILENCE` at each try. Its bytes are its own affair.

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
            raise UserError(f"{where} serves {few(told)}, not {meant}; serve it, or correct synthesis.generator.model")
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
        image = Image.open(io.BytesIO(base64.b64decode(one["b64_json"], validate=True)))
        if (size := "{}x{}".format(*image.size)) != self._asked["size"]:
            what = f"{self.settings.pipeline} makes images of {size} pixels, not of {self._asked['size']}"
            raise UserError(f"{what}; set synthesis.generator.width and height to what its model can")
        return image.convert("RGB")

    def _ask(self, path: str, read: Callable[[Any], Any], body: object = None) -> Any:
        """What `read` makes of an answer's data."""
        url = self.settings.pipeline.rstrip("/") + path
        remedy = "start it, or correct synthesis.generator.pipeline, which mostly is http://HOST:PORT/v1"
        try:
            answer = self._http.request("POST" if body else "GET", url, json=body, redirect=False)
        except (urllib3.exceptions.HTTPError, ValueError) as error:  # ValueError: the token fits into no header
            raise UnreachableError(f"{url} can't be asked: {first_line(error)}; {remedy}") from error
        said = redacted(answer.data[:10_000].decode(errors="replace"))  # then cut: half a token would be unknown
        told = f"{url} answers {answer.status}: {' '.join(said[:200].split())}"
        if answer.status != 200:
            kind = UnreachableError if answer.status in BUSY else UserError
            raise kind(f"{told}; {REMEDIES.get(answer.status, remedy)}")
        try:
            return read(json.loads(answer.data)["data"])
        except UserError:
            raise
        except Exception as error:  # whatever it holds
            raise UnreachableError(f"{told}: this is no answer of the API ({first_line(error)}); {remedy}") from error
