"""Suggestions for unknown recipe keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.core.validation_errors import keys_of
from syncclip.recipe import reference
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.suggestions import SYNONYMS, suggestions

GUESSES = {
    "lr": "methods.syncclip.learning_rate",
    "learning_rate": "methods.syncclip.learning_rate",
    "learningrate": "methods.syncclip.learning_rate",
    "training.lr": "methods.syncclip.learning_rate",
    "training.learning_rate": "methods.syncclip.learning_rate",
    "optim.lr": "methods.syncclip.learning_rate",
    "methods.lr": "methods.syncclip.learning_rate",
    "syncclip.learning_rate": "methods.syncclip.learning_rate",
    "methods.ivpl.learning_rate": "methods.ivlp.learning_rate",
    "batch_size": "training.batch_size",
    "batchsize": "training.batch_size",
    "training.batch": "training.batch_size",
    "bs": "training.batch_size",
    "weight_decay": "training.weight_decay",
    "wd": "training.weight_decay",
    "momentum": "training.momentum",
    "epoch": "training.epochs",
    "epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "train.epochs": "training.epochs",
    "training.epoch": "training.epochs",
    "warmup": "training.warmup_epochs",
    "seed": "training.seed",
    "seeds": "study.seeds",
    "workers": "training.workers",
    "num_workers": "training.loader_processes",
    "gpus": "study.gpus",
    "model": "backbone.name",
    "backbone.model": "backbone.name",
    "arch": "backbone.name",
    "pretrained": "backbone.pretrained",
    "precision": "backbone.precision",
    "fp16": "backbone.precision",
    "extend": "extends",
    "shots": "dataset.shots",
    "n_shots": "dataset.shots",
    "training.shots": "dataset.shots",
    "num_images": "synthesis.images_per_class",
    "classes": "dataset.classnames",
    "data_root": "dataset.root",
    "prompt": "dataset.template",
    "ctx": "methods.syncclip.text_tokens",
    "n_ctx": "methods.syncclip.text_tokens",
    "ctx_init": "methods.syncclip.initial_words",
    "temperature": "methods.syncclip.temperature",
    "lora_rank": "methods.cliplora.rank",
    "steps": "synthesis.generator.steps",
    "guidance_scale": "synthesis.generator.guidance",
    "diffusion_model": "synthesis.generator.pipeline",
    "generator.seed": "synthesis.seed",
    "output": "storage.root",
    "output_dir": "storage.root",
}
"""Keys as users of other libraries type them, with the intended key."""


@pytest.mark.parametrize(("typed", "intended"), GUESSES.items())
def test_a_guessed_key_is_corrected_by_one_of_two_suggestions(typed: str, intended: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such key; did you mean ") as of_override:
        Recipe.load("travel", [f"{typed}=1"])
    section, _, name = typed.rpartition(".")
    file = tmp_path / "mine.yaml"
    for part in reversed(section.split(".") if section else []):
        name = f"{part}: {{{name}: 1}}" if ":" not in name else f"{part}: {{{name}}}"
    file.write_text(f"{name}\n" if ":" in name else f"{name}: 1\n")
    with pytest.raises(UserError, match="no such key; did you mean ") as of_file:
        Recipe.load(str(file))
    for error, origin in ((of_override, "command line"), (of_file, "mine.yaml")):
        assert str(error.value).startswith(f"{origin}: {typed}: ")
        offered = re.findall(r"'([^']+)'", str(error.value).partition("did you mean")[2])
        assert intended in offered and len(offered) <= 2


@pytest.mark.parametrize(
    ("method", "typed", "offered"),
    [
        ("coop", "training.learning_rate", ["methods.coop.learning_rate"]),
        ("mine:Method", "lr", ["methods.custom.learning_rate"]),
        ("coop", "methods.ivlp.lr", ["methods.ivlp.learning_rate"]),
        ("probe", "csc", ["methods.coop.class_specific", "methods.kgcoop.class_specific"]),
    ],
)
def test_settings_of_the_method_in_use_are_suggested(method: str, typed: str, offered: list[str]) -> None:
    from syncclip.recipe.recipe import suggest

    assert re.findall(r"'([^']+)'", suggest(typed, method=method)) == offered


def test_the_method_in_use_is_that_of_the_recipe() -> None:
    with pytest.raises(UserError, match=r"lr: no such key; did you mean 'methods\.coop\.learning_rate'\?"):
        Recipe.load("travel", ["training.method=coop", "lr=0.1"])
    with pytest.raises(UserError, match=r"did you mean 'methods\.coop\.learning_rate'\?"):
        Recipe.load("travel", ["training.method=coop"]).with_values({"training.learning_rate": 0.1})


def test_a_name_without_similar_keys_has_no_suggestion() -> None:
    assert suggestions("training.zzzz", keys_of(Recipe), "syncclip") == []


def test_synonyms_belong_to_settings() -> None:
    keys = {*reference.keys()}
    last_parts = {key.rpartition(".")[2] for key in keys if key.startswith("methods.")}
    assert [key for key in SYNONYMS if key not in keys | last_parts] == []
    assert [name for names in SYNONYMS.values() for name in names.split() if name in keys | last_parts] == []


def test_keys_of_settings_are_those_of_the_reference() -> None:
    described = {key.path for key in reference.explain("synthesis.prompts")} - {"synthesis.prompts"}
    listed = {*reference.keys()} - described - {"extends"}
    unlisted = {key for key in keys_of(Recipe) if key.startswith("synthesis.prompts.")}
    assert {*keys_of(Recipe)} - unlisted == {key for key in listed if "[" not in key}
