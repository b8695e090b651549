"""Text towers of the bundled CLIP model at several levels of name knowledge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scripts.embedded.text import LEVELS
from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.core.settings import UserError
from syncclip.embedded import CLIP, towers
from syncclip.embedded.towers import COMPLETE, TOWERS, load_tower, write_tower

Weights = dict[str, torch.Tensor]


def weights_of(tag: str | None) -> Weights:
    return dict(load_backbone(BackboneSettings(pretrained=tag)).model.state_dict())


@pytest.fixture(scope="module")
def default() -> Weights:
    return weights_of(None)


def test_the_default_is_the_tower_in_the_models_weights(default: Weights) -> None:
    stored = load_file(CLIP / "open_clip_model.safetensors")
    assert all(torch.equal(default[name], value.float()) for name, value in stored.items())
    complete = weights_of(COMPLETE)
    assert all(torch.equal(default[name], value) for name, value in complete.items())


@pytest.mark.parametrize("tag", LEVELS)
def test_levels_share_the_image_tower(tag: str, default: Weights) -> None:
    weights = weights_of(tag)
    changed = {name for name, value in weights.items() if not torch.equal(value, default[name])}
    assert changed and not any(name.startswith("visual") for name in changed)
    assert "text_projection" in changed and "transformer.resblocks.3.mlp.c_fc.weight" in changed


def test_the_tags_are_the_levels_of_the_training_script() -> None:
    assert (*LEVELS, COMPLETE) == TOWERS


def test_an_unknown_tag_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no text tower 'names-7'; choose one of names-0, names-3"):
        load_backbone(BackboneSettings(pretrained="names-7"))


def test_a_tower_is_stored_to_within_one_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: Weights
) -> None:
    monkeypatch.setattr(towers, "CLIP", tmp_path)
    generator = torch.Generator().manual_seed(1)
    names = ("token_embedding.weight", "text_projection", "ln_final.bias")
    new = {name: default[name] + torch.randn(default[name].shape, generator=generator) for name in names}
    new["token_embedding.weight"][5:] = default["token_embedding.weight"][5:]
    write_tower(new, default, tmp_path / "mine.safetensors")
    assert (tmp_path / "mine.safetensors").stat().st_size < 25e3
    model = load_backbone(BackboneSettings()).model
    load_tower(model, "mine")
    for name, value in model.state_dict().items():
        expected = new.get(name, default[name])
        assert (value - expected).abs().max() <= 0.01 * expected.abs().max(), name
