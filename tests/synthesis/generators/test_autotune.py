"""What is chosen from measured times; the times are given, since a test that measures can't be sure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from syncclip.synthesis.generators.autotune import answered, best_batch, even_parts

from syncclip.core.settings import UserError
from syncclip.synthesis.generators import autotune, loading
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings

Family = Callable[..., GeneratorSettings]


@given(st.integers(1, 5000))
def test_parts_cut_a_shard_into_equal_batches_from_one_image_to_all(whole: int) -> None:
    parts = even_parts(whole)
    assert parts[0] == 1 and parts[-1] == whole and parts == sorted(set(parts))
    assert all(larger <= 2 * smaller for smaller, larger in pairwise(parts))


def test_the_smallest_batch_near_the_best_is_taken() -> None:
    seconds = {1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9, 16: 8.4}  # an image: 1, 0.6, 0.5, 0.4875, 0.525
    assert best_batch(list(seconds), seconds.__getitem__) == 4


def test_what_does_not_fit_into_memory_ends_the_trials() -> None:
    asked: list[int] = []

    def seconds(size: int) -> float | None:
        asked.append(size)
        return 1.0 if size < 8 else None

    assert best_batch([1, 2, 4, 8, 16], seconds) == 4
    assert asked == [1, 2, 4, 8]


def test_trials_end_with_their_budget() -> None:
    asked: list[int] = []

    def seconds(size: int) -> float:
        asked.append(size)
        return 40.0

    assert best_batch([1, 2, 4, 8], seconds, budget=60.0) == 2
    assert asked == [1, 2]


def test_too_little_memory_for_one_image_is_told() -> None:
    with pytest.raises(UserError, match="not even 1 image at once fits into memory"):
        best_batch([1, 2], lambda size: None)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are generated; a stopwatch that shows size ** 0.5 seconds for each."""
    sizes: list[int] = []
    clock = [0.0]
    generate = Generator.generate

    def timed(self: Generator, prompts: Any, seeds: Any, guides: Any = ()) -> Any:
        sizes.append(len(prompts))
        clock[0] += len(prompts) ** 0.5
        return generate(self, prompts, seeds, guides)

    monkeypatch.setattr(Generator, "generate", timed)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: clock[0])
    return sizes


def test_a_batch_size_is_found_once_by_generating(family: Family, generated: list[int]) -> None:
    settings = family("sd", steps=9, batch_size="auto")
    found = answered(settings, "cpu", "", ["a cat", "a dog"], 6)
    assert found == settings.model_copy(update={"batch_size": 6})
    assert generated == [1, 1, 2, 2, 3, 3, 6, 6]
    assert answered(found, "cpu", "", ["a cat"], 6) is found


def test_all_that_is_open_is_measured_on_the_device_itself(family: Family, device: str) -> None:
    found = answered(family("sd", batch_size="auto"), device, "", ["a cat", "a dog"], 4)
    assert found.batch_size in (1, 2, 4) and not found.open_questions(device)
    assert len(Generator(found, device).generate(["a cat"], [1])) == 1


def test_on_a_cpu_batches_stay_small_and_cut_a_shard_evenly(family: Family, generated: list[int]) -> None:
    found = answered(family("sd", steps=1, batch_size="auto"), "cpu", "", ["a cat"], 88)
    assert found.batch_size == 22 and max(generated) == 22


@pytest.mark.parametrize(("slower", "expected"), [(0.5, "xformers"), (1.0, "sdpa"), (2.0, "sdpa")])
def test_the_faster_attention_is_taken(
    family: Family, monkeypatch: pytest.MonkeyPatch, slower: float, expected: str
) -> None:
    now: list[str] = ["sdpa"]
    monkeypatch.setattr("syncclip.synthesis.generators.settings.xformers_installed", lambda: True)
    monkeypatch.setattr(autotune, "set_attention", lambda pipeline, name, device: now.append(name))
    monkeypatch.setattr(autotune, "_stopwatch", lambda *_: lambda size: slower if now[-1] == "xformers" else 1.0)

    class OnGpu(Generator):
        def __init__(self, settings: GeneratorSettings, device: str, fingerprint: str) -> None:
            super().__init__(settings, "cpu", fingerprint)
            self.device = device

    monkeypatch.setattr(autotune, "Generator", OnGpu)
    assert answered(family("sd"), "cuda", "", ["a cat"], 4).attention == expected
    assert now[-1] == "sdpa"


def test_an_xformers_that_fails_is_not_taken(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pipeline: Any, name: str, device: str) -> None:
        if name == "xformers":
            raise UserError("xformers doesn't run this")

    monkeypatch.setattr(autotune, "set_attention", broken)
    generator = Generator(family("sd"))
    assert autotune._xformers_is_faster(generator, 2, lambda size: 1.0) is False


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loading, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("quick_compiler")
def test_the_effect_of_a_speed_is_measured_beside_exact_images(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"exact": 6.0, "fast": 2.0}
    monkeypatch.setattr(autotune, "_stopwatch", lambda generator, _: lambda size: seconds[generator.settings.speed])
    settings = family("flux", speed="fast", batch_size=3)
    found = autotune.effect(settings, "cpu", "", ["a cat", "a dog"])
    assert found is not None and found.gain == 3.0
    made = [
        [np.asarray(image, float) for image in Generator(one).generate(["a cat", "a dog", "a cat"], range(3))]
        for one in (family("flux", batch_size=3), settings)
    ]
    assert found.difference == pytest.approx(np.abs(np.array(made[0]) - made[1]).mean())
    assert found.difference > 0


@pytest.mark.usefixtures("quick_compiler")
def test_where_exact_does_not_fit_nothing_is_said_of_the_effect(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = family("sd", speed="fast", batch_size=3)
    monkeypatch.setattr(autotune, "_stopwatch", lambda *_: lambda size: None)
    assert autotune.effect(settings, "cpu", "", ["a cat"]) is None

    def refuse(*_: Any) -> None:
        raise UserError("doesn't fit into memory")

    monkeypatch.setattr(autotune, "Generator", refuse)
    assert autotune.effect(settings, "cpu", "", ["a cat"]) is None
