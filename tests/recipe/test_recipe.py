from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from syncclip.core.settings import UserError
from syncclip.recipe.files import shipped
from syncclip.recipe.recipe import Recipe


def refusal(source: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        Recipe.load(source, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_by_name(name: str) -> None:
    assert Recipe.load(name).name == Path(name).name


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    source = written(tmp_path, "training: {epochs: 3, batch_size: 8}")
    recipe = Recipe.load(source, ["training.epochs=5"])
    assert (recipe.training.epochs, recipe.training.batch_size) == (5, 8)


def test_a_recipe_is_called_by_its_file_unless_it_has_a_name(tmp_path: Path) -> None:
    assert Recipe.load(written(tmp_path, "")).name == "mine"
    assert Recipe.load(written(tmp_path, "name: other")).name == "other"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("0.5", 0.5), ("2", 2.0)],
)
def test_values_are_read_as_yaml(text: str, value: float) -> None:
    assert Recipe.load("icons", [f"methods.ivlp.learning_rate={text}"]).methods.ivlp.learning_rate == value


def test_places_in_lists_are_counted_from_zero() -> None:
    assert Recipe.load("icons", ["synthesis.filters.0.minimum=9"]).synthesis.filters[0].minimum == 9
    assert "synthesis.filters.7.minimum" in refusal("icons", "synthesis.filters.7.minimum=9")


def test_a_recipe_can_extend_another(tmp_path: Path) -> None:
    written(tmp_path, "name: first\ntraining: {seed: 3, epochs: 4}\nsynthesis: {seed: '${training.seed}'}", "one.yaml")
    written(tmp_path, "extends: one.yaml\ntraining: {seed: 5}", "two.yaml")
    recipe = Recipe.load(written(tmp_path, "extends: two.yaml\ntraining: {batch_size: 8}"), ["training.epochs=2"])
    training = recipe.training
    assert (training.seed, training.epochs, training.batch_size, recipe.synthesis.seed) == (5, 2, 8, 5)
    assert recipe.name == "mine"


def test_of_several_extended_recipes_the_later_ones_win(tmp_path: Path) -> None:
    written(tmp_path, "training: {seed: 3, epochs: 4}", "one.yaml")
    written(tmp_path, "name: other\ntraining: {seed: 4, batch_size: 8}", "two.yaml")
    recipe = Recipe.load(written(tmp_path, "extends: [one.yaml, two.yaml]\ntraining: {batch_size: 2}"))
    training = recipe.training
    assert (training.seed, training.epochs, training.batch_size, recipe.name) == (4, 4, 2, "mine")


def test_a_recipe_can_be_laid_over_another(tmp_path: Path) -> None:
    base = written(tmp_path, "training: {seed: 3, epochs: 4}", "one.yaml")
    recipe = Recipe.load(written(tmp_path, "training: {seed: 5}"), ["training.batch_size=2"], base=base)
    assert (recipe.training.seed, recipe.training.epochs, recipe.training.batch_size, recipe.name) == (5, 4, 2, "mine")


def test_extending_in_a_circle_or_nothing_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "extends: mine.yaml", "other.yaml")
    assert "extends: 'mine.yaml' extends it in turn" in refusal(written(tmp_path, "extends: other.yaml"))
    assert "no such file" in refusal(written(tmp_path, "extends: nowhere.yaml"))


def test_shipped_recipes_of_a_folder_are_found_by_name_and_by_path() -> None:
    by_name = Recipe.load("studies/table5_losses")
    assert by_name == Recipe.load("recipes/studies/table5_losses.yaml")
    assert by_name.name == "table5_losses"


def test_a_recipe_knows_how_a_command_finds_it(tmp_path: Path) -> None:
    for source in ("icons", "studies/table5_losses"):
        assert Recipe.load(source).argument == source
    assert Recipe.load(written(tmp_path, "")).argument == "mine.yaml"


