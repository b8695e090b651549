"""`syncclip plan`: prompts, forecast, probe, and errors that synthesis would raise."""

from __future__ import annotations

import pytest

from syncclip.synthesis import autotune
from syncclip.synthesis.autotune import Effect, Rate
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld

POOL = ("synthesis.images_per_class=3000", "synthesis.actors={min: 1, max: 4}", "synthesis.cost.wait=60")


@pytest.fixture
def plan(tiny: TinyWorld, capsys: pytest.CaptureFixture[str]) -> list[str]:
    return ["plan", tiny.recipe, *POOL]


def rows(out: str) -> dict[str, list[str]]:
    """The forecast's rows: name -> cells."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in cells if len(row) == 3 and not row[0].isdigit()}


def minutes(duration: str) -> int:
    """Number of minutes in a duration such as `2 h 30 min`."""
    units = {"h": 60, "min": 1}
    words = duration.split()
    return sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))


def test_a_plan_without_a_throughput_shows_the_options_for_it(
    capsys: pytest.CaptureFixture[str], plan: list[str]
) -> None:
    assert Outcome(capsys, *plan).out.splitlines()[-1].startswith("for the expected time and cost, use --probe")


def test_a_plan_shows_the_mark_and_the_licence(capsys: pytest.CaptureFixture[str]) -> None:
    for values, mark in (((), "iptc"), (("synthesis.mark=none",), "none")):
        out = Outcome(capsys, "plan", "travel", *values).out
        assert f"provenance mark: {mark}; licence of the weights: apache-2.0" in out


def test_a_suite_is_planned_with_its_sum_and_power(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "plan", "demo")
    assert outcome.status == 0, outcome.err
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in outcome.out.splitlines()]
    counts = {row[0]: [int(cell.replace(",", "")) for cell in row[1:]] for row in cells if len(row) == 4}
    assert len(counts) == 7 and counts.pop("all") == [sum(column) for column in zip(*counts.values(), strict=True)]
    assert "`syncclip plan demo dataset.name=icons/devices`" in outcome.out
    assert "power: with 43 novel classes, 2 seeds" in outcome.err
    assert "require a single dataset" in Outcome(capsys, "plan", "demo", "--throughput", "2").error
    assert Outcome(capsys, "plan", "demo", "dataset.name=icons/devices", "--throughput", "2").status == 0


def test_a_throughput_gives_hours_cost_and_bytes(capsys: pytest.CaptureFixture[str], plan: list[str]) -> None:
    cost = ["synthesis.cost.price=2.5", "synthesis.cost.currency=EUR", "synthesis.cost.image_bytes=1000"]
    outcome = Outcome(capsys, *plan, *cost, "synthesis.cost.load=0", "--throughput", "0.5")
    assert outcome.status == 0, outcome.err
    assert "1 to 4 actors at 0.5 images/s each: 12 s per shard" in outcome.out
    actual = rows(outcome.out)
    assert list(actual) == ["wall time", "actor hours", "EUR", "bytes"]
    # 3,000 shards of 12 s: one actor in the first minute, then four.
    assert actual["wall time"] == ["2 h 30 min", "–"]
    assert actual["actor hours"][0] == "10.00" and actual["EUR"][0] == "25.01"
    assert actual["bytes"] == ["18.0 MB", "–"]


def test_preemptions_are_part_of_the_forecast(capsys: pytest.CaptureFixture[str], plan: list[str]) -> None:
    outcome = Outcome(
        capsys, *plan, "synthesis.cost.preemptions=20", "synthesis.cost.throughput=0.5", "synthesis.num_gpus=1"
    )
    assert "20 preemptions per machine-hour" in outcome.out
    actual = rows(outcome.out)
    assert list(actual) == ["wall time", "without preemptions", "GPU hours", "images lost"]
    assert minutes(actual["wall time"][0]) > minutes(actual["without preemptions"][0])
    assert int(actual["images lost"][0].replace(",", "")) > 0


def test_a_probe_measures_missing_values(
    capsys: pytest.CaptureFixture[str], plan: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "measure", lambda *_: Rate(images=0.25, image_bytes=2000.0, rejected=0.12, load=7.0))
    outcome = Outcome(capsys, *plan, "--probe")
    measured = "measured here: 0.25 images/s per actor, 2.0 kB per image, 12 rejected per 100 finished, 7 s to load"
    assert measured in outcome.out
    assert rows(outcome.out)["bytes"] == ["36.0 MB", "–"]
    given = Outcome(capsys, *plan, "--probe", "--throughput", "0.5")
    assert "at 0.5 images/s each" in given.out and rows(given.out)["bytes"] == ["36.0 MB", "–"]


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        (Effect(difference=2.34, gain=1.8), "speedup over speed=exact in fp32: 1.80 x; mean pixel difference: 2.3"),
        (None, "speed=exact in fp32 does not fit in memory"),
    ],
)
def test_a_probe_shows_the_effect_of_speed(
    capsys: pytest.CaptureFixture[str],
    plan: list[str],
    monkeypatch: pytest.MonkeyPatch,
    effect: Effect | None,
    sentence: str,
) -> None:
    monkeypatch.setattr(autotune, "measure", lambda *_: Rate(0.25, 2000.0, 0.12, 7.0, 8 << 30, effect))
    outcome = Outcome(capsys, *plan, "--probe", "synthesis.generator.speed=fast")
    assert sentence in outcome.out and "7 s to load, 8.6 GB of GPU memory" in outcome.out


def test_a_probe_runs_the_generator(capsys: pytest.CaptureFixture[str], tiny: TinyWorld) -> None:
    outcome = Outcome(capsys, "plan", tiny.recipe, "--probe")
    assert outcome.status == 0, outcome.err
    assert "measured here: " in outcome.out and rows(outcome.out)["bytes"][0].endswith("kB")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("synthesis.generator.scheduler=LCMSheduler", "no scheduler 'LCMSheduler'; did you mean 'LCMScheduler'?"),
        ("synthesis.filters=[{name: safety}]", "has no safety checker"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "synth"])
def test_errors_of_the_generator_are_reported_in_advance(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, command: str, override: str, sentence: str
) -> None:
    assert sentence in Outcome(capsys, command, tiny.recipe, override).error


def test_shards_longer_than_the_life_of_a_machine_are_an_error(
    capsys: pytest.CaptureFixture[str], plan: list[str]
) -> None:
    outcome = Outcome(capsys, *plan, "synthesis.cost.preemptions=30", "--throughput", "0.001")
    assert "hardly any shards would finish" in outcome.error


def test_a_plan_shows_images_shards_and_prompts_of_ten_classes(capsys: pytest.CaptureFixture[str]) -> None:
    out = Outcome(capsys, "plan", "travel", "synthesis.images_per_class=10", "synthesis.shard_size=70").out
    assert "14 classes x 10 images = 140 images in 2 shards (7 objects) of up to 70" in out
    assert "a photo of a mountain." in out and "a photo of a rocket." not in out
    assert "and 4 more classes; show them with --all" in out
    out = Outcome(capsys, "plan", "travel", "--all").out
    assert "a photo of a truck." in out and "more classes" not in out


def test_a_configuration_that_is_all_warmup_causes_a_warning(
    capsys: pytest.CaptureFixture[str], plan: list[str]
) -> None:
    configurations = (
        "study.configurations=[{method: ivlp, data: real, overrides: {training.epochs: 1, training.warmup_epochs: 1}}]"
    )
    lines = Outcome(capsys, *plan, "training.epochs=5", configurations).err.splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == 1 and warnings[0].startswith("warning: ivlp-real: training.epochs=1 is all warm-up")


def test_a_plan_states_the_power_of_its_study(capsys: pytest.CaptureFixture[str], plan: list[str]) -> None:
    error = Outcome(capsys, *plan).err
    assert "power: with " in error and "test images per class, differences above" in error
