"""Texts are encoded once, for images that are equal to the bit to those made from strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.texts import TextEmbeddings
from tests.worlds.pipelines import FAMILIES

Family = Callable[..., GeneratorSettings]
PROMPTS = ["a photo of a cat.", "a dog!", "a fir tree, at night", "", "a long text about " + "many birds " * 9]
BATCHES = [[0, 1, 2], [2, 0, 0], [1], [3, 4, 0], [4, 3], [1], [2, 1, 0]]
SIZE = 3

GUIDED: dict[str, dict[str, Any]] = {
    "lcm": {},
    "flux": {"true_guidance": 3.0, "negative_prompt": "blur"},
}
"""Family -> settings with all texts that it takes, where these are not those of most."""


def encoders(generator: Generator) -> dict[str, nn.Module]:
    parts = generator.pipeline.components.items()
    return {name: part for name, part in parts if name.startswith("text_encoder") and part is not None}


def count(generator: Generator) -> Counter[str]:
    """Rows that go through each text encoder from now on."""
    rows: Counter[str] = Counter()
    for name, encoder in encoders(generator).items():
        encoder.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: rows.update({name: len((*args, *kwargs.values())[0])}), with_kwargs=True
        )
    return rows


def images(generator: Generator, rows: list[int], prompts: list[str] = PROMPTS) -> list[bytes]:
    found = generator.generate([prompts[row] for row in rows], [row + 7 for row in rows])
    return [image.tobytes() for image in found]


def from_strings(settings: GeneratorSettings, device: str = "cpu") -> Generator:
    """A generator whose pipeline encodes the strings of every batch."""
    generator = Generator(settings, device)
    del generator.pipeline.encode_prompt
    return generator


@pytest.fixture(params=[*FAMILIES, "icons"])
def settings(family: Family, request: pytest.FixtureRequest) -> GeneratorSettings:
    if request.param == "icons":
        return GeneratorSettings(steps=2, batch_size=SIZE, negative_prompt="blur")
    return family(
        request.param, batch_size=SIZE, **GUIDED.get(request.param, {"guidance": 4.0, "negative_prompt": "blur"})
    )


def test_images_are_those_made_from_strings(settings: GeneratorSettings, device: str) -> None:
    plain, ours = from_strings(settings, device), Generator(settings, device)
    rows = count(plain)
    for batch in BATCHES:
        assert images(ours, batch) == images(plain, batch)
    assert ours.texts is not None
    negatives = 0 if "Latent" in type(ours.pipeline).__name__ else 1
    alone = 1 + negatives  # the batches of one image
    assert ours.texts.encoded == len(PROMPTS) + negatives + alone
    assert min(rows.values()) >= sum(map(len, BATCHES)) * (1 + negatives)


def test_encoders_that_left_come_back_for_a_text_that_is_missing(settings: GeneratorSettings, device: str) -> None:
    plain, ours = from_strings(settings, device), Generator(settings, device)
    assert ours.texts is not None
    ours.texts.encode_ahead(PROMPTS)
    names = set(encoders(ours))
    assert images(ours, [0, 1, 2]) == images(plain, [0, 1, 2])
    assert names and not encoders(ours)
    encoded = ours.texts.encoded
    assert images(ours, [4, 3, 2]) == images(plain, [4, 3, 2])
    assert ours.texts.encoded == encoded
    others = ["one", "two", *PROMPTS[2:]]
    assert images(ours, [0, 1, 2], others) == images(plain, [0, 1, 2], others)
    assert ours.texts.encoded == encoded + 2
    assert not encoders(ours)


def test_guided_images_share_the_texts(family: Family) -> None:
    from PIL import Image

    settings = family("sd", batch_size=SIZE, steps=4, guide={"strength": 0.5})
    ours, plain = Generator(settings), from_strings(settings)
    del plain._guided.encode_prompt
    guides = [Image.new("RGB", (80, 60), (200, 10, 30))] * 2
    for generator in (ours, plain):
        generator.generate(PROMPTS[:2], [1, 2])
    rows = count(ours)
    found, expected = ([one.tobytes() for one in each.generate(PROMPTS[:2], [1, 2], guides)] for each in (ours, plain))
    assert found == expected
    assert not rows


def test_embeddings_are_bounded_in_bytes(family: Family) -> None:
    settings = family("sdxl", batch_size=SIZE)
    plain, ours = from_strings(settings), Generator(settings)
    ours.texts = TextEmbeddings(from_strings(settings).pipeline, SIZE, max_bytes=45_000)  # two of 77 x 64 and 32
    ours.pipeline = ours.texts._pipelines[0]
    for batch in ([0, 1, 2], [3, 4, 0], [1, 2, 3]):
        assert images(ours, batch) == images(plain, batch)
    assert 0 < ours.texts._bytes <= 45_000
    assert ours.texts.encoded > len(PROMPTS) + 1
    ours.texts.encode_ahead(PROMPTS)
    images(ours, [0, 1, 2])
    assert encoders(ours), "they stay where not all fits"


class Uneven(nn.Module):
    """As Qwen-Image's: embeddings as long as the longest text of the batch."""

    _execution_device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def encode_prompt(self, prompt: list[str], device: Any = None) -> tuple[Tensor, Tensor]:
        self.batches.append(prompt)
        longest = max(map(len, prompt))
        mask = torch.tensor([[place < len(text) for place in range(longest)] for text in prompt])
        return mask.float()[..., None], mask


def test_embeddings_of_unequal_length_are_made_for_each_batch() -> None:
    pipeline = Uneven()
    texts = TextEmbeddings(pipeline, SIZE)
    for batch in (["a", "abc"], ["a", "b"], ["abc"]):
        found, _ = pipeline.encode_prompt(batch)
        assert found.shape[1] == max(map(len, batch))
    assert texts.encoded == 0
    assert pipeline.batches[-3:] == [["a", "abc"], ["a", "b"], ["abc"]]
