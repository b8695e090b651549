"""Folders for open_clip and transformers of every family of backbones, sentence and way to prepare images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import SimpleTokenizer
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from syncclip.clip.backbone import CONFIG, Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompt_text import readable_name, with_article
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.datasets import Dataset
from syncclip.export.checkpoints import TOLERANCE, ZERO_SHOT, write_open_clip, write_transformers
from syncclip.methods import Method, build_method
from syncclip.methods.settings import MethodsSettings
from tests.worlds.families import Family, families, make_family_folder

NAMES = ["golden_retriever", "MD80", "owl", "photo", "it's", "crème"]
ODD = "St. (old)"
"""In a sentence, its last token is one with the full stop."""
OTHER_FORM = "this CLIP's architecture differs from transformers' CLIP.*use --to open_clip"
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
    name = "coop" if "initial_words" in settings else "zeroshot"
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
    actual = CLIPModel.from_pretrained(folder)(pixel_values=images, **inputs).logits_per_image
    return float((actual - method.logits(images)).abs().max())


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
        assert difference(method, tmp_path / "transformers") <= TOLERANCE
    else:
        with pytest.raises(UserError, match=OTHER_FORM):
            write_transformers(method, [0, 1, 2], tmp_path / "transformers")


ALL = "<learned-0><learned-1><learned-2><learned-3>"
FRONT, MIDDLE = {"initial_words": "", "position": "front"}, {"initial_words": "", "position": "middle"}


@pytest.mark.parametrize(
    ("settings", "names", "template"),
    [
        ({"template": "a photo of a {}."}, [*NAMES, ODD], "a photo of a {}."),
        ({"template": "a photo of {a}."}, [*NAMES, ODD], "a photo of {}."),
        ({"template": "the {nice} {}"}, NAMES, "{}"),
        ({"initial_words": ""}, [*NAMES, ODD], ALL + "{}."),
        (
            {"initial_words": "a golden-ish photo", "text_tokens": None},
            NAMES,
            "<learned-0><learned-1><learned-2>- ish photo {}.",
        ),
        (FRONT, NAMES, "{} " + ALL + "."),
        (FRONT, [*NAMES, ODD], "{}"),
        (MIDDLE, NAMES, "<learned-0><learned-1>{} <learned-2><learned-3>."),
        ({"initial_words": "", "class_specific": True}, NAMES, "{}"),
    ],
)
def test_every_kind_of_sentence_is_exact(
    laion: Backbone, tmp_path: Path, settings: dict[str, Any], names: list[str], template: str
) -> None:
    method = build(laion, names=names, **{"text_tokens": 4, **settings} if "initial_words" in settings else settings)
    write_transformers(method, list(range(len(names))), tmp_path)
    assert difference(method, tmp_path) <= TOLERANCE
    told = json.loads((tmp_path / ZERO_SHOT).read_text(encoding="utf-8"))
    assert told["hypothesis_template"] == template
    if template != "{}":
        articles = "{a}" in settings.get("template", "")
        assert told["candidate_labels"] == [
            with_article(readable_name(n)) if articles else readable_name(n) for n in names
        ]


def test_open_clips_own_tokenizer_is_written_for_transformers(tmp_path: Path) -> None:
    family = Family(text={"vocab_size": 49408, "hf_tokenizer_name": None})
    backbone = load_backbone(BackboneSettings(name=str(make_family_folder(tmp_path / "clip", family))))
    assert isinstance(backbone.tokenizer, SimpleTokenizer)
    method = build(backbone, names=[*NAMES, ODD], initial_words="", text_tokens=3)
    for name in ("open_clip", "transformers"):
        (tmp_path / name).mkdir()
    write_transformers(method, list(range(len(NAMES) + 1)), tmp_path / "transformers")
    assert difference(method, tmp_path / "transformers") <= TOLERANCE
    write_open_clip(method, tmp_path / "open_clip")
    again = load_backbone(BackboneSettings(name=str(tmp_path / "open_clip")))
    assert torch.equal(again.tokenizer(NAMES), backbone.tokenizer(NAMES))


@pytest.mark.parametrize("told", [{}, {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}])
def test_images_are_prepared_alike(tmp_path: Path, told: dict[str, Any]) -> None:
    clip = make_family_folder(tmp_path / "clip", Family())
    config = json.loads((clip / CONFIG).read_text())
    (clip / CONFIG).write_text(json.dumps({**config, "preprocess_cfg": told}))
    backbone = load_backbone(BackboneSettings(name=str(clip)))
    write_transformers(build(backbone), list(range(len(NAMES))), tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    picture = Image.fromarray(noise).resize((201, 150))
    level = 1 / 255 / min(backbone.std)
    for backend, most in (("pil", 1e-6), ("torchvision", 1.01 * level)):  # which resizes with other roundings
        processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        actual = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert float((actual - backbone.preprocess(picture)).abs().max()) <= most


@pytest.mark.parametrize(
    ("settings", "told", "reason"),
    [
        ({"templates": ("a {}.", "the {}.")}, {}, "class vectors are not of one sentence each.*use --to open_clip"),
        ({}, {"resize_mode": "longest"}, "can't preprocess images by .*'longest'.*use --to open_clip"),
    ],
)
def test_what_transformers_has_no_form_for_is_one_sentence(
    laion: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], told: Any, reason: str
) -> None:
    visual: Any = laion.model.visual
    monkeypatch.setattr(visual, "preprocess_cfg", {**visual.preprocess_cfg, **told})
    with pytest.raises(UserError, match=reason):
        write_transformers(build(laion, **settings), [0], tmp_path)
