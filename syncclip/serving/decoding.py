"""Decoding of request bodies in processes with limits on CPU time and memory.

A body is one image or a form with image files. If a file exceeds a limit, the decoding process exits and only that
request fails.
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

import python_multipart  # noqa: F401  (Starlette parses forms with it)
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from syncclip.core.settings import UserError
from syncclip.core.text import cut, printable
from syncclip.shards.images import decode_image

CPU_SECONDS = 5
"""Maximum CPU time in seconds for decoding all images of a request."""
MEMORY_BYTES = 2 << 30
"""Maximum address space of a decoding process in bytes."""
MAX_FILES, MAX_SCANS = 64, 100
"""Maximum numbers of images per form and of scans per JPEG; decoding one scan can take as long as a whole image."""


class Decoder:
    """A process that decodes one body at a time and is replaced after a failure. Not thread-safe."""

    def __init__(self) -> None:
        self._start()

    def images(self, content_type: str, body: bytes) -> Iterator[Image.Image]:
        """Yield the RGB images of a body, in order.

        Raises:
            UserError: a file is not an image, or a limit is exceeded.
        """
        if self._process.poll() is not None:
            self._start()
        complete = False
        try:
            self._pipe.send_bytes(content_type.encode())
            self._pipe.send_bytes(body)
            while reply := json.loads(self._pipe.recv_bytes()):
                if isinstance(reply, str):
                    complete = True
                    raise UserError(reply)
                yield Image.frombytes("RGB", tuple(reply), self._pipe.recv_bytes())
            complete = True
        except (EOFError, OSError) as error:
            timed_out = self._process.wait() == -signal.SIGXCPU
            reason = f"exceeded {CPU_SECONDS} s of CPU time" if timed_out else "ran out of memory or crashed"
            raise UserError(f"decoding {reason}; send fewer or smaller images") from error
        finally:
            if not complete:
                self._start()

    def _start(self) -> None:
        self.close()
        self._pipe, child = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(child.fileno())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            pass_fds=[child.fileno()],
        )
        child.close()

    def close(self) -> None:
        """End the process."""
        if hasattr(self, "_process"):
            self._pipe.close()
            self._process.kill()
            self._process.wait()


def _decode_bodies(pipe: Connection) -> None:
    """Decode bodies until the pipe closes; send [width, height] and RGB bytes for each image, then null or an error."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with suppress(EOFError, OSError):  # the service has ended
        while True:
            content_type, body = pipe.recv_bytes().decode(), pipe.recv_bytes()
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + CPU_SECONDS, -1))
            message = None
            try:
                for name, data in _files(content_type, body):
                    image = _decoded(data, cut(printable(name)))
                    pipe.send_bytes(json.dumps(image.size).encode())
                    pipe.send_bytes(image.tobytes())
            except (UserError, MultiPartException) as error:
                message = error.message if isinstance(error, MultiPartException) else str(error)
            pipe.send_bytes(json.dumps(message).encode())


def _decoded(data: bytes, name: str) -> Image.Image:
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:  # scan markers; image data escapes 0xff
        raise UserError(
            f"{name}: a JPEG with more than {MAX_SCANS} scans is not supported; save the image as a baseline JPEG"
        )
    return decode_image(data, name)


def _files(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each image in a body."""
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        if not body:
            raise UserError("the body is empty; send an image, or a form with a file in the `image` field")
        yield "the body", body
        return

    async def stream() -> AsyncIterator[bytes]:
        yield body

    headers = Headers({"content-type": content_type})
    parser = MultiPartParser(headers, stream(), max_files=MAX_FILES)  # type: ignore[arg-type]
    parser.spool_max_size = len(body)  # in memory
    files = [file for file in asyncio.run(parser.parse()).getlist("image") if isinstance(file, UploadFile)]
    if not files:
        raise UserError("the form has no file in the `image` field; upload the image in a field of this name")
    for file in files:
        yield file.filename or "image", file.file.read()


if __name__ == "__main__":
    _decode_bodies(Connection(int(sys.argv[1])))
