"""The shipped CLIP and generator: loading, pretraining data and size."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from scripts.embedded.drawings import FAMILIES
from syncclip.embedded import FOLDER


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("tried to connect"))


@pytest.mark.parametrize("part", ["clip", "generator"])
def test_models_were_pretrained_on_the_pretraining_icon_sets(part: str) -> None:
    families = json.loads((FOLDER / "icons" / part / "pretraining.json").read_text())["sets"]
    assert families and set(families) <= set(FAMILIES["pretraining"])


@pytest.mark.usefixtures("no_network")
def test_open_clip_loads_the_clip() -> None:
    import open_clip

    name = f"local-dir:{FOLDER / 'icons/clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(["a photo of a dog.", "a photo of a sailing boat."])
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.new("RGB", (64, 64), "red"))[None])
        text = model.encode_text(tokens)
    assert image.shape == (1, 128) and text.shape == (2, 128)
    assert image.isfinite().all() and text.isfinite().all()


@pytest.mark.usefixtures("no_network")
def test_diffusers_loads_the_generator() -> None:
    from diffusers import DiffusionPipeline

    # The weights are stored in half precision, which transformers 5 keeps by default.
    pipeline = DiffusionPipeline.from_pretrained(str(FOLDER / "icons/generator")).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    output = pipeline("a photo of a star.", num_inference_steps=2, height=64, width=64, generator=generator)
    assert output.images[0].size == (64, 64)


def test_shipped_files_are_small_and_contain_no_pickles() -> None:
    files = [path for path in (FOLDER / "icons").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 45e6
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors", ".txt", ".tar", ".parquet"}
