from __future__ import annotations

import multiprocessing
import pickle
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from syncclip.core.settings import UserError
from syncclip.core.validation_errors import first_error
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.storage import UnreachableError
from syncclip.synthesis import driver
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators import endpoint
from syncclip.synthesis.generators.endpoint import Endpoint
from syncclip.synthesis.generators.settings import TOKEN, GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.mark import mark_of
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.synthesis.shard import _encode
from syncclip.synthetic_sets import card
from syncclip.synthetic_sets.repair import repair_set
from syncclip.workers import job
from syncclip.workers.report import Report
from tests.shards.sets import verify
from tests.synthesis.generators.conftest import pixels
from tests.worlds.endpoint import MODEL, SECRET, Server, image_of, serving

MakePlan = Callable[..., Plan]
PROMPTS = [f"a photo of a cat, number {number}" for number in range(6)]
SEEDS = list(range(100, 106))


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(endpoint, "RETRIES", 3)
    monkeypatch.delenv(TOKEN, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def settings(server: Server, **values: Any) -> GeneratorSettings:
    return GeneratorSettings(**server.settings(**values))


def generate(server: Server, **values: Any) -> list[bytes]:
    return pixels(Endpoint(settings(server, **values)).start(PROMPTS, SEEDS)())


EXPECTED = pixels([image_of(*row) for row in zip(PROMPTS, SEEDS, strict=True)])


def test_images_of_a_batch_are_requested_concurrently(server: Server) -> None:
    barrier = threading.Barrier(len(SEEDS), timeout=60)
    server.order = lambda seed, before: barrier.wait() and None
    assert generate(server) == EXPECTED
    assert server.asked == dict.fromkeys(SEEDS, 1)


def test_a_request_contains_all_settings(server: Server) -> None:
    generate(server, steps=7, guidance=3.5, true_guidance=2.0, negative_prompt="fog", height=32, width=48)
    assert min(server.bodies, key=lambda body: body["seed"]) == {
        "model": MODEL,
        "prompt": PROMPTS[0],
        "seed": SEEDS[0],
        "n": 1,
        "size": "48x32",
        "num_inference_steps": 7,
        "guidance_scale": 3.5,
        "true_cfg_scale": 2.0,
        "negative_prompt": "fog",
        "response_format": "b64_json",
        "output_format": "png",
    }
    server.bodies.clear()
    generate(server)
    assert not {"true_cfg_scale", "negative_prompt"} & {*server.bodies[0]}


@pytest.mark.parametrize("fault", ["500", "503", "520", "408", "dropped", "cut"])
def test_transient_errors_are_retried(server: Server, fault: str) -> None:
    server.order = lambda seed, before: fault if seed % 2 and before < 2 else None
    assert generate(server) == EXPECTED
    assert server.asked == {seed: 3 if seed % 2 else 1 for seed in SEEDS}


@pytest.mark.parametrize("fault", ["slow", "dripping body", "dripping chunks"])
def test_a_slow_response_times_out(server: Server, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 1)
    server.order = lambda seed, before: fault if seed == 103 and not before else None
    assert generate(server) == EXPECTED
    assert server.asked[103] == 2


@pytest.mark.parametrize("fault", ["large", "large chunks"])
def test_a_large_response_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(endpoint, "MAX_RESPONSE_BYTES", 1 << 20)
    server.order = lambda seed, before: fault if seed == 103 else None
    with pytest.raises(UserError, match=r"larger than 1\.0 MB"):
        generate(server)
    assert server.asked[103] == 1


@pytest.mark.parametrize("name", ["\x1b[2Jpainter", "a\nb\r\x07", "\u202etnirp", "\x9b31m"])
def test_messages_contain_no_control_characters_of_a_server(server: Server, name: str) -> None:
    server.model["id"] = name
    with pytest.raises(UserError, match="not the tiny/painter that is configured") as failure:
        generate(server)
    assert str(failure.value).isprintable()
    server.model = {"id": MODEL, "created": 1, "root": name}
    server.order = lambda seed, before: "words"
    with pytest.raises(UserError) as failure:
        generate(server)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(("retry_after", "maximum"), [("1", 60), ("3600", 1)])
def test_retry_after_is_respected_up_to_a_maximum(
    server: Server, monkeypatch: pytest.MonkeyPatch, retry_after: str, maximum: int
) -> None:
    monkeypatch.setattr(endpoint, "MAX_BACKOFF_SECONDS", maximum)
    server.retry_after = retry_after
    server.order = lambda seed, before: None if before else "429"
    Endpoint(settings(server)).start(PROMPTS[:1], SEEDS[:1])
    first, second = server.times
    assert second - first >= 1


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("400", UserError, "returned 400: .*; change synthesis.generator"),
        ("401", UserError, f"returned 401: .*; set {TOKEN}"),
        ("403", UserError, f"returned 403: .*; set {TOKEN}"),
        ("404", UserError, "returned 404: .*; start the server, or correct synthesis.generator.pipeline"),
        ("302", UserError, "returned 302: .*; start the server"),
        ("429", UnreachableError, "returned 429: .*; check the server's log"),
        ("502", UnreachableError, "returned 502: .*; check the server's log"),
        ("dropped", UnreachableError, "is unreachable: .*; start the server"),
        ("cut", UnreachableError, "is unreachable: .*; start the server"),
        ("garbage", UnreachableError, "returned 200: <html> welcome</html>: invalid response"),
        ("error", UnreachableError, '"out of memory"}}: invalid response'),
        *[
            (kind, UnreachableError, "invalid response")
            for kind in ("two images", "torn image", "EPS", "PPM", "zipped")
        ],
        ("small", UserError, "an image of 32x32 pixels instead of 64x64"),
    ],
)
def test_a_permanent_fault_is_one_line_without_the_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, error: type[UserError], message: str
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    server.token = SECRET
    server.order = lambda seed, before: fault if seed == 102 else None
    with pytest.raises(UserError, match=message) as failure:
        generate(server)
    assert type(failure.value) is error
    assert server.url in str(failure.value)
    assert SECRET not in str(failure.value) and "\n" not in str(failure.value)
    assert server.asked[102] == (4 if fault in ("429", "502", "dropped", "cut") else 1)


