"""Recipes: precedence, inheritance, errors, and the hash of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from syncclip.core.settings import UserError
from syncclip.recipe.files import shipped
from syncclip.recipe.recipe import Recipe


def load_error(source: str, *overrides: str) -> str:
    with pytest.raises(UserError) as raised:
        Recipe.load(source, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text


def written(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_by_name_and_path(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == Path(name).name
    assert recipe == Recipe.load(f"recipes/{name}.yaml")


def test_overrides_take_precedence(tmp_path: Path) -> None:
    source = written(tmp_path, "training: {epochs: 3, batch_size: 8}")
    recipe = Recipe.load(source, ["training.epochs=5"])
    assert (recipe.training.epochs, recipe.training.batch_size) == (5, 8)


def test_the_default_name_is_that_of_the_file(tmp_path: Path) -> None:
    assert Recipe.load(written(tmp_path, "")).name == "mine"
    assert Recipe.load(written(tmp_path, "")).argument == "mine.yaml"
    assert Recipe.load(written(tmp_path, "name: other")).name == "other"
    for source in ("icons", "studies/table5_losses"):
        assert Recipe.load(source).argument == source


def test_positions_in_lists_start_at_zero() -> None:
    assert Recipe.load("icons", ["synthesis.filters.0.minimum=9"]).synthesis.filters[0].minimum == 9
    assert "synthesis.filters.7.minimum" in load_error("icons", "synthesis.filters.7.minimum=9")


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    written(tmp_path, "name: first\ntraining: {seed: 3, epochs: 4}\nsynthesis: {seed: '${training.seed}'}", "one.yaml")
    written(tmp_path, "extends: one.yaml\ntraining: {seed: 5}", "two.yaml")
    recipe = Recipe.load(written(tmp_path, "extends: two.yaml\ntraining: {batch_size: 8}"), ["training.epochs=2"])
    training = recipe.training
    assert (training.seed, training.epochs, training.batch_size, recipe.synthesis.seed) == (5, 2, 8, 5)
    assert recipe.name == "mine"


def test_later_extended_recipes_take_precedence(tmp_path: Path) -> None:
    written(tmp_path, "training: {seed: 3, epochs: 4}", "one.yaml")
    written(tmp_path, "name: other\ntraining: {seed: 4, batch_size: 8}", "two.yaml")
    recipe = Recipe.load(written(tmp_path, "extends: [one.yaml, two.yaml]\ntraining: {batch_size: 2}"))
    training = recipe.training
    assert (training.seed, training.epochs, training.batch_size, recipe.name) == (4, 4, 2, "mine")


def test_a_base_recipe_can_be_an_argument(tmp_path: Path) -> None:
    base = written(tmp_path, "training: {seed: 3, epochs: 4}", "one.yaml")
    recipe = Recipe.load(written(tmp_path, "training: {seed: 5}"), ["training.batch_size=2"], base=base)
    assert (recipe.training.seed, recipe.training.epochs, recipe.training.batch_size, recipe.name) == (5, 4, 2, "mine")


def test_cyclic_and_missing_inheritance_are_errors(tmp_path: Path) -> None:
    written(tmp_path, "extends: mine.yaml", "other.yaml")
    assert "extends: 'mine.yaml' also extends this recipe" in load_error(written(tmp_path, "extends: other.yaml"))
    assert "no such file" in load_error(written(tmp_path, "extends: missing.yaml"))


def test_a_stored_recipe_loads_as_an_equal_one_without_secrets(tmp_path: Path) -> None:
    recipe = Recipe.load("demo", ["training.epochs=7", "methods.syncclip.alignment_weight=0.3"])
    assert Recipe.load(written(tmp_path, recipe.to_yaml())) == recipe
    options = "{key: AKIA, secret: xyz, anon: false, client_kwargs: {aws_session_token: t, region_name: eu}}"
    text = Recipe.load("icons", [f"storage.options={options}"]).to_yaml()
    assert yaml.safe_load(text)["storage"]["options"] == {"anon": False, "client_kwargs": {"region_name": "eu"}}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "synthesis: {images_per_clas: 3}",
            ": synthesis.images_per_clas: no such key; did you mean 'synthesis.images_per_class'?",
        ),
        ("trainin: {}", ": trainin: no such key; did you mean 'training'?"),
        ("a: [1,\n", ", line 2: not readable as YAML"),
        ("training: {epochs: 1}\ntraining: {epochs: 2}", ", line 2: not readable as YAML"),
    ],
)
def test_errors_of_a_file_contain_its_name(tmp_path: Path, text: str, error: str) -> None:
    assert load_error(written(tmp_path, text)).startswith(f"mine.yaml{error}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "synthesis.images_per_clas=3",
            "synthesis.images_per_clas: no such key; did you mean 'synthesis.images_per_class'?",
        ),
        ("training.epochs=many", "training.epochs: 'many' is not allowed; it must be a whole number"),
        ("training.epochs=1.5", "training.epochs: 1.5 is not allowed; it must be a whole number"),
        ("training.epochs=0", "training.epochs: 0 is not allowed; it must be at least 1"),
        ("training.epochs=", "training.epochs: None is not allowed; it must be a whole number"),
        (
            "training.data=fake",
            "training.data: 'fake' is not allowed; it must be 'real', 'synthetic', 'both' or 'all_real'",
        ),
        (
            "dataset=dtd",
            "dataset: 'dtd' is not allowed; it must be a section with its own keys, such as 'dataset.name'",
        ),
        (
            "training.learning_rate=0.01",
            "training.learning_rate: no such key; did you mean 'methods.syncclip.learning_rate'?",
        ),
        ("training.method=synclip", "training.method: unknown method 'synclip'; did you mean 'syncclip'?"),
        (
            "study.configurations=[{methd: ivlp}]",
            "study.configurations[0].methd: no such key; did you mean 'study.configurations[0].method'? "
            "(and 1 more error)",
        ),
        ("synthesis.filters=[{name: blanc}]", "synthesis.filters[0].name: there is no 'blanc'; did you mean 'blank'?"),
        (
            "synthesis.filters=[{name: clip_score, topp: 3}]",
            "synthesis.filters[0].topp: no such key; did you mean 'synthesis.filters[0].top'?",
        ),
        (
            "study.configurations=[{method: ivlp, data: real images}]",
            "study.configurations[0].data: 'real images' is not allowed; it must be 'real', 'synthetic', 'both' or "
            "'all_real'",
        ),
        (
            "training.data=bth",
            "training.data: 'bth' is not allowed; it must be 'real', 'synthetic', 'both' or 'all_real' (did you mean "
            "'both'?)",
        ),
        (
            "dataset.base=half",
            "dataset.base: 'half' is not allowed; it must be 'first', 'random' or 'all', or a list, such as [half]",
        ),
        (
            "dataset.base=[1.5]",
            "dataset.base[0]: 1.5 is not allowed; it must be a whole number, or a string (quote it in YAML)",
        ),
        (
            "synthesis.filters=[blnk]",
            "synthesis.filters[0]: 'blnk' is not allowed; it must be a section with its own keys, such as {name: "
            "blank}",
        ),
        ("training.trackers=wandb", "training.trackers: 'wandb' is not allowed; it must be a list, such as [wandb]"),
        ("training.epochs = 2", "invalid override 'training.epochs = 2'; expected section.key=value without spaces"),
        (
            "study.configurations=[{method: ivlp, name: a/b}]",
            "study.configurations[0]: configuration name 'a/b' is not a valid folder name; use letters, digits, '-' "
            "and '_'",
        ),
        (
            "study.configurations=[{method: ivlp, search_space: {training.epochs: []}}]",
            "study.configurations[0].search_space.training.epochs: [] is too short; specify at least 1 value",
        ),
        ("study.images_per_class=[0]", "study.images_per_class[0]: 0 is not allowed; it must be at least 1"),
        ("study.forecast=[4, 0]", "study.forecast[1]: 0 is not allowed; it must be at least 1"),
        ("study.seeds=3", "study.seeds: 3 is not allowed; it must be a list, such as [3]"),
        ("training.epochs=[1", "training.epochs: '[1' is not valid YAML; quote the value"),
        ("epochs", "invalid override 'epochs'; expected section.key=value without spaces"),
    ],
)
def test_errors_of_an_override_contain_key_reason_and_fix(override: str, expected: str) -> None:
    assert load_error("icons", override) == f"command line: {expected}"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["training.epochs.x=3"], "command line: training.epochs"),
        (["training.workers=3", "training.batch_size=16"], "command line: training.workers is 3, but a batch of 16"),
        (["training.workers=5", "training.batch_size=4"], "command line: training.workers is 5, but a batch of 4"),
        (["methods.syncclip.domain_tokens=9"], "methods.syncclip: domain_tokens is 9"),
        (["study.configurations=[{method: ivlp}, {method: ivlp}]"], "two configurations are named 'ivlp-both'"),
    ],
)
def test_invalid_combinations_are_errors(overrides: list[str], error: str) -> None:
    assert error in load_error("icons", *overrides)


def test_the_hash_depends_only_on_what_determines_a_run() -> None:
    expected = Recipe.load("icons").hash
    training = ("training.seed=9", "training.epochs=9", "training.data=real")
    for override in (*training, "dataset.shots=3", "backbone.precision=bf16", "methods.syncclip.learning_rate=0.01"):
        assert Recipe.load("icons", [override]).hash != expected, override
    training = ("training.synthetic=/elsewhere", "training.checkpoint_every=7", "training.keep_best=loss")
    training += ("training.workers=2", "training.accumulation_steps=2")
    others = ("storage.root=/elsewhere", "study.seeds=[9]", "evaluation.split=val", "synthesis.actors=2", "name=other")
    for override in (*training, *others, "methods.ivlp.learning_rate=0.01"):
        assert Recipe.load("icons", [override]).hash == expected, override


@pytest.mark.parametrize("override", ["training.workers=2", "training.accumulation_steps=2"])
def test_the_hash_of_a_method_with_dropout_depends_on_the_split_of_a_step(override: str) -> None:
    dropping, plain = (["training.method=cliplora", f"methods.cliplora.dropout={share}"] for share in (0.25, 0))
    assert Recipe.load("icons", [*dropping, override]).hash != Recipe.load("icons", dropping).hash
    assert Recipe.load("icons", [*plain, override]).hash == Recipe.load("icons", plain).hash


def test_with_values_returns_a_validated_copy() -> None:
    recipe = Recipe.load("icons")
    assert recipe.with_values({"training.seed": 5}).training.seed == 5
    assert recipe.training.seed == 1
    with pytest.raises(UserError, match="no such key"):
        recipe.with_values({"training.sed": 5})


def test_the_warmup_warning_lists_its_configurations() -> None:
    configurations = (
        "study.configurations=[{method: zeroshot}, {method: ivlp, data: real}, {method: ivlp, data: both},"
        " {method: syncclip, name: longer, overrides: {training.epochs: 2}}, {method: promptkd, data: both},"
        " {method: classmeans}]"
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
def test_shipped_recipes_cause_no_warnings(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.warmup_warning is None and recipe.warmup_warnings_of_configurations() == []


@pytest.mark.parametrize("key", ["evaluation.test_domains", "methods.syncclip.test_domain"])
@pytest.mark.parametrize(
    ("data", "domain", "choice"),
    [
        ("real", "synthetic", "use 'real'"),
        ("all_real", "both", "use 'real'"),
        ("synthetic", "both", "use 'real' or 'synthetic'"),
    ],
)
def test_untrained_test_domains_are_errors(key: str, data: str, domain: str, choice: str) -> None:
    value = [domain] if key.startswith("evaluation") else domain
    trained = rf"'syncclip' trained on '{data}' has no '{domain}' prompts; {choice}"
    with pytest.raises(UserError, match=rf"{re.escape(key)}: {trained}$"):
        Recipe.load("icons", [f"training.data={data}"]).with_values({key: value})
    assert Recipe.load("icons").with_values({key: value})


def test_test_domains_require_domain_specific_prompts() -> None:
    with pytest.raises(UserError, match="'ivlp' has no domain-specific prompts; remove this setting"):
        Recipe.load("icons", ["training.method=ivlp", "evaluation.test_domains=[real]"])
