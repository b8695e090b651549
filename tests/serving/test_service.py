"""The service of a run on a real Ray Serve: what it says, a thousand requests, what it refuses, a killed replica."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.inference.model import Model, load
from syncclip.recipe.recipe import Recipe
from syncclip.serving.app import CALLBACK, TOKEN
from syncclip.serving.service import app
from tests.conftest import TinyWorld
from tests.ray_head import ray_head
from tests.serving.served import PATIENCE, Served, served

CLIENTS, REQUESTS = 32, 1000


@pytest.fixture(scope="module")
def run(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> str:
    recipe = Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"])
    return jobs.run_here(recipe, str(tmp_path_factory.mktemp("served") / "run")).url


@pytest.fixture(scope="module")
def model(run: str) -> Model:
    return load(run, device="cpu")


@pytest.fixture(scope="module")
def service(run: str) -> Iterator[Served]:
    with served(run, "--top", "6") as item:
        yield item


def says_what_the_model_says(output: tuple[int, dict[str, list[dict[str, float]]]], model: Model, image: Path) -> bool:
    expected = model.classify(image, top=6)
    assert output[0] == 200, output
    actual = output[1]["labels"]
    assert [item["class"] for item in actual] == [item.name for item in expected]
    assert [item["probability"] for item in actual] == pytest.approx([item.probability for item in expected], abs=1e-6)
    return True


@pytest.mark.ray
@pytest.mark.slow
def test_a_thousand_requests_of_many_clients_are_all_answered_in_batches(
    service: Served, model: Model, images: Path
) -> None:
    files = sorted(images.iterdir())
    sent = [files[number % len(files)] for number in range(REQUESTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda file: service.ask("/classify", file.read_bytes()), sent))
    assert all(says_what_the_model_says(output, model, file) for output, file in zip(answers[:12], files, strict=True))
    for output, file in zip(answers, sent, strict=True):
        first = answers[files.index(file)]
        assert output[0] == 200
        item, other = (
            sorted((row["class"], row["probability"]) for row in reported[1]["labels"]) for reported in (output, first)
        )
        assert [name for name, _ in item] == [name for name, _ in other]
        assert [share for _, share in item] == pytest.approx([share for _, share in other], abs=1e-6)

    def counted() -> dict[str, float]:
        samples = service.metrics()
        alone = sum(item.value for item in samples if item.labels.get("le") in ("1", "1.0") and "batch" in item.name)
        batches = sum(item.value for item in samples if item.name == "ray_syncclip_serve_batch_images_count")
        asked = sum(
            item.value
            for item in samples
            if item.name == "ray_syncclip_serve_requests_total"
            and (item.labels["path"], item.labels["status"]) == ("/classify", "200")
        )
        return {"asked": asked, "batches": batches, "larger": batches - alone}

    deadline = time.monotonic() + PATIENCE
    while (now := counted())["asked"] < REQUESTS:  # Ray passes metrics on every few seconds
        assert time.monotonic() < deadline, now
        time.sleep(0.5)
    assert now["larger"] > 0 and now["batches"] < REQUESTS


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_what_is_too_large_is_refused_before_it_has_come(service: Served, model: Model, images: Path) -> None:
    """The connection stays open, and whoever sends gets an answer to what he has not sent."""
    head = b"POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
    reported = head + b"content-length: 300000000\r\n\r\n"
    mega = 1 << 20
    silent = head + b"transfer-encoding: chunked\r\n\r\n" + (b"%x\r\n%s\r\n" % (mega, bytes(mega))) * 40
    for sent in (reported, silent):
        with contextlib.closing(socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)) as client:
            client.sendall(sent)
            output = b""
            while b'"}' not in output and (more := client.recv(1 << 16)):
                output += more
        assert (
            output.startswith(b"HTTP/1.1 413 ") and b'{"error":"the body is larger than the limit of 33.6 MB' in output
        )
    image = images / "00.png"
    assert says_what_the_model_says(service.ask("/classify", image.read_bytes()), model, image)


@pytest.mark.ray
@pytest.mark.slow
def test_refusals_come_through_and_the_next_request_is_answered(service: Served, model: Model, images: Path) -> None:
    for path, body in (("/classify", b"no image"), ("/classify", b""), ("/classify?top=none", b"x"), ("/nowhere", b"")):
        status, output = service.ask(path, body)
        assert 400 <= status < 500 and list(output) == ["error"]
        image = images / "05.png"
        assert says_what_the_model_says(service.ask("/classify", image.read_bytes()), model, image)
    assert service.ask("/healthz") == (200, {"status": "ok"})
    assert service.ask("/-/healthz") == (200, {"status": "ok"})
    for path in ("/-/routes", "/-/routes/", "//-/routes", "/%2D/routes"):
        assert service.ask(path)[0] == 404
    assert service.ask("/classify", b"x", host="rebound.example.org")[0] == 421


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_replica_is_replaced_and_the_service_answers_again(
    service: Served, model: Model, images: Path
) -> None:
    image, [killed] = images / "07.png", service.replicas()
    killed.kill()
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError):  # what was on its way to the killed one is lost
            if (output := service.ask("/classify", image.read_bytes()))[0] == 200:
                break
        assert time.monotonic() < deadline, "it does not answer again"
    assert says_what_the_model_says(output, model, image)
    [now] = service.replicas()
    assert now.pid != killed.pid


@pytest.mark.xdist_group("heads")
@pytest.mark.ray
@pytest.mark.slow
def test_on_a_cluster_a_service_ends_with_its_command_and_lets_no_other_beside_it(
    run: str, model: Model, images: Path
) -> None:
    image = images / "00.png"
    with ray_head() as head:
        with served(run, "--top", "6", **head.to_join) as item:
            assert says_what_the_model_says(item.ask("/classify", image.read_bytes()), model, image)
            with (
                pytest.raises(AssertionError, match="Ray Serve is already running"),
                served(run, **head.to_join),
            ):
                pass
            assert says_what_the_model_says(item.ask("/classify", image.read_bytes()), model, image)
        with served(run, "--top", "6", **head.to_join) as item:
            assert says_what_the_model_says(item.ask("/classify", image.read_bytes()), model, image)


def test_an_application_of_a_file_has_its_settings_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(UserError, match=r"run: missing; give it a value"):
        app({"top": 3})
    with pytest.raises(UserError, match=r"tops: no such key; did you mean 'top'\?"):
        app({"run": "runs/first", "tops": 3})
    with pytest.raises(UserError, match=f"{TOKEN}: not set, so the service would be open"):
        app({"run": "runs/first"})
    monkeypatch.setenv(TOKEN, "open sesame")
    with pytest.raises(UserError, match=f"{CALLBACK[0]}: set it to {CALLBACK[1]} in every pod"):
        app({"run": "runs/first"})
    monkeypatch.setenv(*CALLBACK)
    assert type(app({"run": "runs/first", "num_cpus": 2})).__name__ == "Application"