def test_redirects_are_not_followed(server: Server) -> None:
    with serving() as other:
        server.order = lambda seed, before: "307"
        with pytest.raises(UserError, match="returned 307"):
            generate(server)
    assert not other.bodies and not other.models


def test_a_missing_server_is_reported() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(UnreachableError, match=r"/v1/models is unreachable: .*refused"):
        locate(settings(Server(url=url)))


def test_the_token_is_sent_and_redacted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = SECRET
    with pytest.raises(UserError, match=f"returned 401: .*set {TOKEN}"):
        generate(server)
    monkeypatch.setenv(TOKEN, "sk-another-one")
    with pytest.raises(UserError, match=r"Incorrect API key provided: Bearer \*\*\*"):
        generate(server)
    monkeypatch.setenv(TOKEN, f"{SECRET}\n")
    assert generate(server) == EXPECTED
    monkeypatch.setenv(TOKEN, "sk-in\ntwo-lines")
    with pytest.raises(UserError, match=f"{TOKEN}: the token contains characters") as failure:
        generate(server)
    assert "two-lines" not in str(failure.value)


def test_the_fingerprint_survives_restarts_and_detects_another_model(server: Server) -> None:
    planned = locate(settings(server)).fingerprint
    assert re.fullmatch(r"[0-9a-f]{16}", planned)
    server.model |= {"created": 4711, "permission": [{"id": "modelperm-1"}], "num_gpus": 4}
    assert locate(settings(server), planned).fingerprint == planned
    for change in ({"root": "/models/other"}, {"dit_precision": "fp8"}):
        before, server.model = server.model, {**server.model, **change}
        assert locate(settings(server)).fingerprint != planned
        with pytest.raises(UserError, match=f"not the {MODEL} that the dataset was created with"):
            locate(settings(server), planned)
        server.model = before
    server.model["id"] = "tiny/other"
    with pytest.raises(UserError, match=f"serves tiny/other, not the {MODEL} that is configured"):
        locate(settings(server))


def test_images_from_a_server_restarted_with_another_model_are_rejected(server: Server) -> None:
    generator = Endpoint(settings(server))
    server.order = lambda seed, before: server.model.update(root="/models/other")
    with pytest.raises(UserError, match="not the tiny/painter that the dataset was created with"):
        generator.start(PROMPTS, SEEDS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheduler": "DDIMScheduler"}, "scheduler has no effect with http://host:8000/v1, since endpoints"),
        ({"loras": [{"weights": "a.safetensors"}]}, "loras has no effect"),
        ({"dtype": "bf16"}, "dtype has no effect"),
        ({"attention": "flash"}, "attention has no effect"),
        ({"speed": "fast"}, "speed has no effect"),
        ({"batch_size": "auto"}, "needs model, height, width and a numeric batch_size"),
        ({"height": None}, "needs model, height, width"),
        ({"pipeline": "http://me:sesame@host:8000/v1"}, f"pipeline: remove user.*; set {TOKEN}"),
        ({"pipeline": "HTTPS://host/v1?api_key=sesame"}, "pipeline: remove user, password and query"),
        ({"pipeline": "someone/model"}, "model has no effect with someone/model, since only endpoints"),
    ],
)
def test_settings_without_effect_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failure:
        GeneratorSettings(**Server(url="http://host:8000/v1").settings(**values))
    assert re.search(message, first_error(failure.value))
    assert "sesame" not in first_error(failure.value)


