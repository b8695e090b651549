from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from syncclip import storage
from syncclip.cli import app
from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.plan import PLAN_NAME, draft
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.synthetic_sets.quality import DUPLICATE, PAIRS, measure_quality, near_duplicates, set_quality
from tests.conftest import TinyWorld
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import CLASSES, encoded, make_image, tiny_dataset

PROMPTS = [f"a photo of a {name}." for name in CLASSES]
COPY = 14
"""A sample with the same image as sample 2."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> FrozenClip:
    return FrozenClip(BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip")))), PROMPTS)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A synthetic dataset with three images of each of six classes."""
    url = str(tmp_path_factory.mktemp("set"))
    settings = SynthesisSettings(images_per_class=3, shard_size=18)
    plan = draft(settings, dataset="shapes", classnames=CLASSES, template="a photo of a {}.")
    storage.write_document(storage.join(url, PLAN_NAME), plan, plan.owner)
    images = [encoded(make_image(index % 6, 2 if index == COPY else index)) for index in range(18)]
    samples = [Sample(index, index % 6, data, PROMPTS[index % 6]) for index, data in enumerate(images)]
    write_shard(url, 0, samples, owner=plan.owner)
    return url


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet(str(tiny_dataset(tmp_path_factory.mktemp("real")) / "test"))


def features(clip: FrozenClip, images: ShardSet) -> tuple[np.ndarray, np.ndarray]:
    """Image and text features from open_clip's forward pass."""
    backbone = load_backbone(BackboneSettings(name=clip.backbone.name))
    with torch.inference_mode():
        pixels = torch.stack([backbone.preprocess(images.image(row)) for row in range(len(images))])
        image_features, text_features, _ = backbone.model(pixels, backbone.tokenizer(PROMPTS))
    return image_features.double().numpy(), text_features.double().numpy()


def test_accuracy_similarity_and_shift_match_their_definitions(
    clip: FrozenClip, generated: str, real: ShardSet
) -> None:
    quality = set_quality(generated, clip, real)
    synthetic = ShardSet(generated)
    (image_features, text_features), (real_features, _) = features(clip, synthetic), features(clip, real)
    correct = (image_features @ text_features.T).argmax(axis=1) == synthetic.labels
    assert quality.accuracy == pytest.approx(100 * correct.mean(), abs=1e-4)
    for label, actual in enumerate(quality.classes):
        rows = synthetic.labels == label
        similarities = [a @ b for a, b in combinations(image_features[rows], 2)]
        centres = [part.mean(axis=0) for part in (image_features[rows], real_features[real.labels == label])]
        cosine = centres[0] @ centres[1] / np.prod([np.linalg.norm(centre) for centre in centres])
        assert (actual.name, actual.images) == (CLASSES[label], 3)
        assert actual.accuracy == pytest.approx(100 * correct[rows].mean(), abs=1e-4)
        assert actual.similarity == pytest.approx(np.mean(similarities), abs=1e-4)
        assert actual.shift == pytest.approx(1 - cosine, abs=1e-4)
    assert quality.similarity == pytest.approx(np.mean([c.similarity for c in quality.classes]), abs=1e-4)
    assert quality.shift is not None and quality.prompts is not None
    assert quality.shift.centroid_distance == pytest.approx(np.mean([c.shift for c in quality.classes]), abs=1e-4)
    assert (quality.prompts.distinct, quality.prompts.fewest) == (6, 1)


def test_near_duplicates_are_counted_and_listed(clip: FrozenClip, generated: str) -> None:
    image_features, _ = features(clip, ShardSet(generated))
    similarity = image_features @ image_features.T
    expected = [row for row in range(1, 18) if similarity[row, :row].max() >= DUPLICATE]
    quality = set_quality(generated, clip, None)
    assert quality.near_duplicates == len(expected) > 0
    assert [later for later, _ in quality.pairs] == expected[:PAIRS]
    assert dict(quality.pairs)[COPY] == 2


def test_a_limit_selects_the_first_images_of_each_class(clip: FrozenClip, generated: str) -> None:
    quality = set_quality(generated, clip, None, max_images=6)
    assert (quality.images, quality.measured) == (18, 6)
    assert {quality_of_class.images for quality_of_class in quality.classes} == {1}
    assert quality.similarity is None and quality.shift is None and quality.real_similarity is None


def test_near_duplicates_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = near_duplicates(rows)
    monkeypatch.setattr("syncclip.synthetic_sets.quality.BLOCK", 7)
    assert near_duplicates(rows) == expected
    assert expected[0] == sum((rows[:n] @ rows[n]).max() >= DUPLICATE for n in range(1, 40)) > 3


def test_a_missing_dataset_is_an_error(clip: FrozenClip, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no synthetic dataset found"):
        set_quality(str(tmp_path), clip, None)


def test_a_dataset_of_other_classes_is_an_error(tiny_set: str) -> None:
    with pytest.raises(UserError, match="has 6 classes of dataset 'shapes', not the 14 classes of 'icons/travel'"):
        measure_quality(Recipe.load("travel"), tiny_set)


def test_the_command_measures_with_the_recipes_backbone_and_real_images(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    (url / "synthesis.yaml").write_text(Recipe.load(tiny.recipe).to_yaml())
    assert app.run(["shards", "quality", str(url)]) == 0
    output = capsys.readouterr().out
    assert "12 of 12 images measured" in output
    assert "similarity of image pairs within a class" in output and "shift to real images" in output
    assert f'"backbone":"{tiny.backbone}"' in (url / "stats.json").read_text().replace(" ", "")
    assert len(ShardSet(str(url))) == 12
