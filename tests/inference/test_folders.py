"""Folders for open_clip and transformers of every family of backbones, sentence and way to prepare images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.datasets import Dataset
from syncclip.inference.folders import EXACT, ZERO_SHOT, write_open_clip, write_transformers
from syncclip.methods import Method, build_method
from syncclip.methods.settings import MethodsSettings
from tests.worlds.families import Family, families, make_family_folder

NAMES = ["golden_retriever", "MD80", "owl", "photo", "it's", "crème", "St. (old)"]
OTHER_FORM = "this CLIP's towers have not the form of transformers' CLIP.*use --to open_clip"
FORM = ("openai", "laion", "laion-worldwide")
"""Families that transformers' CLIP can represent."""

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def laion(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(BackboneSettings(name=str(make_family_folder(tmp_path_factory.mktemp("laion"), Family()))))


def build(backbone: Backbone, template: str = "a {}.", names: list[str] = NAMES, **settings: Any) -> Method:
    """Zero-shot, or CoOp where there are settings of it."""
    name = "coop" if "phrase" in settings else "zeroshot"
    dataset = Dataset("few", names, template, {})
    own = MethodsSettings().of(name).model_copy(update=settings)
    return build_method(name, PromptedClip(backbone), dataset, own, seed=1).eval()


def difference(method: Method, folder: Path) -> float:
    """Of the logits that transformers has from a folder alone, from those of the run."""
    size = method.clip.backbone.image_size
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(2))
    told = json.loads((folder / ZERO_SHOT).read_text(encoding="utf-8"))
    sentences = [told["hypothesis_template"].format(label) for label in told["candidate_labels"]]
    inputs = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    found = CLIPModel.from_pretrained(folder)(pixel_values=images, **inputs).logits_per_image
    return float((found - method.logits(images)).abs().max())


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name == "roberta" else ()) for name in families()]
)
def test_every_family_is_the_same_for_open_clip_and_for_transformers_or_refused(tmp_path: Path, family: str) -> None:
    clip = make_family_folder(tmp_path / "clip", families()[family])
    backbone = load_backbone(BackboneSettings(name=str(clip)))
    method = build(backbone, "{}.", ["cat", "golden retriever", "blue car"])
    (tmp_path / "open_clip").mkdir()
    write_open_clip(method, tmp_path / "open_clip")
    again = load_backbone(BackboneSettings(name=str(tmp_path / "open_clip")))
    assert again.sha256 == backbone.sha256 and again.preprocess_settings == backbone.preprocess_settings
    texts = ["a photo", "cat"]
    assert torch.equal(again.tokenizer(texts), backbone.tokenizer(texts))
    (tmp_path / "transformers").mkdir()
    if family in FORM:
        write_transformers(method, [0, 1, 2], tmp_path / "transformers")
        assert difference(method, tmp_path / "transformers") <= EXACT
    else:
        with pytest.raises(UserError, match=OTHER_FORM):
            write_transformers(method, [0, 1, 2], tmp_path / "transformers")


@pytest.mark.parametrize(
    ("settings", "template"),
    [
        ({"template": "a photo of a {}."}, "a photo of a {} ."),
        ({"template": "a photo of {a}."}, "a photo of {} ."),
        ({"template": "the {nice} {}"}, "{}"),
        ({"phrase": ""}, "<learned-0><learned-1><learned-2><learned-3>{} ."),
        ({"phrase": "a golden-ish photo", "text_tokens": None}, "<learned-0><learned-1><learned-2>{} ."),
        ({"phrase": "", "position": "front"}, "{}<learned-0><learned-1><learned-2><learned-3>."),
        ({"phrase": "", "position": "middle"}, "<learned-0><learned-1>{}<learned-2><learned-3>."),
        ({"phrase": "", "class_specific": True}, "{}"),
    ],
)
def test_every_kind_of_sentence_is_exact(
    laion: Backbone, tmp_path: Path, settings: dict[str, Any], template: str
) -> None:
    method = build(laion, **{"text_tokens": 4, **settings} if "phrase" in settings else settings)
    write_transformers(method, list(range(len(NAMES))), tmp_path)
    assert difference(method, tmp_path) <= EXACT
    told = json.loads((tmp_path / ZERO_SHOT).read_text(encoding="utf-8"))
    print(told)
