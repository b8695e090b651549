"""Measure the overhead of the HTTP service, on an idle machine: `python -m benchmarks.serve`.

A ViT-B/16 with random weights runs as a service with one replica, and in this process with the same number of threads.
Requests from one client alternate with calls to the bare image tower in this process. Then many clients send concurrent
requests.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from benchmarks.measuring import in_new_process
from syncclip import jobs
from syncclip.inference.model import Model, computing, load
from syncclip.recipe.recipe import Recipe
from syncclip.runtime.ray_session import local_cpus
from tests.ray_head import free_ports
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import tiny_dataset

SIZE = {"image_size": 224, "patch_size": 16, "width": 768, "head_width": 64, "layers": 12, "dim": 512}
WARM = 5


def make_run(folder: Path) -> str:
    """Write a finished run of zero-shot CLIP with a ViT-B/16."""
    clip, data = make_clip_folder(folder / "clip", **SIZE), tiny_dataset(folder / "data", test=1)
    (folder / "recipe.yaml").write_text(
        f"{{dataset: {{name: {data}}}, backbone: {{name: {clip}}}, training: {{method: zeroshot, data: real}}}}"
    )
    return jobs.run_here(Recipe.load(str(folder / "recipe.yaml")), str(folder / "run")).url


@contextlib.contextmanager
def service(run: str) -> Iterator[tuple[int, float]]:
    """Serve a run; yield the port, and the seconds from the start of the command to the first response."""
    [port] = free_ports(1)
    start = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-m", "syncclip", "serve", run, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert command.stdout is not None and command.stdout.readline(), "the service did not start"
        request(http.client.HTTPConnection("127.0.0.1", port), picture())
        yield port, time.perf_counter() - start
    finally:
        command.terminate()
        command.wait()


def picture(side: int = 400) -> bytes:
    """Return a JPEG of smooth noise."""
    noise = np.random.default_rng(1).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


def request(connection: http.client.HTTPConnection, image: bytes) -> float:
    """Send one request, and return its latency in seconds."""
    start = time.perf_counter()
    connection.request("POST", "/classify", image, {"content-type": "image/jpeg"})
    response = connection.getresponse()
    body = json.loads(response.read())
    assert response.status == 200 and body["labels"], body
    return time.perf_counter() - start


def encode(model: Model, pixels: torch.Tensor) -> float:
    """Encode one image (1, 3, S, S) with the bare image tower, and return the seconds."""
    start = time.perf_counter()
    with computing():
        model.method.image_features(pixels)
    return time.perf_counter() - start


def main(
    rounds: Annotated[int, typer.Option(help="Number of images sent to the service and to the bare tower.")] = 60,
    clients: Annotated[int, typer.Option(help="Number of concurrent clients.")] = 32,
    requests: Annotated[int, typer.Option(help="Total number of requests from all clients.")] = 200,
) -> None:
    """Print the median latency of service and bare tower, their ratio, and the throughput with many clients."""
    image = picture()
    with tempfile.TemporaryDirectory() as folder:
        run = in_new_process(make_run, Path(folder))  # an evaluation would change the state of torch in this process
        torch.set_num_threads(local_cpus())
        model = load(run, device="cpu")
        pixels = model.preprocess(Image.open(io.BytesIO(image)))[None]
        with service(run) as (port, start):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            with ThreadPoolExecutor(1) as thread:  # as in the service: OpenMP may differ in the main thread
                pairs = [
                    (request(connection, image), thread.submit(encode, model, pixels).result())
                    for _ in range(WARM + rounds)
                ][WARM:]
            served, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
            begin = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                list(pool.map(lambda _: request(http.client.HTTPConnection("127.0.0.1", port), image), range(requests)))
            rate = requests / (time.perf_counter() - begin)
    print(f"{local_cpus()} CPUs, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"from the command to the first response: {start:.1f} s")
    for name, side in zip(("service", "bare tower"), zip(*pairs, strict=True), strict=True):
        print(f"{name}: fastest {1e3 * min(side):.1f} ms, slowest {1e3 * max(side):.1f} ms")
    print(f"one image, median of {rounds}: service {1e3 * served:.1f} ms, bare tower {1e3 * bare:.1f} ms, ", end="")
    print(f"ratio {served / bare:.3f}")
    print(f"{requests} requests of {clients} clients: {rate:.1f} images/s; bare tower: {1 / bare:.1f} images/s")


if __name__ == "__main__":
    typer.run(main)
