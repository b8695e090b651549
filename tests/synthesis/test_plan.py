from __future__ import annotations

import subprocess
import sys
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
from syncclip.synthesis.plan import MAX_IMAGES, Plan, agreed_plan, differences, draft, read_plan, seed_of, write_plan
from syncclip.synthesis.settings import MAX_ATTEMPTS, SynthesisSettings


def agree(asked: Plan, url: str) -> Plan:
    stored = read_plan(url)
    return write_plan(asked if stored is None else agreed_plan(asked, stored, url), url)


def plan_of(classes: int = 3, images: int = 4, **settings: Any) -> Plan:
    settings = {"generator": {"batch_size": 1}, **settings}
    return draft(
        SynthesisSettings(images_per_class=images, **settings),
        dataset="tiny",
        classnames=[f"class {label}" for label in range(classes)],
        template="a photo of a {}.",
    )


@st.composite
def plans(generate: st.DrawFn) -> Plan:
    classes, images = generate(st.integers(1, 7)), generate(st.integers(1, 9))
    prompts = generate(st.sampled_from([{}, MIXED])) if classes > 1 else {}
    plan = plan_of(classes, images, shard_size=generate(st.integers(1, 20)), prompts=prompts)
    for more in generate(st.lists(st.integers(1, 9), max_size=3)):
        plan = plan.extended(plan.images_per_class + more)
    return plan


@given(plans())
def test_the_shards_hold_every_sample_once_and_in_order(plan: Plan) -> None:
    indices = [index for shard in plan.shards() for index in plan.shard_range(shard)]
    assert indices == list(range(plan.total))
    assert all(1 <= len(plan.shard_range(shard)) <= plan.shard_size for shard in plan.shards())


@given(plans(), st.integers(1, 9))
def test_a_longer_plan_only_adds_shards_and_keeps_every_entry(plan: Plan, more: int) -> None:
    longer = plan.extended(plan.images_per_class + more)
    assert [longer.shard_range(shard) for shard in plan.shards()] == [
        plan.shard_range(shard) for shard in plan.shards()
    ]
    assert [longer.entry(index) for index in range(plan.total)] == [plan.entry(index) for index in range(plan.total)]


MIXED = {
    "classes": {"class 1": ["what is rare"]},
    "strategies": [
        {"name": "template", "templates": ["a {}.", "many {}s."], "weight": 2},
        {"name": "combinations", "sentence": "a {colour} {}", "lists": {"colour": ["red", "blue", "green"]}},
    ],
}


@given(plans())
def test_its_texts_are_the_prompts_of_its_images_each_once(plan: Plan) -> None:
    texts = plan.texts(1000)
    assert len(texts) == len({*texts})
    assert {*texts} == {*plan.prompts_of(range(plan.total))}
    assert plan.texts(len(texts) - 1) == []


@given(plans(), st.data())
def test_every_prefix_is_balanced_over_the_classes(plan: Plan, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, plan.total))
    entry = plan.entry(length - 1)
    assert (entry.label, entry.image) == ((length - 1) % plan.classes, (length - 1) // plan.classes)
    counts = Counter(plan.entry(index).label for index in range(length))
    assert max(counts.values()) - min(counts[label] for label in range(plan.classes)) <= 1


@given(plans(), st.data())
def test_the_shards_of_fewer_images_are_the_shortest_prefix_that_holds_them(plan: Plan, data: st.DataObject) -> None:
    images = data.draw(st.integers(1, plan.images_per_class))
    wanted = images * plan.classes
    ends = [plan.shard_range(shard).stop for shard in plan.shards()]
    assert plan.shards(images) == range(next(i for i, end in enumerate(ends) if end >= wanted) + 1)


@given(plans(), st.data())
def test_prompts_and_seeds_of_many_samples_are_those_of_each_entry(plan: Plan, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.total))
    indices = range(start, data.draw(st.integers(start, plan.total)))
    attempt = data.draw(st.integers(0, MAX_ATTEMPTS - 1))
    entries = [plan.entry(index, attempt) for index in indices]
    assert plan.prompts_of(indices) == [entry.prompt for entry in entries]
    assert plan.seeds_of(indices, attempt).tolist() == [entry.seed for entry in entries]


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, MAX_IMAGES - 1), st.integers(0, MAX_ATTEMPTS - 1)), unique=True),
)
def test_no_two_attempts_of_a_set_share_a_seed(seed: int, attempts: list[tuple[int, int]]) -> None:
    seeds = {seed_of(seed, index, attempt) for index, attempt in attempts}
    assert len(seeds) == len(attempts) and all(0 <= one < 2**32 for one in seeds)


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    code = "from syncclip.synthesis.plan import seed_of; print(seed_of(0, 0, 0), seed_of(0, 1, 0), seed_of(1, 0, 2))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [int(word) for word in printed] == [SEEDS[0], SEEDS[1], SEEDS[2]]


