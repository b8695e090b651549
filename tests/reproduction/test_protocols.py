"""The protocols, and the authors' settings on which they stand."""

from __future__ import annotations

import pytest

from syncclip.benchmarks.literature import DATASETS
from syncclip.recipe import Recipe
from syncclip.reproduction.protocols import PROTOCOLS, TRAINED, Protocol, find_protocol
from syncclip.reproduction.run import recipe_of
from syncclip.settings import UserError

AUTHORS = {  # data set: (epochs, w_sce, w_fs), as published
    "imagenet": (5, 0.5, 0.5),
    "caltech101": (20, 0.2, 0.5),
    "oxford_pets": (10, 0.1, 0.5),
    "stanford_cars": (20, 0.2, 0.5),
    "flowers102": (20, 1, 0.5),
    "food101": (5, 0.2, 0.5),
    "fgvc_aircraft": (10, 0.2, 2),
    "sun397": (5, 0.1, 0.1),
    "dtd": (10, 0.1, 1),
    "eurosat": (10, 0.1, 3.5),
    "ucf101": (10, 0.1, 0.5),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_each_data_set_has_the_settings_of_the_authors(name: str) -> None:
    recipe = Recipe.load(f"datasets/{name}")
    settings, training = recipe.methods.syncclip, recipe.training
    assert (training.epochs, settings.synthetic_weight, settings.alignment_weight) == AUTHORS[name]
    assert (settings.learning_rate, training.batch, recipe.benchmark.shots) == (0.0025, 8, 16)
    assert (training.warmup_epochs, training.warmup_rate, recipe.study.seeds) == (1, 1e-5, [1, 2, 3])
    assert (recipe.benchmark.name, recipe.backbone.name, recipe.backbone.pretrained) == (name, "ViT-B-16", "openai")


def test_the_protocols_train_on_the_eleven_data_sets() -> None:
    assert set(TRAINED) == set(AUTHORS)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_protocol_says_what_is_run_and_the_data_set_how(protocol: Protocol) -> None:
    for name in protocol.datasets:
        recipe = recipe_of(protocol, name, "/data")
        assert (recipe.name, recipe.benchmark.root) == (name, "/data")
        assert recipe.training.epochs == AUTHORS[name][0]
        assert recipe.study.seeds == [1, 2, 3]
        assert set(recipe.evaluation.transfer) <= set(DATASETS)


def test_few_shot_has_one_arm_a_method_and_number_of_shots() -> None:
    recipe = recipe_of(PROTOCOLS["few-shot"], "dtd", "/data")
    shots = {(arm.method, arm.overrides["benchmark.shots"]) for arm in recipe.study.arms if arm.trained}
    assert shots == {(method, k) for method in ("coop", "promptsrc", "syncclip") for k in (1, 2, 4, 8, 16)}
    assert recipe.benchmark.base == "all"


def test_what_imagenet_taught_is_tested_on_ten_others_and_on_four_variants() -> None:
    others = recipe_of(PROTOCOLS["cross-dataset"], "imagenet", "/data").evaluation.transfer
    assert sorted(others) == sorted(set(AUTHORS) - {"imagenet"})
    variants = recipe_of(PROTOCOLS["domain-generalisation"], "imagenet", "/data").evaluation.transfer
    assert sorted(variants) == sorted(set(DATASETS) - set(AUTHORS))


def test_protocols_that_share_runs_train_alike() -> None:
    for one, other in (("base-to-novel", "open-vocabulary"), ("cross-dataset", "domain-generalisation")):
        first, second = (recipe_of(PROTOCOLS[name], "imagenet", "/data") for name in (one, other))
        assert PROTOCOLS[one].runs == PROTOCOLS[other].runs
        same = {"evaluation": first.evaluation, "name": first.name}
        assert first == second.model_copy(update=same)


def test_the_command_line_wins_over_an_arms_own_values() -> None:
    recipe = recipe_of(PROTOCOLS["base-to-novel"], "dtd", "/data", overrides=["training.epochs=1"])
    assert recipe.training.epochs == 1
    coop = next(arm for arm in recipe.study.arms if arm.method == "coop")
    assert coop.overrides == {"training.batch": 32}


def test_some_methods_alone() -> None:
    recipe = recipe_of(PROTOCOLS["few-shot"], "dtd", "/data", ["zeroshot", "coop"])
    assert {arm.method for arm in recipe.study.arms} == {"zeroshot", "coop"}
    with pytest.raises(UserError, match=r"few-shot has no method 'cop'; did you mean 'coop'"):
        recipe_of(PROTOCOLS["few-shot"], "dtd", "/data", ["cop"])


def test_an_unknown_protocol_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no protocol 'base2novel'; did you mean 'base-to-novel'"):
        find_protocol("base2novel")
