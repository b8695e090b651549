from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from syncclip.core.settings import UserError
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.filters.clip_head import ClipHead, ClipHeadSettings, layers_of, with_head_checksum
from tests.synthesis.filters.conftest import batch, noise

DIM = 24  # of the tiny CLIP
IMAGES = [noise(seed) for seed in range(3)]


def head_of(file: Path, clip: FrozenClip, **settings: object) -> ClipHead:
    url = str(file.parent / "set")
    values = {"weights": str(file), **({} if "maximum" in settings else {"minimum": 0}), **settings}
    return ClipHead(with_head_checksum(ClipHeadSettings.model_validate(values), url), clip, url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A head with one layer, such as LAION's first aesthetic predictor."""
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(DIM, 1).state_dict(), tmp_path / "head.pth")
    return tmp_path / "head.pth"


def test_scores_are_compared_with_minimum_and_maximum(file: Path, clip: FrozenClip) -> None:
    state = torch.load(file)
    outputs = torch.nn.functional.linear(clip.features(IMAGES), state["weight"], state["bias"])[:, 0].tolist()
    bound = sorted(outputs)[1]
    result = head_of(file, clip, minimum=bound - 1e-5).score(batch(IMAGES))
    assert result.scores == pytest.approx(outputs, abs=1e-6)
    assert result.keep == [value >= bound for value in outputs] and result.keep.count(True) == 2
    nsfw = head_of(file, clip, reason="nsfw", maximum=bound + 1e-5, blur=True)
    result = nsfw.score(batch(IMAGES))
    assert (nsfw.name, nsfw.blurred) == ("nsfw", True)
    assert result.keep == [value <= bound for value in outputs]
    assert result.scores.index(max(result.scores)) == outputs.index(min(outputs))


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_layers_are_applied_in_order(activation: str, clip: FrozenClip, tmp_path: Path) -> None:
    torch.manual_seed(1)
    layers: list[torch.nn.Module] = []
    for low, high in itertools.pairwise((DIM, 20, 16, 12, 8, 1)):  # layers 0, 2, 4, 6 and 7, with dropout between
        layers += [torch.nn.Linear(low, high), torch.nn.Dropout(0.2)] if high > 8 else [torch.nn.Linear(low, high)]
    module = torch.nn.Sequential(*layers).eval()
    save_file({f"layers.{name}": value for name, value in module.state_dict().items()}, tmp_path / "head.safetensors")
    with torch.inference_mode():
        hidden = clip.features(IMAGES)
        for layer in module:
            hidden = layer(hidden)
            if activation == "relu" and isinstance(layer, torch.nn.Linear) and layer is not module[-1]:
                hidden = hidden.relu()
    head = head_of(tmp_path / "head.safetensors", clip, activation=activation)
    assert head.score(batch(IMAGES)).scores == pytest.approx(hidden[:, 0].tolist(), abs=1e-6)


def test_more_than_nine_layers_stay_in_order() -> None:
    shapes = {"weight": (1, 1), "bias": (1,)}
    state = {f"{i}.{part}": torch.full(shape, i) for i in range(12) for part, shape in shapes.items()}
    assert [int(layers_of(state, "x")[f"{i}.bias"]) for i in range(12)] == list(range(12))


def test_the_dataset_has_a_copy_and_other_weights_are_errors(file: Path, clip: FrozenClip) -> None:
    head = head_of(file, clip)
    settings, url = head.settings, str(file.parent / "set")
    torch.save(torch.nn.Linear(DIM, 1).state_dict(), file)
    with pytest.raises(UserError, match="the weights in .* differ from those"):
        with_head_checksum(settings, url)
    file.unlink()
    assert with_head_checksum(settings, url) == settings
    assert ClipHead(settings, clip, url).score(batch(IMAGES)) == head.score(batch(IMAGES))


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": Malicious()}, "not a state dict of tensors"),
        ({"weight": torch.zeros(2, DIM), "bias": torch.zeros(2)}, "not a sequence of linear layers"),
        ({"0.weight": torch.zeros(5, DIM), "0.bias": torch.zeros(5), "1.weight": torch.zeros(1, 4)}, "not a sequence"),
        ({}, "not a sequence"),
        (torch.nn.Linear(768, 1).state_dict(), r"expects features of size 768, but .* have size 24"),
    ],
)
def test_an_invalid_head_is_an_error(content: object, message: str, clip: FrozenClip, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=message):
        head_of(tmp_path / "bad.pth", clip)


def test_a_missing_file_and_missing_thresholds_are_errors(clip: FrozenClip, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: not found"):
        head_of(tmp_path / "none.pth", clip)
    with pytest.raises(ValueError, match="accepts all images"):
        ClipHeadSettings(weights="x")
