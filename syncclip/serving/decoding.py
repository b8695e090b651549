"""Decoding of request bodies in processes with limits on time and memory, which damaged or hostile files cannot exceed.

A body is a form with files or one image. Python and C code that a hostile file keeps busy is ended by the operating
system, and only the request fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import python_multipart  # noqa: F401  (what Starlette reads forms with)
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from syncclip.core.settings import UserError
from syncclip.core.text import cut, printable
from syncclip.shards.images import decode_image

CPU_SECONDS = 5
"""CPU time to decode all images of a request."""
MEMORY_BYTES = 2 << 30
"""Address space of a decoding process."""
MOST_FILES, MOST_SCANS = 64, 100
"""Upper bounds on images in a form, and on scans of a JPEG: each scan costs as much as a whole image."""


class Decoder:
    """A process that decodes one body at a time; it is replaced when it fails. For one thread."""

    def __init__(self) -> None:
        self._start()

    def images(self, kind: str, body: bytes) -> Iterator[Image.Image]:
        """The RGB images in a body, in their order.

        Args:
            kind: its Content-Type.

        Raises:
            UserError: one is no image or exceeds a limit.
        """
        if self._process.poll() is not None:
            self._start()
        complete = False
        try:
            self._pipe.send_bytes(kind.encode())
            self._pipe.send_bytes(body)
            while shape := json.loads(self._pipe.recv_bytes()):
                if isinstance(shape, str):
                    complete = True
                    raise UserError(shape)
                yield Image.frombytes("RGB", (shape[0], shape[1]), self._pipe.recv_bytes())
            complete = True
        except (EOFError, OSError) as error:
            late = self._process.wait() == -signal.SIGXCPU
            reason = f"takes more than {CPU_SECONDS} s of CPU time" if late else "fails for lack of memory or a defect"
            raise UserError(f"decoding {reason}; send fewer or smaller images") from error
        finally:
            if not complete:
                self._start()

    def _start(self) -> None:
        self.close()
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def close(self) -> None:
        """End the process."""
        if hasattr(self, "_process"):
            self._pipe.close()
            self._process.kill()
            self._process.wait()


def _serve(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with suppress(EOFError, OSError):  # the service has ended
        while True:
            kind, body = pipe.recv_bytes().decode(), pipe.recv_bytes()
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + CPU_SECONDS, -1))
            try:
                for name, data in _files(kind, body):
                    image = _decoded(data, cut(printable(name)))
                    pipe.send_bytes(json.dumps(image.size).encode())
                    pipe.send_bytes(image.tobytes())
                answer = None
            except (UserError, MultiPartException) as error:
                answer = error.message if isinstance(error, MultiPartException) else str(error)
            pipe.send_bytes(json.dumps(answer).encode())


def _decoded(data: bytes, name: str) -> Image.Image:
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MOST_SCANS:  # markers of scans; data escapes 0xff
        raise UserError(f"{name}: a JPEG with more than {MOST_SCANS} scans; save it again as a baseline JPEG")
    return decode_image(data, name)


def _files(kind: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each image in a body."""
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        if not body:
            raise UserError("the body is empty; send an image, or a form with a file in its field `image`")
        yield "the body", body
        return

    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(Headers({"content-type": kind}), stream(), max_files=MOST_FILES)  # type: ignore[arg-type]
    parser.spool_max_size = len(body)  # in memory
    files = [one for one in asyncio.run(parser.parse()).getlist("image") if isinstance(one, UploadFile)]
    if not files:
        raise UserError("the form has no file in its field `image`; name it so")
    for one in files:
        yield one.filename or "image", one.file.read()


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