def test_the_resolved_copy_loads_as_an_equal_recipe(tmp_path: Path) -> None:
    recipe = Recipe.load("demo", ["training.epochs=7", "methods.syncclip.alignment_weight=0.3"])
    assert Recipe.load(written(tmp_path, recipe.to_yaml())) == recipe


def test_the_resolved_copy_holds_no_secrets() -> None:
    options = "{key: AKIA, secret: xyz, anon: false, client_kwargs: {aws_session_token: t, region_name: eu}}"
    text = Recipe.load("icons", [f"storage.options={options}"]).to_yaml()
    assert yaml.safe_load(text)["storage"]["options"] == {"anon": False, "client_kwargs": {"region_name": "eu"}}


def test_an_unknown_key_of_a_file_is_told_with_the_nearest(tmp_path: Path) -> None:
    source = written(tmp_path, "synthesis: {images_per_clas: 3}", "icons.yaml")
    assert refusal(source) == "icons.yaml: synthesis.images_per_clas: no such key; did you mean 'images_per_class'?"


def test_an_unknown_key_of_the_command_line_is_told_as_such() -> None:
    expected = "command line: synthesis.images_per_clas: no such key; did you mean 'images_per_class'?"
    assert refusal("icons", "synthesis.images_per_clas=3") == expected


def test_an_unknown_section_is_told_with_the_nearest(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "trainin: {}")) == "mine.yaml: trainin: no such key; did you mean 'training'?"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=many", "training.epochs: 'many' is not allowed; it must be a whole number"),
        ("training.epochs=1.5", "training.epochs: 1.5 is not allowed; it must be a whole number"),
        ("training.epochs=0", "training.epochs: 0 is not allowed; it must be at least 1"),
        ("training.epochs=", "training.epochs: None is not allowed; it must be a whole number"),
        (
            "training.data=fake",
            "training.data: 'fake' is not allowed; it must be 'real', 'synthetic', 'both' or 'all_real'",
        ),
        ("training=3", "training: 3 is not allowed; it must be a section with keys of its own"),
        ("training.epochs.x=3", "training.epochs: {'x': 3} is not allowed; it must be a whole number"),
        ("training.method=synclip", "training.method: there is no method 'synclip'; did you mean 'syncclip'?"),
        (
            "study.configurations=[{methd: ivlp}]",
            "study.configurations[0].methd: no such key; did you mean 'method'? (and 1 more)",
        ),
        ("synthesis.filters=[{name: blanc}]", "synthesis.filters[0].name: there is no 'blanc'; did you mean 'blank'?"),
        (
            "synthesis.filters=[{name: clip_score, topp: 3}]",
            "synthesis.filters[0].topp: no such key; did you mean 'top'?",
        ),
        (
            "study.configurations=[{method: ivlp, data: real images}]",
            "study.configurations[0].data: 'real images' is not allowed; it must be 'real', 'synthetic', 'both' or "
            "'all_real'",
        ),
        (
            "study.configurations=[{method: ivlp, name: a/b}]",
            "study.configurations[0]: configuration name 'a/b' is not a folder name; use letters, digits, '-' and '_'",
        ),
        (
            "study.configurations=[{method: ivlp, search_space: {training.epochs: []}}]",
            "study.configurations[0].search_space.training.epochs: [] is too short; give at least 1",
        ),
        ("study.images_per_class=[0]", "study.images_per_class[0]: 0 is not allowed; it must be at least 1"),
        ("study.forecast=[4, 0]", "study.forecast[1]: 0 is not allowed; it must be at least 1"),
        ("study.seeds=3", "study.seeds: 3 is not allowed; it must be a list, such as [1, 2]"),
        ("training.epochs=[1", "training.epochs: '[1' is not readable as YAML; quote it"),
        ("epochs", "invalid override 'epochs'; expected section.key=value"),
    ],
)
def test_wrong_values_are_refused_with_key_reason_and_remedy(override: str, expected: str) -> None:
    if override.startswith("training.epochs.x"):
        assert refusal("icons", override).startswith("command line: training.epochs")
    else:
        assert refusal("icons", override) == f"command line: {expected}"


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["synthesis.images_per_class=0"], "synthesis.images_per_class: 0 is not allowed; it must be at least 1"),
        (["training.workers=3", "training.batch_size=16"], "command line: training.workers is 3, but a batch of 16"),
        (["training.workers=5", "training.batch_size=4"], "command line: training.workers is 5, but a batch of 4"),
        (["methods.syncclip.domain_tokens=9"], "methods.syncclip: domain_tokens is 9"),
        (["study.configurations=[{method: ivlp}, {method: ivlp}]"], "two configurations are named 'ivlp-both'"),
    ],
)
def test_impossible_combinations_are_refused(overrides: list[str], part: str) -> None:
    assert part in refusal("icons", *overrides)


