"""Images from cached text embeddings must equal those from strings bit for bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.text_embeddings import TextEmbeddings
from tests.synthesis.generators.conftest import Family, pixels
from tests.worlds.pipelines import FAMILIES

PROMPTS = ["a photo of a cat.", "a dog!", "a fir tree, at night", "", "a long text about " + "many birds " * 9]
BATCHES = [[0, 1, 2], [2, 0, 0], [1], [3, 4, 0], [4, 3], [1]]
SIZE = 3

GUIDED: dict[str, dict[str, Any]] = {
    "lcm": {},
    "flux": {"true_guidance": 3.0, "negative_prompt": "blur"},
    "icons": {"guidance": 4.0, "negative_prompt": "blur"},
}
"""Family -> settings of guidance, if not those of most families."""


def encoders(generator: Generator) -> dict[str, nn.Module]:
    parts = generator.pipeline.components.items()
    return {name: part for name, part in parts if name.startswith("text_encoder") and part is not None}


def count_rows(generator: Generator) -> Counter[str]:
    """Count the rows that each text encoder encodes."""
    rows: Counter[str] = Counter()
    for name, encoder in encoders(generator).items():
        encoder.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: rows.update({name: len((*args, *kwargs.values())[0])}), with_kwargs=True
        )
    return rows


def generated(generator: Generator, rows: list[int], prompts: list[str] = PROMPTS) -> list[bytes]:
    return pixels(generator.generate([prompts[row] for row in rows], [row + 7 for row in rows]))


def uncached(settings: GeneratorSettings, device: str = "cpu") -> Generator:
    """A generator whose pipeline encodes the prompts of every batch."""
    generator = Generator(settings, device)
    del generator.pipeline.encode_prompt
    return generator


nightly = [
    name if name in ("sd", "flux", "icons") else pytest.param(name, marks=pytest.mark.nightly)
    for name in [*FAMILIES, "icons"]
]


@pytest.fixture(params=nightly)
def settings(family: Family, request: pytest.FixtureRequest) -> GeneratorSettings:
    values = GUIDED.get(request.param, GUIDED["icons"])
    if request.param == "icons":
        return GeneratorSettings(steps=1, batch_size=SIZE, **values)
    return family(request.param, batch_size=SIZE, **values)


def test_images_equal_those_from_strings(settings: GeneratorSettings, device: str) -> None:
    plain, cached = uncached(settings, device), Generator(settings, device)
    rows = count_rows(plain)
    for batch in BATCHES:
        assert generated(cached, batch) == generated(plain, batch)
    assert cached.texts is not None
    negatives = 0 if "Latent" in type(cached.pipeline).__name__ else 1
    single = 1 + negatives  # texts of batches of one image, encoded separately
    assert cached.texts.encoded == len(PROMPTS) + negatives + single
    assert min(rows.values()) >= sum(map(len, BATCHES)) * (1 + negatives)


def test_offloaded_encoders_encode_missing_texts(settings: GeneratorSettings, device: str) -> None:
    plain, cached = uncached(settings, device), Generator(settings, device)
    assert cached.texts is not None and encoders(cached)
    cached.texts.encode_ahead(PROMPTS)
    assert generated(cached, [0, 1, 2]) == generated(plain, [0, 1, 2])
    assert not encoders(cached)
    encoded = cached.texts.encoded
    assert generated(cached, [4, 3, 2]) == generated(plain, [4, 3, 2])
    assert cached.texts.encoded == encoded
    others = ["one", "two", *PROMPTS[2:]]
    assert generated(cached, [0, 1, 2], others) == generated(plain, [0, 1, 2], others)
    assert cached.texts.encoded == encoded + 2
    assert not encoders(cached)


def test_guided_images_use_the_cached_embeddings(family: Family) -> None:
    settings = family("sd", batch_size=SIZE, steps=4, guide={"strength": 0.5})
    cached, plain = Generator(settings), uncached(settings)
    del plain._guided.encode_prompt
    guides = [Image.new("RGB", (80, 60), (200, 10, 30))] * 2
    for generator in (cached, plain):
        generator.generate(PROMPTS[:2], [1, 2])
    rows = count_rows(cached)
    images, expected = (pixels(generator.generate(PROMPTS[:2], [1, 2], guides)) for generator in (cached, plain))
    assert images == expected
    assert not rows


def test_the_cache_is_limited_in_bytes(family: Family) -> None:
    settings = family("sdxl", batch_size=SIZE)
    plain, cached = uncached(settings), Generator(settings)
    cached.texts = TextEmbeddings(uncached(settings).pipeline, SIZE, max_bytes=45_000)  # two of 77 x 64 and 32
    cached.pipeline = cached.texts._pipelines[0]
    for batch in ([0, 1, 2], [3, 4, 0], [1, 2, 3]):
        assert generated(cached, batch) == generated(plain, batch)
    assert 0 < cached.texts._bytes <= 45_000
    assert cached.texts.encoded > len(PROMPTS) + 1
    cached.texts.encode_ahead(PROMPTS)
    generated(cached, [0, 1, 2])
    assert encoders(cached), "not offloaded, since the cache is too small for all prompts"


class Uneven(nn.Module):
    """Encodes prompts at the length of the batch's longest one, as Qwen-Image does."""

    _execution_device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def encode_prompt(self, prompt: list[str], device: Any = None) -> tuple[Tensor, Tensor]:
        self.batches.append(prompt)
        longest = max(map(len, prompt))
        mask = torch.tensor([[position < len(text) for position in range(longest)] for text in prompt])
        return mask.float()[..., None], mask


def test_embeddings_of_variable_length_are_not_cached() -> None:
    pipeline = Uneven()
    texts = TextEmbeddings(pipeline, SIZE)
    for batch in (["a", "abc"], ["a", "b"], ["abc"]):
        embeddings, _ = pipeline.encode_prompt(batch)
        assert embeddings.shape[1] == max(map(len, batch))
    assert texts.encoded == 0
    assert pipeline.batches[-3:] == [["a", "abc"], ["a", "b"], ["abc"]]
