from __future__ import annotations

import multiprocessing
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
from PIL import Image, ImageChops
from pydantic import ValidationError

from syncclip.core.settings import UserError, first_error
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.storage import UnreachableError
from syncclip.synthesis import driver
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators import endpoint
from syncclip.synthesis.generators.endpoint import Endpoint
from syncclip.synthesis.generators.settings import TOKEN, GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.synthesis.shard import _encode
from syncclip.synthetic_sets import card
from syncclip.synthetic_sets.repair import repair_set
from syncclip.workers import job
from syncclip.workers.report import Report
from tests.shards.sets import verify
from tests.worlds.endpoint import MODEL, SECRET, Order, Server, image_of, serving

MakePlan = Callable[..., Plan]
PROMPTS = [f"a photo of a cat, number {number}" for number in range(6)]
SEEDS = list(range(100, 106))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further tries follow at once, three of them."""
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(endpoint, "RETRIES", 3)
    monkeypatch.delenv(TOKEN, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def settings(server: Server, **more: Any) -> GeneratorSettings:
    return GeneratorSettings(**server.settings(**more))


def make(server: Server, **more: Any) -> list[Image.Image]:
    return Endpoint(settings(server, **more)).start(PROMPTS, SEEDS)()


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def together(count: int) -> Order:
    """No request is answered before so many are under way."""
    barrier = threading.Barrier(count, timeout=60)

    def order(seed: int, before: int) -> None:
        barrier.wait()

    return order


def are_their_own(images: Sequence[Image.Image]) -> bool:
    return all(same(image, image_of(*row)) for image, *row in zip(images, PROMPTS, SEEDS, strict=True))


def test_each_prompt_and_seed_gets_its_own_image_by_requests_at_once(server: Server) -> None:
    server.order = together(len(SEEDS))
    assert are_their_own(make(server))
    assert server.asked == dict.fromkeys(SEEDS, 1)


def test_a_request_holds_what_both_known_servers_take(server: Server) -> None:
    make(server, steps=7, guidance=3.5, true_guidance=2.0, negative_prompt="fog", height=32, width=48)
    found = min(server.bodies, key=lambda body: body["seed"])
    assert found == {
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
    make(server)
    assert not {"true_cfg_scale", "negative_prompt"} & {*server.bodies[0]}


@pytest.mark.parametrize("fault", ["500", "503", "520", "408", "dropped", "cut"])
def test_transient_errors_are_retried(server: Server, fault: str) -> None:
    server.order = lambda seed, before: fault if seed % 2 and before < 2 else None
    assert are_their_own(make(server))
    assert server.asked == {seed: 3 if seed % 2 else 1 for seed in SEEDS}


def test_a_slow_response_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 2)
    server.order = lambda seed, before: "slow" if seed == 103 and not before else None
    assert are_their_own(make(server))
    assert server.asked[103] == 2


@pytest.mark.parametrize("fault", ["dripping body", "dripping chunks"])
def test_an_answer_has_a_total_time(server: Server, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 2)
    server.order = lambda seed, before: fault if seed == 103 and not before else None
    assert are_their_own(make(server))
    assert server.asked[103] == 2


@pytest.mark.parametrize("fault", ["large", "large chunks"])
def test_an_answer_has_a_total_size(server: Server, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(endpoint, "MAX_RESPONSE_BYTES", 1 << 20)
    server.order = lambda seed, before: fault if seed == 103 else None
    with pytest.raises(UserError, match=r"the response is larger than 1\.0 MB"):
        make(server)
    assert server.asked[103] == 1


@pytest.mark.parametrize("name", ["\x1b[2Jpainter", "a\nb\r\x07", "\u202etnirp", "\x9b31m"])
def test_a_servers_words_do_nothing_to_a_terminal(server: Server, name: str) -> None:
    server.model["id"] = name
    with pytest.raises(UserError, match="serves .*, not the tiny/painter that is configured") as failure:
        make(server)
    assert str(failure.value).isprintable()
    server.model = {"id": MODEL, "created": 1, "root": name}
    server.order = lambda seed, before: "words"
    with pytest.raises(UserError) as failure:
        make(server)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(("told", "longest"), [("1", 60), ("3600", 1)])
def test_retry_after_is_obeyed_within_limits(
    server: Server, monkeypatch: pytest.MonkeyPatch, told: str, longest: int
) -> None:
    monkeypatch.setattr(endpoint, "MAX_BACKOFF_SECONDS", longest)
    server.retry_after = told
    server.order = lambda seed, before: None if before else "429"
    Endpoint(settings(server)).start(PROMPTS[:1], SEEDS[:1])
    first, second = server.times
    assert second - first >= 1


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        ("400", UserError, "returned 400: .*; change synthesis.generator"),
        ("401", UserError, f"returned 401: .*; set {TOKEN} to a token that it accepts"),
        ("403", UserError, f"returned 403: .*; set {TOKEN} to a token that it accepts"),
        ("404", UserError, "returned 404: .*; start it, or correct synthesis.generator.pipeline"),
        ("302", UserError, "returned 302: .*; start it, or correct synthesis.generator.pipeline"),
        ("429", UnreachableError, "returned 429: .*; check its log"),
        ("502", UnreachableError, "returned 502: .*; check its log"),
        ("dropped", UnreachableError, "is unreachable: .*; start it, or"),
        ("cut", UnreachableError, "is unreachable: .*; start it, or"),
        ("garbage", UnreachableError, "returned 200: <html> welcome</html>: not a response of the API"),
        ("error", UnreachableError, 'returned 200: {"error": {"message": "out of memory"}}: not a response'),
        ("two images", UnreachableError, "returned 200: .*: not a response of the API"),
        ("torn image", UnreachableError, "returned 200: .*: not a response of the API"),
        *[(kind, UnreachableError, "not a response of the API") for kind in ("EPS", "PPM", "zipped")],
        ("small", UserError, "makes images of 32x32 pixels, not of 64x64; set synthesis.generator.width and height"),
    ],
)
def test_a_fault_that_stays_is_one_sentence_without_the_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, kind: type[UserError], sentence: str
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    server.token = SECRET
    server.order = lambda seed, before: fault if seed == 102 else None
    with pytest.raises(UserError, match=sentence) as failure:
        make(server)
    assert type(failure.value) is kind
    assert server.url in str(failure.value)
    assert SECRET not in str(failure.value) and "\n" not in str(failure.value)
    assert server.asked[102] == (4 if fault in ("429", "502", "dropped", "cut") else 1)


def test_nothing_is_fetched_from_where_a_server_sends_to(server: Server) -> None:
    with serving() as other:
        server.order = lambda seed, before: "307"
        with pytest.raises(UserError, match="returned 307"):
            make(server)
    assert not other.bodies and not other.models


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = Server(url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    with pytest.raises(UnreachableError, match=r"/v1/models is unreachable: .*refused.*; start it, or correct"):
        locate(settings(gone))


def test_a_token_is_sent_where_one_is_asked_for_and_told_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = SECRET
    with pytest.raises(UserError, match=f"returned 401: .*set {TOKEN} to a token"):
        make(server)
    monkeypatch.setenv(TOKEN, "sk-another-one")
    with pytest.raises(UserError, match=r"Incorrect API key provided: Bearer \*\*\*") as failure:
        make(server)
    assert "another" not in str(failure.value)
    monkeypatch.setenv(TOKEN, f"{SECRET}\n")
    assert are_their_own(make(server))
    monkeypatch.setenv(TOKEN, "sk-in\ntwo-lines")
    with pytest.raises(UserError, match=f"{TOKEN}: the token contains characters other") as failure:
        make(server)
    assert "two-lines" not in str(failure.value)


def test_the_fingerprint_is_what_stays_of_what_is_reported(server: Server) -> None:
    planned = locate(settings(server)).fingerprint
    assert re.fullmatch(r"[0-9a-f]{16}", planned)
    server.model |= {"created": 4711, "permission": [{"id": "modelperm-1"}], "num_gpus": 4}
    assert locate(settings(server), planned).fingerprint == planned
    for changed in ({"root": "/models/other"}, {"dit_precision": "fp8"}):
        before, server.model = server.model, {**server.model, **changed}
        assert locate(settings(server)).fingerprint != planned
        with pytest.raises(UserError, match=f"serves {MODEL}, not the {MODEL} that the set was started with"):
            locate(settings(server), planned)
        server.model = before
    server.model["id"] = "tiny/other"
    with pytest.raises(UserError, match=f"serves tiny/other, not the {MODEL} that is configured; serve it, or correct"):
        locate(settings(server))


def test_images_of_a_server_that_was_started_again_with_another_model_are_not_taken(server: Server) -> None:
    one = Endpoint(settings(server))

    def order(seed: int, before: int) -> None:
        server.model["root"] = "/models/other"

    server.order = order
    with pytest.raises(UserError, match="not the tiny/painter that the set was started with"):
        one.start(PROMPTS, SEEDS)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"scheduler": "DDIMScheduler"},
            "scheduler has no effect with http://host:8000/v1, since requests to an endpoint can't contain it",
        ),
        ({"loras": [{"weights": "a.safetensors"}]}, "loras has no effect with http"),
        ({"dtype": "bf16"}, "dtype has no effect with http"),
        ({"attention": "flash"}, "attention has no effect with http"),
        ({"speed": "fast"}, "speed has no effect with http"),
        ({"batch_size": "auto"}, "needs model, height, width and a numeric batch_size"),
        ({"height": None}, "needs model, height, width"),
        ({"pipeline": "http://me:sesame@host:8000/v1"}, f"pipeline: remove user.*; set {TOKEN}"),
        ({"pipeline": "HTTPS://host/v1?api_key=sesame"}, "pipeline: remove user, password and query"),
        (
            {"pipeline": "someone/model"},
            "model has no effect with someone/model, since only an endpoint has models; remove it",
        ),
    ],
)
def test_settings_without_effect_are_errors(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as failure:
        GeneratorSettings(**Server(url="http://host:8000/v1").settings(**more))
    assert re.search(sentence, first_error(failure.value))
    assert "sesame" not in first_error(failure.value)


def test_a_gpu_is_for_filters_alone() -> None:
    generator = Server(url="http://host:8000/v1").settings()
    with pytest.raises(ValidationError, match="num_gpus: an endpoint has its own"):
        SynthesisSettings(generator=generator, num_gpus=1)
    SynthesisSettings(generator=generator, num_gpus=1, filters=[{"name": "blank"}, {"name": "clip_score", "top": 5}])


def synthesise_here(plan: str, folder: str) -> None:
    """Generate a set in this process alone, one shard after the other."""

    def run_here(shards: Sequence[int], worker: Callable[[], job.Worker[Any]], **_: Any) -> Iterator[Report]:
        here = worker()
        return (here.commit(here.begin(shard)) for shard in shards)

    job.run_round, driver.ray_session = run_here, nullcontext  # type: ignore[assignment]
    synthesise_set(Plan.model_validate_json(plan), folder, show=False)


def check_set(plan: Plan, folder: Path) -> None:
    """Each index of a set has exactly the image of its own prompt and seed."""
    assert verify(str(folder)) == []
    found, indices = ShardSet(str(folder)), []
    for row in range(len(found)):
        told = found.provenance(row)
        entry = plan.entry(told["image"] * plan.classes + plan.classnames.index(told["class"]))
        assert (told["seed"], found.text(row), told["generator"]) == (entry.seed, entry.prompt, MODEL)
        assert found.read(row) == _encode(image_of(entry.prompt, entry.seed), plan.jpeg_quality)
        indices.append(entry.index)
    assert sorted(indices) == list(range(plan.total))


@pytest.mark.usefixtures("in_process")
def test_with_faults_none_is_lost_and_none_doubled(
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
    for file in tmp_path.iterdir():
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


@pytest.mark.usefixtures("in_process")
def test_a_set_continues_when_the_endpoint_is_back(server: Server, make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(4, generator=server.settings(), shard_size=6)
    gone = {plan.entry(index).seed for index in plan.shard_range(1)}
    server.order = lambda seed, before: "503" if seed in gone else None
    with pytest.raises(UserError, match=r"shard 00001.tar could not be generated: .* returned 503: .*1 of 2 shards"):
        synthesise_set(plan, str(tmp_path), show=False)
    assert list(committed(str(tmp_path))) == [0]
    server.order = lambda seed, before: None
    times = (tmp_path / "00000.tar").stat().st_mtime_ns
    synthesise_set(plan, str(tmp_path), show=False)
    assert (tmp_path / "00000.tar").stat().st_mtime_ns == times
    check_set(plan, tmp_path)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("in_process")
def test_a_killed_set_is_completed_without_what_is_there(server: Server, make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(8, generator=server.settings(), shard_size=6)
    process = multiprocessing.get_context("spawn").Process(
        target=synthesise_here, args=(plan.model_dump_json(), str(tmp_path))
    )

    def order(seed: int, before: int) -> None:
        if seed == plan.entry(14).seed and not before:  # of the third of four shards
            process.kill()

    server.order = order
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    there = {index for shard in committed(str(tmp_path)) for index in plan.shard_range(shard)}
    assert there == set(range(12))
    server.asked.clear()
    synthesise_set(plan, str(tmp_path), show=False)
    assert server.asked == {plan.entry(index).seed: 1 for index in range(12, 24)}
    check_set(plan, tmp_path)


@pytest.mark.usefixtures("in_process")
def test_a_set_is_not_continued_with_another_model_nor_repaired(
    server: Server, make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(2, generator=server.settings()), str(tmp_path), show=False)
    server.model["root"] = "/models/other"
    with pytest.raises(UserError, match="not the tiny/painter that the set was started with"):
        synthesise_set(make_plan(4, generator=server.settings()), str(tmp_path), show=False)
    with pytest.raises(UserError, match=r"can't be regenerated, as endpoints are not deterministic.*run `synth"):
        repair_set(str(tmp_path), [0])
    assert (tmp_path / "00000.tar").exists()


def test_the_card_names_the_model_and_promises_nothing(server: Server, make_plan: MakePlan) -> None:
    origin = card._origin(make_plan(2, generator=server.settings()))
    assert origin["generator"].startswith(f"{server.url} with {MODEL} (not deterministic), 2 steps")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_actors_of_ray_are_given_the_token(
    server: Server, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)  # after Ray has started, so that its actors' environment hasn't it
    server.token = SECRET
    plan = make_plan(8, generator=server.settings(), shard_size=6)
    server.order = lambda seed, before: "503" if seed % 3 == 0 and not before else None
    assert synthesise_set(plan, str(tmp_path), show=False).complete
    check_set(plan, tmp_path)