def test_an_unknown_recipe_is_told_with_the_nearest() -> None:
    assert "did you mean 'icons'?" in refusal("icon")


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: [1,\n", "mine.yaml, line 2"), ("training: {epochs: 1}\ntraining: {epochs: 2}", "mine.yaml, line 2")],
)
def test_broken_yaml_is_told_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    assert refusal(written(tmp_path, text)).startswith(f"{place}: not readable as YAML")


@pytest.mark.parametrize(
    "override",
    [
        "training.seed=9",
        "training.epochs=9",
        "dataset.shots=3",
        "backbone.precision=bf16",
        "methods.syncclip.learning_rate=0.01",
        "training.data=real",
    ],
)
def test_what_decides_a_run_changes_its_hash(override: str) -> None:
    assert Recipe.load("icons", [override]).hash != Recipe.load("icons").hash


@pytest.mark.parametrize(
    "override",
    [
        "storage.root=/elsewhere",
        "study.seeds=[9]",
        "evaluation.split=val",
        "methods.ivlp.learning_rate=0.01",
        "training.synthetic=/elsewhere",
        "training.checkpoint_every=7",
        "training.keep_best=loss",
        "training.workers=2",
        "training.accumulation_steps=2",
        "synthesis.actors=2",
        "name=other",
    ],
)
def test_what_does_not_decide_a_run_leaves_its_hash(override: str) -> None:
    assert Recipe.load("icons", [override]).hash == Recipe.load("icons").hash


@pytest.mark.parametrize("override", ["training.workers=2", "training.accumulation_steps=2"])
def test_how_a_step_is_split_decides_the_run_of_a_method_that_draws_in_it(override: str) -> None:
    dropping, plain = (["training.method=cliplora", f"methods.cliplora.dropout={share}"] for share in (0.25, 0))
    assert Recipe.load("icons", [*dropping, override]).hash != Recipe.load("icons", dropping).hash
    assert Recipe.load("icons", [*plain, override]).hash == Recipe.load("icons", plain).hash


def test_with_values_gives_a_checked_copy() -> None:
    recipe = Recipe.load("icons")
    assert recipe.with_values({"training.seed": 5}).training.seed == 5
    assert recipe.training.seed == 1
    with pytest.raises(UserError, match="no such key"):
        recipe.with_values({"training.sed": 5})


def test_each_configuration_that_is_all_warm_up_is_named() -> None:
    configurations = (
        "study.configurations=[{method: zeroshot}, {method: ivlp, data: real}, {method: ivlp, data: both},"
        " {method: syncclip, name: longer, overrides: {training.epochs: 2}}, {method: promptkd, data: both}]"
    )
    recipe = Recipe.load(
        "icons", ["training.epochs=1", "training.method=zeroshot", "training.data=real", configurations]
    )
    assert recipe.warmup_warning is None
    warnings = recipe.warmup_warnings_of_configurations()
    assert len(warnings) == 1
    assert warnings[0].startswith("ivlp-real, ivlp-both: training.epochs=1 is all warm-up")


@pytest.mark.nightly
@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_warned_about_nowhere(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.warmup_warning is None and recipe.warmup_warnings_of_configurations() == []
