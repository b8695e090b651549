"""The service on Ray Serve: concurrent requests, errors, a killed replica, a cluster, and settings."""

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
from syncclip.serving.service import app, application, service_settings
from tests.conftest import TinyWorld
from tests.ray_head import ray_head
from tests.serving.served import PATIENCE, Served, served

CLIENTS, REQUESTS = 32, 500


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


def check(response: tuple[int, dict[str, list[dict[str, float]]]], model: Model, image: Path) -> None:
    """Compare a response with the predictions of the model."""
    expected = model.classify(image, top=6)
    assert response[0] == 200, response
    labels = response[1]["labels"]
    assert [label["class"] for label in labels] == [label.name for label in expected]
    assert [label["probability"] for label in labels] == pytest.approx([x.probability for x in expected], abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_concurrent_requests_are_answered_in_batches(service: Served, model: Model, images: Path) -> None:
    files = sorted(images.iterdir())
    sent = [files[number % len(files)] for number in range(REQUESTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        responses = list(clients.map(lambda file: service.ask("/classify", file.read_bytes()), sent))
    for response, file in zip(responses[:12], files, strict=True):
        check(response, model, file)
    for response, file in zip(responses, sent, strict=True):
        first = responses[files.index(file)]
        assert response[0] == 200
        ours, theirs = ({row["class"]: row["probability"] for row in body["labels"]} for _, body in (response, first))
        assert ours == pytest.approx(theirs, abs=1e-6)

    def metrics() -> dict[str, float]:
        samples = service.metrics()
        single = sum(item.value for item in samples if item.labels.get("le") in ("1", "1.0") and "batch" in item.name)
        batches = sum(item.value for item in samples if item.name == "ray_syncclip_serve_batch_images_count")
        requests = sum(
            item.value
            for item in samples
            if item.name == "ray_syncclip_serve_requests_total"
            and (item.labels["path"], item.labels["status"]) == ("/classify", "200")
        )
        return {"requests": requests, "batches": batches, "larger": batches - single}

    deadline = time.monotonic() + PATIENCE
    while (values := metrics())["requests"] < REQUESTS:  # Ray exports metrics every few seconds
        assert time.monotonic() < deadline, values
        time.sleep(0.5)
    assert values["larger"] > 0 and values["batches"] < REQUESTS


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_a_body_that_is_too_large_is_rejected_early(service: Served, model: Model, images: Path) -> None:
    """The client receives the response before it has sent the whole body."""
    head = b"POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
    chunk = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    for sent in (
        head + b"content-length: 300000000\r\n\r\n",
        head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 40,
    ):
        with contextlib.closing(socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)) as client:
            client.sendall(sent)
            output = b""
            while b'"}' not in output and (more := client.recv(1 << 16)):
                output += more
        assert output.startswith(b"HTTP/1.1 413 ") and b'{"error":"the body is larger' in output
    image = images / "00.png"
    check(service.ask("/classify", image.read_bytes()), model, image)


@pytest.mark.ray
@pytest.mark.slow
def test_errors_are_returned_and_the_next_request_is_answered(service: Served, model: Model, images: Path) -> None:
    for path, body in (("/classify", b"no image"), ("/classify", b""), ("/classify?top=none", b"x"), ("/unknown", b"")):
        status, output = service.ask(path, body)
        assert 400 <= status < 500 and list(output) == ["error"]
        image = images / "05.png"
        check(service.ask("/classify", image.read_bytes()), model, image)
    assert service.ask("/healthz") == (200, {"status": "ok"})
    assert service.ask("/-/healthz") == (200, {"status": "ok"})
    for path in ("/-/routes", "/-/routes/", "//-/routes", "/%2D/routes"):
        assert service.ask(path)[0] == 404
    assert service.ask("/classify", b"x", host="rebound.example.org")[0] == 421


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_replica_is_replaced(service: Served, model: Model, images: Path) -> None:
    image, [killed] = images / "07.png", service.replicas()
    killed.kill()
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError):  # requests of the killed replica fail
            if (output := service.ask("/classify", image.read_bytes()))[0] == 200:
                break
        assert time.monotonic() < deadline
    check(output, model, image)
    [replacement] = service.replicas()
    assert replacement.pid != killed.pid


@pytest.mark.xdist_group("heads")
@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_runs_one_service_until_its_command_ends(run: str, model: Model, images: Path) -> None:
    image = images / "00.png"
    with ray_head() as head:
        for _ in range(2):
            with served(run, "--top", "6", **head.to_join) as item:
                with pytest.raises(AssertionError, match="Serve is already running"), served(run, **head.to_join):
                    pass
                check(item.ask("/classify", image.read_bytes()), model, image)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"min_replica": 1}, "min_replica is not an option of Ray Serve's AutoscalingConfig"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas"),
    ],
)
def test_autoscaling_settings_are_those_of_ray_serve(value: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"autoscaling_config: .*{message}"):
        service_settings({"run": "runs/first", "autoscaling_config": value})


def test_labels_and_autoscaling_are_passed_to_ray_serve() -> None:
    spot = {"ray.io/market-type": "spot"}
    scaling = {"min_replicas": 2, "max_replicas": 8}
    settings = service_settings({"run": "runs/first", "label_selector": spot, "autoscaling_config": scaling})
    deployment = application(settings)._bound_deployment
    passed = deployment._deployment_config.autoscaling_config
    assert (passed.min_replicas, passed.max_replicas, settings.initial_replicas) == (2, 8, 2)
    assert deployment.ray_actor_options["label_selector"] == spot


def test_settings_of_a_serve_config_are_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(UserError, match="run: missing"):
        app({"top": 3})
    with pytest.raises(UserError, match=r"tops: no such key; did you mean 'top'\?"):
        app({"run": "runs/first", "tops": 3})
    with pytest.raises(UserError, match=f"{TOKEN} is not set, so the service would be open"):
        app({"run": "runs/first"})
    monkeypatch.setenv(TOKEN, "open sesame")
    with pytest.raises(UserError, match=f"{CALLBACK[0]} is not {CALLBACK[1]}, .* set it in every pod"):
        app({"run": "runs/first"})
    monkeypatch.setenv(*CALLBACK)
    assert type(app({"run": "runs/first", "num_cpus": 2})).__name__ == "Application"
