from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import digest
from syncclip.synthesis.plan import MAX_IMAGES, Plan, agreed_plan, differences, draft, read_plan, write_plan
from syncclip.synthesis.settings import SynthesisSettings


def store(plan: Plan, url: str) -> Plan:
    stored = read_plan(url)
    return write_plan(plan if stored is None else agreed_plan(plan, stored, url), url)


def plan_of(classes: int = 3, images: int = 4, **settings: Any) -> Plan:
    settings = {"generator": {"batch_size": 1}, **settings}
    return draft(
        SynthesisSettings(images_per_class=images, **settings),
        dataset="tiny",
        classnames=[f"class {label}" for label in range(classes)],
        template="a photo of a {}.",
    )


MIXED = {
    "classes": {"class 1": ["something rare"]},
    "strategies": [
        {"name": "template", "templates": ["a {}.", "many {}s."], "weight": 2},
        {"name": "combinations", "sentence": "a {colour} {}", "lists": {"colour": ["red", "blue", "green"]}},
    ],
}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    classes, images = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    prompts = draw(st.sampled_from([{}, MIXED])) if classes > 1 else {}
    plan = plan_of(classes, images, shard_size=draw(st.integers(1, 20)), prompts=prompts)
    for more in draw(st.lists(st.integers(1, 9), max_size=3)):
        plan = plan.extended(plan.images_per_class + more)
    return plan


@given(plans(), st.data())
def test_shards_contain_every_sample_once_and_in_order(plan: Plan, data: st.DataObject) -> None:
    ranges = [plan.shard_range(shard) for shard in plan.shards()]
    assert [index for indices in ranges for index in indices] == list(range(plan.total))
    assert all(1 <= len(indices) <= plan.shard_size for indices in ranges)
    images = data.draw(st.integers(1, plan.images_per_class))
    last = next(shard for shard, indices in enumerate(ranges) if indices.stop >= images * plan.classes)
    assert plan.shards(images) == range(last + 1)


@given(plans(), st.integers(1, 9))
def test_an_extension_only_adds_shards(plan: Plan, more: int) -> None:
    longer = plan.extended(plan.images_per_class + more)
    assert all(longer.shard_range(shard) == plan.shard_range(shard) for shard in plan.shards())
    assert all(longer.entry(index) == plan.entry(index) for index in range(plan.total))


@given(plans())
def test_texts_are_the_distinct_prompts(plan: Plan) -> None:
    texts = plan.texts(1000)
    assert len(texts) == len({*texts})
    assert {*texts} == {plan.entry(index).prompt for index in range(plan.total)}
    assert plan.texts(len(texts) - 1) == []


@given(plans(), st.data())
def test_every_prefix_is_class_balanced(plan: Plan, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, plan.total))
    entry = plan.entry(length - 1)
    assert (entry.label, entry.image) == ((length - 1) % plan.classes, (length - 1) // plan.classes)
    counts = Counter(plan.entry(index).label for index in range(length))
    assert max(counts.values()) - min(counts[label] for label in range(plan.classes)) <= 1


def test_the_default_shard_size_is_a_multiple_of_the_classes_and_at_least_64() -> None:
    assert plan_of(classes=88).shard_size == 88
    assert plan_of(classes=10).shard_size == 70
    assert plan_of(classes=2, generator={"batch_size": 100}).shard_size == 100


@pytest.mark.parametrize(
    ("classes", "images", "shard_size"), [(10, 350_000, 70), (10, 350_001, 80), (1000, 100_000, 2000)]
)
def test_the_default_shard_size_grows_beyond_50000_shards(classes: int, images: int, shard_size: int) -> None:
    plan = plan_of(classes=classes, images=images)
    assert plan.shard_size == shard_size and len(plan.shards()) <= 50_000


def test_a_stored_plan_is_extended_and_never_reduced(tmp_path: Path) -> None:
    for images, amounts in ((3, (3,)), (16, (3, 16)), (4, (3, 16))):
        assert store(plan_of(images=images), str(tmp_path)).amounts == amounts
    assert read_plan(str(tmp_path)) == plan_of(images=3).extended(16)


@pytest.mark.parametrize(
    ("values", "difference"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"classes": 4}, "classnames: '3 names' -> '4 names'"),
        ({"generator": {"batch_size": 1, "steps": 5}}, "generator.steps: 20 -> 5"),
        ({"filters": [{"name": "blank", "minimum": 7.0}]}, "filters.blank.minimum: 4.0 -> 7.0"),
        ({"filters": []}, "filters: ['blank'] -> []"),
    ],
)
def test_another_plan_in_the_same_folder_is_an_error(tmp_path: Path, values: dict[str, Any], difference: str) -> None:
    store(plan_of(), str(tmp_path))
    with pytest.raises(UserError) as failure:
        store(plan_of(**values), str(tmp_path))
    assert difference in str(failure.value)