SEEDS = (1242806397, 2044520436, 251047857)


def test_a_shard_holds_whole_rounds_of_at_least_64_images_by_default() -> None:
    assert plan_of(classes=88).shard_size == 88
    assert plan_of(classes=10).shard_size == 70
    assert plan_of(classes=2, generator={"batch_size": 100}).shard_size == 100


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = plan_of()
    assert agree(plan, str(tmp_path)) == plan == read_plan(str(tmp_path))


def test_asking_for_more_adds_an_amount_and_asking_for_fewer_changes_nothing(tmp_path: Path) -> None:
    for images, amounts in ((3, (3,)), (16, (3, 16)), (4, (3, 16))):
        assert agree(plan_of(images=images), str(tmp_path)).amounts == amounts


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"classes": 4}, "classnames is '3 names' there and '4 names' here"),
        ({"generator": {"batch_size": 1, "steps": 5}}, "generator.steps is 20 there and 5 here"),
        ({"filters": [{"name": "blank", "minimum": 7.0}]}, "filters.blank.minimum is 4.0 there and 7.0 here"),
        ({"filters": []}, "filters is ['blank'] there and [] here"),
    ],
)
def test_another_plan_in_the_same_folder_is_an_error_with_the_difference(
    tmp_path: Path, change: dict[str, Any], difference: str
) -> None:
    agree(plan_of(), str(tmp_path))
    with pytest.raises(UserError) as failure:
        agree(plan_of(**change), str(tmp_path))
    assert difference in str(failure.value)


def test_unknown_weights_agree_with_any_but_others_do_not() -> None:
    plan = plan_of()
    first, second = (plan.model_copy(update={"weights": weights}) for weights in ("a1", "b2"))
    assert differences(first, plan) == []
    assert differences(first, second) == ["weights is 'a1' there and 'b2' here"]


@pytest.mark.parametrize("text", ["{}", '{"format": 1}', '{"from a newer version": 2}'])
def test_an_unreadable_plan_is_a_one_line_error(tmp_path: Path, text: str) -> None:
    storage.write_with_checksum(str(tmp_path / "plan.json"), text.encode())
    with pytest.raises(UserError, match="cannot be read by this version of syncclip"):
        agree(plan_of(), str(tmp_path))


def test_the_identity_of_a_plan_of_default_settings_is_stable() -> None:
    assert digest(plan_of().model_dump(mode="json")) == "0f8577405c5677da", (
        "runs on sets that are there would be taken for others"
    )


def test_the_recipes_backbone_judges_where_the_filter_names_none() -> None:
    settings = SynthesisSettings.model_validate({"filters": [{"name": "clip_score", "top": 1}]})
    judge = BackboneSettings(name="ViT-B-16", pretrained="openai")
    plan = draft(settings, dataset="tiny", classnames=["a", "b"], template="{}", backbone=judge)
    assert plan.model_dump()["filters"][0]["backbone"]["name"] == "ViT-B-16"


def test_no_classes_and_too_many_images_are_errors() -> None:
    with pytest.raises(UserError, match="has no classes"):
        plan_of(classes=0)
    with pytest.raises(UserError, match="generate several"):
        plan_of(images=MAX_IMAGES)


def test_a_plan_keeps_its_speed_and_not_what_only_the_machine_needs(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    def asked(**generator: Any) -> Plan:
        return make_plan(1, num_gpus=1, generator={"batch_size": 4, **generator})

    fast = asked(speed="fast", compile_cache="s3://bucket/compiled", offload="model")
    write_plan(fast, str(tmp_path))
    text = (tmp_path / "plan.json").read_text()
    assert '"speed": "fast"' in text and '"dtype": "bf16"' in text
    assert "compile_cache" not in text and "offload" not in text
    stored = read_plan(str(tmp_path))
    assert stored is not None
    assert agreed_plan(fast, stored, str(tmp_path)) == fast
    assert agreed_plan(asked(speed="fast"), stored, str(tmp_path)).generator.offload == "none"
    with pytest.raises(UserError, match="another plan: generator.compile is True there and None here .and 2 more"):
        agreed_plan(asked(), stored, str(tmp_path))
    with pytest.raises(UserError, match="generator.speed is 'fast' there and 'max' here"):
        agreed_plan(asked(speed="max"), stored, str(tmp_path))