def test_an_actor_needs_no_gpu_without_filters_that_use_it() -> None:
    generator = Server(url="http://host:8000/v1").settings()
    with pytest.raises(ValidationError, match="num_gpus: neither"):
        SynthesisSettings(generator=generator, num_gpus=1)
    SynthesisSettings(generator=generator, num_gpus=1, filters=[{"name": "blank"}, {"name": "clip_score", "top": 5}])


def check_set(plan: Plan, folder: Path) -> None:
    """Check that each index has the image of its prompt and seed, once."""
    assert verify(str(folder)) == []
    shards, indices = ShardSet(str(folder)), []
    for row in range(len(shards)):
        provenance = shards.provenance(row)
        entry = plan.entry(provenance["image"] * plan.classes + plan.classnames.index(provenance["class"]))
        assert (provenance["seed"], shards.text(row), provenance["generator"]) == (entry.seed, entry.prompt, MODEL)
        assert shards.read(row) == _encode(image_of(entry.prompt, entry.seed), plan.jpeg_quality, mark_of(plan, entry))
        indices.append(entry.index)
    assert sorted(indices) == list(range(plan.total))


@pytest.mark.usefixtures("in_process")
def test_a_dataset_from_a_faulty_endpoint_is_complete_and_without_the_token(
    server: Server, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    server.token = SECRET
    plan = make_plan(10, generator=server.settings(), shard_size=6)
    faults = deque(["500", "dropped", "cut", "garbage", "torn image", "503", "error"] * 2)
    server.order = lambda seed, before: faults.popleft() if seed % 3 == 0 and faults else None
    summary = synthesise_set(plan, str(tmp_path), show=False)
    assert not faults and summary.complete and summary.images == 30
    check_set(plan, tmp_path)
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


def synthesise_here(plan: str, folder: str) -> None:
    """Generate a dataset in this process, shard after shard."""

    def run_pool(shards: Sequence[int], worker: Callable[[], job.Worker[Any]], **_: Any) -> Iterator[Report]:
        here = worker()
        return (here.commit(here.begin(shard)) for shard in shards)

    job.run_pool, driver.ray_session = run_pool, nullcontext  # type: ignore[assignment]
    synthesise_set(Plan.model_validate_json(plan), folder, show=False)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("in_process")
def test_a_killed_synthesis_requests_no_committed_image_again(
    server: Server, make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(8, generator=server.settings(), shard_size=6)
    process = multiprocessing.get_context("spawn").Process(
        target=synthesise_here, args=(plan.model_dump_json(), str(tmp_path))
    )
    third = plan.entry(14).seed  # of the third of four shards
    server.order = lambda seed, before: process.kill() if seed == third and not before else None
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert list(committed(str(tmp_path))) == [0, 1]
    server.order = lambda seed, before: "503" if seed == third else None
    with pytest.raises(UserError, match=r"shard 00002.tar could not be generated: .* returned 503: .* of 4 shards"):
        synthesise_set(plan, str(tmp_path), show=False)
    server.order = lambda seed, before: None
    server.asked.clear()
    synthesise_set(plan, str(tmp_path), show=False)
    assert {*server.asked} <= {plan.entry(index).seed for index in range(12, 24)}
    check_set(plan, tmp_path)


@pytest.mark.usefixtures("in_process")
def test_a_dataset_is_neither_extended_with_another_model_nor_repaired(
    server: Server, make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(2, generator=server.settings()), str(tmp_path), show=False)
    server.model["root"] = "/models/other"
    with pytest.raises(UserError, match="not the tiny/painter that the dataset was created with"):
        synthesise_set(make_plan(4, generator=server.settings()), str(tmp_path), show=False)
    with pytest.raises(UserError, match=r"can't be regenerated, since endpoints are not deterministic"):
        repair_set(str(tmp_path), [0])
    assert (tmp_path / "00000.tar").exists()


def test_the_card_names_the_model(server: Server, make_plan: MakePlan) -> None:
    origin = card._origin(make_plan(2, generator=server.settings()))
    assert origin["generator"].startswith(f"{server.url} with {MODEL} (not deterministic), 2 steps")


def test_actors_receive_the_token(
    server: Server, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    server.token = SECRET
    plan = make_plan(1, generator=server.settings())
    factories: list[bytes] = []

    def run_job(job: object, todo: object, worker: object, *rest: object, **options: object) -> tuple[()]:
        factories.append(pickle.dumps(worker))
        return ()

    monkeypatch.setattr(driver, "ray_session", nullcontext)
    monkeypatch.setattr(driver, "run_job", run_job)
    with pytest.raises(UserError):  # no shard was generated
        synthesise_set(plan, str(tmp_path), show=False)
    monkeypatch.delenv(TOKEN)  # an actor has another environment
    generator, _ = pickle.loads(factories[0])().tools()
    assert pixels(generator.start(PROMPTS, SEEDS)()) == EXPECTED
