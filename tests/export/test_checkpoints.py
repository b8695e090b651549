"""Exports for open_clip and transformers, for each family of backbones, template and preprocessing."""

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
from syncclip.clip.prompt_text import with_article
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.core.text import readable_name
from syncclip.datasets import Dataset
from syncclip.export.checkpoints import TOLERANCE, ZERO_SHOT, write_open_clip, write_transformers
from syncclip.methods import Method, build_method
from syncclip.methods.settings import MethodsSettings
from tests.worlds.families import Family, families, make_family_folder

NAMES = ["golden_retriever", "MD80", "owl", "photo", "it's", "crème"]
MERGED = "St. (old)"
"""A name whose last token is merged with the full stop of a sentence."""
SUPPORTED = ("openai", "laion", "laion-worldwide")
"""Families that transformers' CLIP can represent."""

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def laion(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(BackboneSettings(name=str(make_family_folder(tmp_path_factory.mktemp("laion"), Family()))))


def build(backbone: Backbone, template: str = "a {}.", names: list[str] = NAMES, **settings: Any) -> Method:
    """CoOp if `initial_words` is among the settings, else zero-shot."""
    name = "coop" if "initial_words" in settings else "zeroshot"
    method_settings = MethodsSettings().of(name).model_copy(update=settings)
    dataset = Dataset("few", names, template, {})
    return build_method(name, PromptedClip(backbone), dataset, method_settings, seed=1).eval()


def write_both(method: Method, folder: Path) -> tuple[Path, Path]:
    """Export to open_clip and transformers; returns their folders."""
    folders = folder / "open_clip", folder / "transformers"
    for path in folders:
        path.mkdir()
    write_open_clip(method, folders[0])
    write_transformers(method, list(range(len(method.classnames))), folders[1])
    return folders


def check_transformers(method: Method, folder: Path) -> dict[str, Any]:
    """Compare the exported logits with the method's; returns the content of `zero_shot.json`."""
    size = method.clip.backbone.image_size
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(2))
    arguments: dict[str, Any] = json.loads((folder / ZERO_SHOT).read_text(encoding="utf-8"))
    sentences = [arguments["hypothesis_template"].format(label) for label in arguments["candidate_labels"]]
    inputs = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    actual = CLIPModel.from_pretrained(folder)(pixel_values=images, **inputs).logits_per_image
    assert float((actual - method.logits(images)).abs().max()) <= TOLERANCE
    return arguments


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in ("laion", "siglip", "resnet") else pytest.mark.nightly)
        for name in families()
    ],
)
def test_each_family_is_exported_exactly_or_rejected(tmp_path: Path, family: str) -> None:
    clip = make_family_folder(tmp_path / "clip", families()[family])
    backbone = load_backbone(BackboneSettings(name=str(clip)))
    method = build(backbone, "{}.", ["cat", "golden retriever", "blue car"])
    if family in SUPPORTED:
        check_transformers(method, write_both(method, tmp_path)[1])
    else:
        with pytest.raises(UserError, match="architecture differs .*use --to open_clip"):
            write_both(method, tmp_path)
    exported = load_backbone(BackboneSettings(name=str(tmp_path / "open_clip")))
    assert (exported.sha256, exported.preprocess_settings) == (backbone.sha256, backbone.preprocess_settings)
    texts = ["a photo", "cat"]
    assert torch.equal(exported.tokenizer(texts), backbone.tokenizer(texts))


LEARNED = "<learned-0><learned-1><learned-2><learned-3>"


@pytest.mark.parametrize(
    ("settings", "names", "template"),
    [
        ({"template": "a photo of a {}."}, [*NAMES, MERGED], "a photo of a {}."),
        ({"template": "a photo of {a}."}, [*NAMES, MERGED], "a photo of {}."),
        ({"template": "the {nice} {}"}, NAMES, "{}"),
        ({"initial_words": ""}, [*NAMES, MERGED], LEARNED + "{}."),
        (
            {"initial_words": "a golden-ish photo", "text_tokens": None},
            NAMES,
            "<learned-0><learned-1><learned-2>- ish photo {}.",
        ),
        ({"initial_words": "", "position": "front"}, NAMES, "{} " + LEARNED + "."),
        ({"initial_words": "", "position": "front"}, [*NAMES, MERGED], "{}"),
        ({"initial_words": "", "position": "middle"}, NAMES, "<learned-0><learned-1>{} <learned-2><learned-3>."),
        ({"initial_words": "", "class_specific": True}, NAMES, "{}"),
    ],
)
def test_each_template_is_exported_exactly(
    laion: Backbone, tmp_path: Path, settings: dict[str, Any], names: list[str], template: str
) -> None:
    method = build(laion, names=names, **{"text_tokens": 4, **settings} if "initial_words" in settings else settings)
    write_transformers(method, list(range(len(names))), tmp_path)
    arguments = check_transformers(method, tmp_path)
    assert arguments["hypothesis_template"] == template
    if template != "{}":
        labels = [readable_name(name) for name in names]
        with_articles = "{a}" in settings.get("template", "")
        assert arguments["candidate_labels"] == ([with_article(label) for label in labels] if with_articles else labels)


def test_the_tokenizer_of_open_clip_is_exported(tmp_path: Path) -> None:
    family = Family(text={"vocab_size": 49408, "hf_tokenizer_name": None})
    backbone = load_backbone(BackboneSettings(name=str(make_family_folder(tmp_path / "clip", family))))
    assert isinstance(backbone.tokenizer, SimpleTokenizer)
    method = build(backbone, names=[*NAMES, MERGED], initial_words="", text_tokens=3)
    open_clip, transformers = write_both(method, tmp_path)
    check_transformers(method, transformers)
    exported = load_backbone(BackboneSettings(name=str(open_clip)))
    assert torch.equal(exported.tokenizer(NAMES), backbone.tokenizer(NAMES))


@pytest.mark.parametrize(
    "settings", [{}, {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}]
)
def test_preprocessing_is_exported(tmp_path: Path, settings: dict[str, Any]) -> None:
    clip = make_family_folder(tmp_path / "clip", Family())
    config = json.loads((clip / CONFIG).read_text())
    (clip / CONFIG).write_text(json.dumps({**config, "preprocess_cfg": settings}))
    backbone = load_backbone(BackboneSettings(name=str(clip)))
    write_transformers(build(backbone), list(range(len(NAMES))), tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    image = Image.fromarray(noise).resize((201, 150))
    level = 1 / 255 / min(backbone.std)
    for backend, tolerance in (("pil", 1e-6), ("torchvision", 1.01 * level)):  # torchvision rounds differently
        processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        actual = processor(image, return_tensors="pt")["pixel_values"][0]
        assert float((actual - backbone.preprocess(image)).abs().max()) <= tolerance


@pytest.mark.parametrize(
    ("settings", "preprocessing", "reason"),
    [
        ({"templates": ("a {}.", "the {}.")}, {}, "must have one prompt per class.*use --to open_clip"),
        ({}, {"resize_mode": "longest"}, "can't preprocess images with .*'longest'"),
    ],
)
def test_runs_that_transformers_cannot_represent_are_errors(
    laion: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    preprocessing: dict[str, str],
    reason: str,
) -> None:
    visual: Any = laion.model.visual
    monkeypatch.setattr(visual, "preprocess_cfg", {**visual.preprocess_cfg, **preprocessing})
    with pytest.raises(UserError, match=reason):
        write_transformers(build(laion, **settings), [0], tmp_path)
