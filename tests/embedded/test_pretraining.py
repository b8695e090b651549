"""The shipped CLIP and generator: how they load, what they have seen, how much room the world takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from scripts.embedded.drawings import FAMILIES
from syncclip.embedded import FOLDER

LARGEST = 45 * 10**6  # bytes


def seen(part: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((FOLDER / "icons" / part / "pretraining.json").read_text())
    return facts


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    yield


@pytest.mark.parametrize("part", ["clip", "generator"])
def test_only_pretraining_sets_were_seen(part: str) -> None:
    sets = seen(part)["sets"]

    assert sets
    assert set(sets) <= set(FAMILIES["pretraining"])


def test_the_clip_loads_by_open_clip_alone(no_network: None) -> None:
    import open_clip

    name = f"local-dir:{FOLDER / 'icons/clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(["a photo of a dog.", "a photo of a sailing boat."])

    from PIL import Image

    with torch.no_grad():
        image = model.encode_image(preprocess(Image.new("RGB", (64, 64), "red"))[None])
        text = model.encode_text(tokens)
    assert image.shape == (1, 128) and text.shape == (2, 128)
    assert image.isfinite().all() and text.isfinite().all()


def test_the_generator_loads_by_diffusers_alone_and_draws(no_network: None) -> None:
    from diffusers import DiffusionPipeline

    # Half precision on disk; transformers 5 keeps it where it is not asked for another.
    pipeline = DiffusionPipeline.from_pretrained(str(FOLDER / "icons/generator")).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(1)
    image = pipeline("a photo of a star.", num_inference_steps=2, height=64, width=64, generator=noise).images[0]

    assert image.size == (64, 64)


def test_the_embedded_world_takes_at_most_45_megabytes() -> None:
    files = [path for path in (FOLDER / "icons").rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= LARGEST


def test_nothing_in_the_embedded_world_has_to_be_unpickled() -> None:
    kinds = {path.suffix for path in (FOLDER / "icons").rglob("*") if path.is_file()}

    assert kinds <= {".json", ".safetensors", ".txt", ".tar", ".parquet"}
