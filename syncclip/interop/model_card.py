"""The model card of learned prompts: what they are, what they were learned for, and how accurate they are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import yaml
from torch import Tensor

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.text import counted
from syncclip.datasets import Dataset
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.interop.layouts import Layout
from syncclip.methods import find_method
from syncclip.recipe.recipe import Recipe
from syncclip.training.run_folder import RunRecord

CARD = "README.md"


def model_card(
    recipe: Recipe,
    name: str,
    dataset: Dataset,
    learned: Mapping[str, Tensor],
    results: Mapping[str, Any],
    record: RunRecord | None = None,
    layout: Layout | None = None,
) -> str:
    """The card of a run, in Markdown with the YAML front matter of the Hugging Face hub.

    Args:
        name: of the run.
        learned: its prompts, by our names.
        results: as in `results.json`; empty where the run was not evaluated.
        record: of the run, which has the origin of imported prompts.
        layout: of the checkpoint for published code beside the card; None where there is none.
    """
    idea = (inspect.getdoc(find_method(recipe.training.method)) or "").partition("\n")[0]
    values = sum(tensor.numel() for tensor in learned.values())
    backbone = ", ".join(filter(None, (recipe.backbone.name, recipe.backbone.pretrained)))
    facts = {
        "method": f"`{recipe.training.method}`, {idea}",
        "backbone": f"{backbone}, frozen",
        "learned": f"{values:,} values in {counted(len(learned), 'tensor')}, `prompts.safetensors`",
        "from": record.origin if record is not None and record.origin else _images(recipe),
        "dataset": f"{dataset.name}, {len(dataset.classnames)} classes, {len(dataset.base)} of them base",
    }
    novel = [dataset.classnames[label] for label in dataset.novel]
    sections = [
        f"---\n{_head(recipe, name, dataset, results)}---\n\n# {name}",
        "Prompts for a frozen CLIP.",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]),
        *(f"> {note}" for note in (record.notes if record is not None else ())),
        f"## Results\n\n{_results(results)}",
        "## Use\n\nThis folder is a run: `syncclip evaluate .` measures it again, `syncclip prompts show .` lists the "
        "words nearest to each learned vector of the text.",
        *([_checkpoint(recipe, layout, learned)] if layout is not None else []),
        f"## Classes\n\nBase: {', '.join(dataset.classnames[: len(dataset.base)])}.\n\nNovel: {', '.join(novel)}.",
        f"## Recipe\n\n```yaml\n{recipe.to_yaml()}```",
    ]
    return "\n\n".join(sections) + "\n"


def _images(recipe: Recipe) -> str:
    """What the prompts were learned from."""
    amount = recipe.training.images_per_class
    kinds = {
        "real": f"{recipe.dataset.shots} real images of each base class",
        "synthetic": f"{amount} synthetic ones of each class" if amount else "synthetic ones",
    }
    return " and ".join(text for kind, text in kinds.items() if recipe.training.data in (kind, "both"))


def _head(recipe: Recipe, name: str, dataset: Dataset, results: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset.name,
            dataset_name=dataset.name,
            dataset_split=results["split"],
            metric_type="expected_calibration_error" if key == "ece" else "accuracy",
            metric_name=f"{heading}, %",
            metric_value=round(results[key], 4),
        )
        for key, heading in METRIC_HEADINGS.items()
        if results.get(key) is not None
    ]
    data = ModelCardData(
        model_name=name,
        eval_results=found or None,
        library_name="syncclip",
        pipeline_tag="zero-shot-image-classification",
        base_model=_base_model(recipe.backbone),
        tags=["clip", "open_clip", "prompt-learning", recipe.training.method],
    )
    return f"{data.to_yaml()}\n"


def _base_model(backbone: BackboneSettings) -> str | None:
    """The hub's name of the weights, if they are there."""
    import open_clip

    if backbone.name.startswith("hf-hub:"):
        return backbone.name.removeprefix("hf-hub:")
    published = open_clip.get_pretrained_cfg(backbone.name.replace("/", "-"), backbone.pretrained or "")
    return str(published["hf_hub"]).strip("/") if published.get("hf_hub") else None


def _results(results: Mapping[str, Any]) -> str:
    there = [
        (heading, f"{results[key]:.2f}") for key, heading in METRIC_HEADINGS.items() if results.get(key) is not None
    ]
    if not there:
        return "Not evaluated yet."
    headings, values = (" | ".join(cells) for cells in zip(*there, strict=True))
    return (
        f"On {results['counts']['all']:,} images of the {results['split']} split, in %. Open: among all classes; "
        f"otherwise among those of the image's half.\n\n| {headings} |\n{'|---' * len(there)}|\n| {values} |"
    )


def _checkpoint(recipe: Recipe, layout: Layout, learned: Mapping[str, Tensor]) -> str:
    """What the folder for the published code has, what it lacks, and how to load it there."""
    settings = recipe.methods.of(recipe.training.method)
    values = {**settings.model_dump(mode="json"), **{key: read(learned) for key, read in layout.shape.items()}}
    config = {f"TRAINER.{theirs}": values[ours] for theirs, ours in layout.config.items()}
    left_out = ["the state of optimiser and scheduler, so training can't be resumed from it", *layout.left_out]
    epochs = recipe.training.epochs
    return (
        f"## With the published code\n\n`{layout.folder}/` is for [{layout.repository}](https://github.com/"
        f"{layout.repository}): evaluate there with this folder as `--model-dir`, `--load-epoch {epochs}`, and with "
        "these settings, which give its model the same shape:\n\n"
        f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```\n\n"
        "It has the learned parameters and the words of all classes around them, in single precision. It lacks "
        f"{'; '.join(left_out)}."
    )