def test_empty_weights_are_compatible_with_any() -> None:
    plan = plan_of()
    first, second = (plan.model_copy(update={"weights": weights}) for weights in ("a1", "b2"))
    assert differences(first, plan) == []
    assert differences(first, second) == ["weights: 'a1' -> 'b2'"]


@pytest.mark.parametrize("text", ["{}", '{"format": 1}', '{"from a newer version": 2}'])
def test_an_unreadable_plan_is_reported(tmp_path: Path, text: str) -> None:
    storage.write_with_checksum(str(tmp_path / "plan.json"), text.encode())
    with pytest.raises(UserError, match="cannot be read by this version of syncclip"):
        store(plan_of(), str(tmp_path))


def test_the_identity_of_a_plan_is_stable() -> None:
    assert digest(plan_of(mark="none").model_dump(mode="json")) == "0f8577405c5677da"


def test_filters_use_the_recipes_backbone_by_default() -> None:
    settings = SynthesisSettings.model_validate({"filters": [{"name": "clip_score", "top": 1}]})
    backbone = BackboneSettings(name="ViT-B-16", pretrained="openai")
    plan = draft(settings, dataset="tiny", classnames=["a", "b"], template="{}", backbone=backbone)
    assert plan.model_dump()["filters"][0]["backbone"]["name"] == "ViT-B-16"


def test_no_classes_and_too_many_images_or_shards_are_errors() -> None:
    with pytest.raises(UserError, match="has no classes"):
        plan_of(classes=0)
    with pytest.raises(UserError, match="exceed the maximum of 4,294,967,296"):
        plan_of(images=MAX_IMAGES)
    with pytest.raises(UserError, match=r"5,000,000 shards exceed the maximum of 4,194,304; increase .*shard_size"):
        plan_of(images=5_000_000, classes=1, shard_size=1)


def test_a_stored_plan_contains_the_speed_but_no_settings_of_the_machine(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    def with_generator(**generator: Any) -> Plan:
        return make_plan(1, num_gpus=1, generator={"batch_size": 4, **generator})

    fast = with_generator(speed="fast", compile_cache="s3://bucket/compiled", offload="model")
    write_plan(fast, str(tmp_path))
    text = (tmp_path / "plan.json").read_text()
    assert '"speed": "fast"' in text and '"dtype": "bf16"' in text
    assert "compile_cache" not in text and "offload" not in text
    stored = read_plan(str(tmp_path))
    assert stored is not None
    assert agreed_plan(fast, stored, str(tmp_path)) == fast
    assert agreed_plan(with_generator(speed="fast"), stored, str(tmp_path)).generator.offload == "none"
    with pytest.raises(UserError, match="different settings .generator.compile: True -> None, and 2 more"):
        agreed_plan(with_generator(), stored, str(tmp_path))
    with pytest.raises(UserError, match="generator.speed: 'fast' -> 'max'"):
        agreed_plan(with_generator(speed="max"), stored, str(tmp_path))
