from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import UserError
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.filters.clip_head import ClipHead, ClipHeadSettings, layers_of, with_head_checksum
from tests.synthesis.filters.conftest import batch, noise

DIM = 24  # of the tiny CLIP


def with_digests(file: Path, folder: Path, clip: FrozenClip, **settings: object) -> ClipHead:
    asked = ClipHeadSettings.model_validate({"weights": str(file), **settings})
    return ClipHead(with_head_checksum(asked, str(folder)), clip, str(folder))


@pytest.fixture
def linear(tmp_path: Path) -> tuple[Path, torch.nn.Linear]:
    """A head of one layer, as LAION's first aesthetic predictor was published."""
    torch.manual_seed(0)
    head = torch.nn.Linear(DIM, 1)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    return tmp_path / "head.pth", head


def test_what_scores_too_low_is_rejected(
    linear: tuple[Path, torch.nn.Linear], clip: FrozenClip, tmp_path: Path
) -> None:
    file, head = linear
    images = [noise(seed) for seed in range(3)]
    with torch.inference_mode():
        expected = head(clip.features(images))[:, 0].tolist()
    bound = sorted(expected)[1]
    verdict = with_digests(file, tmp_path, clip, minimum=bound - 1e-5).score(batch(images))
    assert verdict.scores == pytest.approx(expected, abs=1e-6)
    assert verdict.keep == [value >= bound for value in expected]
    assert verdict.keep.count(True) == 2


def test_what_scores_too_high_is_rejected_and_the_lowest_is_best(
    linear: tuple[Path, torch.nn.Linear], clip: FrozenClip, tmp_path: Path
) -> None:
    file, head = linear
    images = [noise(seed) for seed in range(3)]
    with torch.inference_mode():
        outputs = head(clip.features(images))[:, 0].tolist()
    bound = sorted(outputs)[1]
    nsfw = with_digests(file, tmp_path, clip, reason="nsfw", maximum=bound + 1e-5, blur=True)
    verdict = nsfw.score(batch(images))
    assert (nsfw.name, nsfw.blurred) == ("nsfw", True)
    assert verdict.keep == [value <= bound for value in outputs]
    assert verdict.scores.index(max(verdict.scores)) == outputs.index(min(outputs))


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_several_layers_are_chained_as_published(activation: str, clip: FrozenClip, tmp_path: Path) -> None:
    torch.manual_seed(1)
    widths = (DIM, 20, 16, 12, 8, 1)
    layers: list[torch.nn.Module] = []
    for low, high in itertools.pairwise(widths):  # dropout between them, so the names are 0, 2, 4, 6, 7
        layers += [torch.nn.Linear(low, high), torch.nn.Dropout(0.2)] if high > 8 else [torch.nn.Linear(low, high)]
    module = torch.nn.Sequential(*layers).eval()
    save_file({f"layers.{name}": value for name, value in module.state_dict().items()}, tmp_path / "head.safetensors")
    images = [noise(4), noise(5)]
    with torch.inference_mode():
        found = clip.features(images)
        for layer in module:
            found = layer(found)
            if activation == "relu" and isinstance(layer, torch.nn.Linear) and layer is not module[-1]:
                found = found.relu()
    head = with_digests(tmp_path / "head.safetensors", tmp_path, clip, minimum=-9, activation=activation)
    assert head.score(batch(images)).scores == pytest.approx(found[:, 0].tolist(), abs=1e-6)


def test_more_than_nine_layers_stay_in_order() -> None:
    state = {f"{i}.{part}": torch.full((1, 1) if part == "weight" else (1,), i) for i in range(12) for part in WEIGHTS}
    assert [int(layers_of(state, "x")[f"{i}.bias"]) for i in range(12)] == list(range(12))


WEIGHTS = ("weight", "bias")


def test_the_set_keeps_its_own_copy(linear: tuple[Path, torch.nn.Linear], clip: FrozenClip, tmp_path: Path) -> None:
    file, _ = linear
    settings = with_head_checksum(ClipHeadSettings(weights=str(file), minimum=0), str(tmp_path / "set"))
    file.unlink()
    assert with_head_checksum(settings, str(tmp_path / "set")) == settings
    assert ClipHead(settings, clip, str(tmp_path / "set")).score(batch([noise(0)])).scores


def test_other_weights_under_the_same_name_are_errors(linear: tuple[Path, torch.nn.Linear], tmp_path: Path) -> None:
    file, _ = linear
    settings = with_head_checksum(ClipHeadSettings(weights=str(file), minimum=0), str(tmp_path / "set"))
    torch.save(torch.nn.Linear(DIM, 1).state_dict(), file)
    with pytest.raises(UserError, match="other weights than those that the set was started with"):
        with_head_checksum(settings, str(tmp_path / "set"))


class Bomb:
    """What a pickle would run when it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"weight": Bomb()}, "no plain state dict of tensors"),
        ({"weight": torch.zeros(2, DIM), "bias": torch.zeros(2)}, "no head of linear layers"),
        ({"0.weight": torch.zeros(5, DIM), "0.bias": torch.zeros(5), "1.weight": torch.zeros(1, 4)}, "no head"),
        ({}, "no head"),
    ],
)
def test_an_invalid_head_is_an_error_and_no_code_is_run(content: object, complaint: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=complaint):
        with_head_checksum(ClipHeadSettings(weights=str(tmp_path / "bad.pth"), minimum=0), str(tmp_path))


def test_a_head_for_another_clip_is_an_error(clip: FrozenClip, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "large.pth")
    with pytest.raises(UserError, match=r"expects features of 768 numbers, but .* has 24"):
        with_digests(tmp_path / "large.pth", tmp_path, clip, minimum=0)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no weights file"):
        with_head_checksum(ClipHeadSettings(weights=str(tmp_path / "none.pth"), minimum=0), str(tmp_path))


def test_a_head_without_a_threshold_is_an_error() -> None:
    with pytest.raises(ValueError, match="it would keep everything"):
        ClipHeadSettings(weights="x", backbone=BackboneSettings())
