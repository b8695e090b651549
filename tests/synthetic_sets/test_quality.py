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
TWICE = 14
"""A sample that shows the very image of sample 2."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> FrozenClip:
    return FrozenClip(BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip")))), PROMPTS)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three images of each of six classes."""
    url = str(tmp_path_factory.mktemp("set"))
    settings = SynthesisSettings(images_per_class=3, shard_size=18)
    plan = draft(settings, dataset="shapes", classnames=CLASSES, template="a photo of a {}.")
    storage.write_document(storage.join(url, PLAN_NAME), plan, plan.owner)
    variants = {index: 2 if index == TWICE else index for index in range(18)}
    images = [encoded(make_image(index % 6, variants[index])) for index in range(18)]
    samples = [Sample(index, index % 6, data, PROMPTS[index % 6]) for index, data in enumerate(images)]
    write_shard(url, 0, samples, owner=plan.owner)
    return url


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet(str(tiny_dataset(tmp_path_factory.mktemp("real")) / "test"))


def features(clip: FrozenClip, images: ShardSet) -> tuple[np.ndarray, np.ndarray]:
    """Of images and class sentences, by open_clip's own forward pass."""
    plain = load_backbone(BackboneSettings(name=clip.backbone.name))
    with torch.inference_mode():
        pixels = torch.stack([plain.preprocess(images.image(row)) for row in range(len(images))])
        seen, read, _ = plain.model(pixels, plain.tokenizer(PROMPTS))
    return seen.double().numpy(), read.double().numpy()


def test_accuracy_similarity_and_shift_are_those_of_the_definitions(
    clip: FrozenClip, generated: str, real: ShardSet
) -> None:
    quality = set_quality(generated, clip, real)
    made = ShardSet(generated)
    (seen, read), (true, _) = features(clip, made), features(clip, real)
    right = (seen @ read.T).argmax(axis=1) == made.labels
    assert quality.accuracy == pytest.approx(100 * right.mean(), abs=1e-4)
    for label, one in enumerate(quality.classes):
        mine, others = seen[made.labels == label], true[real.labels == label]
        assert (one.name, one.images) == (CLASSES[label], 3)
        assert one.accuracy == pytest.approx(100 * right[made.labels == label].mean(), abs=1e-4)
        assert one.similarity == pytest.approx(np.mean([a @ b for a, b in combinations(mine, 2)]), abs=1e-4)
        centres = [part.mean(axis=0) / np.linalg.norm(part.mean(axis=0)) for part in (mine, others)]
        assert one.shift == pytest.approx(1 - centres[0] @ centres[1], abs=1e-4)
    assert quality.similarity == pytest.approx(np.mean([one.similarity for one in quality.classes]), abs=1e-4)
    assert quality.shift is not None
    assert quality.shift.centroid_distance == pytest.approx(np.mean([one.shift for one in quality.classes]), abs=1e-4)
    assert quality.prompts is not None
    assert (quality.prompts.distinct, quality.prompts.fewest) == (6, 1)


def test_near_duplicates_are_counted_and_named(clip: FrozenClip, generated: str, real: ShardSet) -> None:
    seen, _ = features(clip, ShardSet(generated))
    expected = [n for n in range(1, 18) if max(seen[n] @ seen[k] for k in range(n)) >= DUPLICATE]
    quality = set_quality(generated, clip, real)
    assert quality.near_duplicates == len(expected) > 0
    assert [later for later, _ in quality.pairs] == expected[:PAIRS]
    assert dict(quality.pairs)[TWICE] == 2


def test_only_the_first_images_of_each_class_are_looked_at_in_a_large_set(clip: FrozenClip, generated: str) -> None:
    quality = set_quality(generated, clip, None, most=6)
    assert (quality.images, quality.measured) == (18, 6)
    assert {one.images for one in quality.classes} == {1}
    assert quality.similarity is None and quality.shift is None and quality.real_similarity is None


def test_blocks_find_what_all_pairs_find(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 2))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    whole = near_duplicates(rows)
    monkeypatch.setattr("syncclip.synthetic_sets.quality.BLOCK", 7)
    assert near_duplicates(rows) == whole
    assert whole[0] == sum(max(rows[n] @ rows[k] for k in range(n)) >= DUPLICATE for n in range(1, 40)) > 3


def test_an_empty_folder_is_told(clip: FrozenClip, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no synthetic set found; generate one with `syncclip synth"):
        set_quality(str(tmp_path), clip, None)


def test_a_set_is_measured_by_its_recipes_clip_and_real_images(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    url = str(shutil.copytree(tiny_set, tmp_path / "set"))
    quality = measure_quality(Recipe.load(tiny.recipe), url)
    assert (quality.images, quality.measured) == (12, 12)
    assert quality.backbone == tiny.backbone
    assert quality.shift is not None and quality.shift.centroid_distance > 0
    assert (tmp_path / "set" / "stats.json").is_file()
    assert len(ShardSet(url)) == 12  # the numbers beside it don't disturb readers


def test_another_datasets_set_is_refused(tiny: TinyWorld, tiny_set: str) -> None:
    with pytest.raises(UserError, match="has 6 classes of dataset 'shapes', not the 14 of 'icons/travel'"):
        measure_quality(Recipe.load("travel"), tiny_set)


def test_the_command_tells_the_numbers_in_a_few_lines(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    (url / "synthesis.yaml").write_text(Recipe.load(tiny.recipe).to_yaml())
    assert app.run(["shards", "quality", str(url)]) == 0
    told = capsys.readouterr().out
    assert "12 of 12 images measured" in told
    assert "similarity of two images of a class" in told and "shift to real images" in told
