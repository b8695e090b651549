"""The service behind its front, in this process: batches, the token, limits, every refusal as one sentence."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from syncclip.inference.model import Model, load
from syncclip.serving.decoding import MOST_FILES
from syncclip.serving.endpoints import BATCH, Batches, Service
from syncclip.serving.front import MOST_BYTES, Front
from tests.inference.conftest import Train

TOKEN = "open sesame"


@dataclass
class Answer:
    """What the service said, and how much of the body it had read for that."""

    status: int
    headers: dict[str, str]
    body: bytes
    read: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> str:
        """The one sentence of a refusal."""
        assert 400 <= self.status < 500 and list(self.json) == ["error"], self
        sentence: str = self.json["error"]
        assert sentence and "\n" not in sentence and not sentence.endswith(".")
        return sentence


def ask(app: Any, path: str, body: Iterable[bytes] = (), method: str = "POST", **headers: str) -> Answer:
    """One request of an ASGI application, whose body comes in pieces."""
    where, _, query = path.partition("?")
    pieces, said, read = iter(body), [], 0
    named = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()
    ]
    scope = {"type": "http", "method": method, "path": where, "query_string": query.encode(), "headers": named}

    async def receive() -> dict[str, Any]:
        nonlocal read
        piece = next(pieces, None)
        read += len(piece or b"")
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    asyncio.run(app({**scope, "http_version": "1.1", "root_path": "", "scheme": "http"}, receive, send))
    begun = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return Answer(said[0]["status"], begun, b"".join(one.get("body", b"") for one in said[1:]), read)


def form(*files: tuple[str, bytes], field: str = "image") -> dict[str, Any]:
    """Body and headers of a form with files."""
    head = '--x\r\nContent-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'
    parts = [part for name, data in files for part in (head.format(field, name).encode(), data, b"\r\n")]
    return {"body": [*parts, b"--x--\r\n"], "content_type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A small file of 200 million pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def model(train: Train) -> Model:
    return load(train("training.method=zeroshot").url)


@pytest.fixture
def app(model: Model) -> Any:
    return Front(Service(model, top=3).app(), None)


def test_an_image_comes_as_a_form_or_alone(app: Any, model: Model, images: Path) -> None:
    data = (images / "03.png").read_bytes()
    expected = model.classify(images / "03.png", top=3)
    for found in (
        ask(app, "/classify", **form(("bus.png", data))),
        ask(app, "/classify", [data], content_type="image/png"),
        ask(app, "/classify", [data[:100], data[100:]]),
    ):
        assert [label["class"] for label in found.json["labels"]] == [label.name for label in expected]
        told = [label["probability"] for label in found.json["labels"]]
        assert told == pytest.approx([label.probability for label in expected], abs=1e-6)
    assert len(ask(app, "/classify?top=2", [data]).json["labels"]) == 2


def test_several_files_have_their_answers_in_order(app: Any, model: Model, images: Path) -> None:
    files = sorted(images.iterdir())
    found = ask(app, "/classify", **form(*((file.name, file.read_bytes()) for file in files))).json["answers"]
    best = [labels[0].name for labels in model.classify(files, top=1)]
    assert [answer["labels"][0]["class"] for answer in found] == best


def test_what_is_no_image_is_refused_in_one_sentence(app: Any, images: Path, bomb: bytes) -> None:
    data = (images / "00.png").read_bytes()
    wrong: list[tuple[int, str, Answer]] = [
        (400, "pixels", ask(app, "/classify", **form(("bomb.png", bomb)))),
        (400, "notes.txt: unreadable image: not a JPEG", ask(app, "/classify", **form(("notes.txt", b"no image")))),
        (400, "the body is empty", ask(app, "/classify")),
        (400, "unreadable image", ask(app, "/classify", **form(("empty.png", b"")))),
        (400, "b.png: unreadable", ask(app, "/classify", **form(("a.png", data), ("b.png", data[:60])))),
        (400, "no file in its field `image`", ask(app, "/classify", **form(("a.png", data), field="picture"))),
        (400, "boundary", ask(app, "/classify", [data], content_type="multipart/form-data")),
        (400, "Too many files", ask(app, "/classify", **form(*[("a.png", data)] * (MOST_FILES + 1)))),
        (404, "there is only POST /classify", ask(app, "/nowhere")),
        (404, "there is only POST /classify", ask(app, "/metrics", method="GET")),
        (405, "/classify takes POST only", ask(app, "/classify", method="GET")),
        (405, "/healthz takes GET only", ask(app, "/healthz", [data])),
        (400, "GET / takes no body", ask(app, "/", [data], method="GET")),
    ]
    assert [(said.status, reason in said.refusal) for _, reason, said in wrong] == [
        (status, True) for status, *_ in wrong
    ]
    assert ask(app, "/classify", [data]).status == 200


def test_a_body_that_is_too_large_is_not_read(app: Any) -> None:
    mega, length = bytes(1 << 20), 300_000_000
    told = ask(app, "/classify", [mega] * 300, content_length=str(length), content_type="image/png")
    assert told.status == 413 and "larger than the limit of 33.6 MB" in told.refusal
    assert told.read <= MOST_BYTES + 2 * len(mega), "received so that the client reads the answer, and discarded"
    for kind in ("image/png", "application/json", "multipart/form-data; boundary=x"):
        begin = form(("a.png", b""))["body"][:1] if kind.startswith("multi") else []
        silent = ask(app, "/classify", [*begin, *[mega] * 300], content_type=kind)
        assert silent.status == 413 and silent.read <= 2 * MOST_BYTES + 4 * len(mega), "it is refused while it comes"
        assert "larger than" in silent.refusal


def test_a_token_is_asked_for_but_for_the_page_and_its_health(model: Model, images: Path) -> None:
    app = Front(Service(model).app(), hashlib.sha256(TOKEN.encode()).digest())
    data = (images / "00.png").read_bytes()
    for header in ({}, {"authorization": "Bearer open"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": ""}):
        for path in ("/classify", "/-/routes", "/nowhere"):
            said = ask(app, path, [data], **header)
            assert (said.status, said.headers["www-authenticate"]) == (401, "Bearer")
            assert "the token is missing or wrong" in said.refusal
    assert ask(app, "/classify", [data], authorization=f"bearer {TOKEN}").status == 200
    page = ask(app, "/", method="GET")
    assert page.status == 200 and b"<!doctype html>" in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("top", ["0", "-1", "%C2%B2", "9" * 5000, "00001", "1e3", "1_0", "", "%00", "10000"])
def test_a_number_of_classes_that_is_none_is_a_refusal(app: Any, images: Path, top: str) -> None:
    answer = ask(app, f"/classify?top={top}", [(images / "00.png").read_bytes()])
    assert answer.status == 400 and "is not a number of classes" in answer.refusal


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "\u00b2".encode().decode("latin-1"), "33554433"])
def test_a_length_that_is_none_or_too_large_is_a_refusal(app: Any, length: str) -> None:
    assert ask(app, "/classify", content_length=length).status == 413


def test_images_that_come_meanwhile_are_the_next_batch() -> None:
    sizes, begun, go = [], threading.Event(), threading.Event()

    def compute(pixels: list[torch.Tensor]) -> list[float]:
        sizes.append(len(pixels))
        begun.set()
        assert go.wait(60)
        return [float(one) for one in pixels]

    batches = Batches(compute)
    with ThreadPoolExecutor(BATCH + 9) as clients:
        first = clients.submit(lambda: asyncio.run(batches(torch.tensor(-1.0))))
        assert begun.wait(60), "an image that comes alone waits for no other"
        others = [clients.submit(lambda n=n: asyncio.run(batches(torch.tensor(float(n))))) for n in range(BATCH + 8)]
        while batches._waiting.qsize() < len(others):
            assert not any(one.done() for one in others)
        go.set()
        assert [one.result() for one in (first, *others)] == [-1.0, *map(float, range(BATCH + 8))]
    assert sizes == [1, BATCH, 8]


def test_a_batch_that_fails_is_the_end_of_no_other_and_who_has_gone_is_not_waited_for() -> None:
    seen: list[list[float]] = []

    def compute(pixels: list[torch.Tensor]) -> list[float]:
        seen.append([float(one) for one in pixels])
        if 13.0 in seen[-1]:
            raise RuntimeError("unlucky")
        return seen[-1]

    async def work() -> None:
        batches = Batches(compute)
        gone = asyncio.ensure_future(batches(torch.tensor(7.0)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(RuntimeError, match="unlucky"):
            await batches(torch.tensor(13.0))
        assert await batches(torch.tensor(1.0)) == 1.0

    asyncio.run(work())
    assert seen[-1] == [1.0]


def test_a_defect_is_told_without_its_words(model: Model, images: Path) -> None:
    service = Service(model)
    service._batches = Batches(lambda pixels: 1 / 0)  # type: ignore[assignment]

    told = ask(Front(service.app(), None), "/classify", [(images / "00.png").read_bytes()])
    assert (told.status, told.json) == (500, {"error": "internal error; the service's log has the details"})
