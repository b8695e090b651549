"""Export runs with a model card and a checkpoint for the method's published code."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from torch import Tensor

from syncclip import storage
from syncclip.clip.backbone import EMBEDDED
from syncclip.core.settings import UserError
from syncclip.core.text import counted, markdown_text
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.evaluation.predict import RESULTS, read_results
from syncclip.interop.dassl import write_checkpoint
from syncclip.interop.layouts import LAYOUTS, FixedWords, Layout
from syncclip.methods import find_method
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import CLASSES, RunClasses, build_trained, clip_of
from syncclip.runs.resolve import finished_run
from syncclip.storage.exports import exporting
from syncclip.storage.urls import absolute
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder, RunRecord

CARD = "README.md"


@dataclass(frozen=True)
class ExportedRun:
    """Paths or URLs of an exported run; `checkpoint` is None if the method has no published code."""

    url: str
    card: str
    checkpoint: str | None


def export_prompts(run: str, out: str | None = None) -> ExportedRun:
    """Export a finished run with a model card and a checkpoint for the method's published code.

    The export in `out` is a run folder with the recipe, prompts, record and results. The export also contains the model
    card, `README.md`, and a checkpoint folder for the published code. The checkpoint folder contains the learned
    parameters and fixed token embeddings, in single precision, stored as both the last and the best checkpoint. By
    default, `out` is the run's own folder.

    Raises:
        UserError: the run is not finished, its method has no learned parameters, the published code does not support
            the run, or `out` contains a different run.
    """
    recipe, folder = finished_run(run)
    name = recipe.training.method
    if not recipe.methods.of(name).data:
        raise UserError(f"{folder.url}: method {name!r} has no learned parameters; export a run of a different method")
    out, record = absolute(out or folder.url), folder.record()
    RunFolder(out, folder.name, record.recipe_hash if record is not None else recipe.hash).open()
    method, classes = build_trained(recipe, folder)
    learned = {key: tensor.detach() for key, tensor in method.state_dict().items()}

    layout, checkpoint = LAYOUTS.get(name), None
    if layout is not None:
        settings = recipe.methods.of(name)
        position = getattr(settings, "position", "end")
        if name != "coop" and position != "end":
            raise UserError(
                f"methods.{name}.position is {position!r}, but the published code of {name} supports only 'end'; "
                f"export a run trained with methods.{name}.position=end"
            )
        if foreign := sorted(learned.keys() - {*layout.pairs.values(), layout.given}):
            raise UserError(
                f"{folder.url}: the published code of {name} can't represent {foreign[0]}; train without domain tokens "
                f"(methods.{name}.domain_tokens=0), or share the run with `syncclip push`"
            )
        words = None
        if hasattr(settings, "initial_words"):
            words = FixedWords.of(method.clip, classes.classnames, settings)
        state = layout.saved(learned, words)
    with storage.lock(out, "prompts export"):
        if layout is not None:
            prompts = storage.read_bytes(folder.path(PROMPTS))
            source = {"run": recipe.hash, "prompts": hashlib.sha256(prompts).hexdigest()}
            with exporting(storage.join(out, layout.folder), name, source, "prompts export") as export:
                export.begin()
                checkpoint = write_checkpoint(export, state, recipe.training.epochs)
        write_run(out, folder, recipe, record, classes, learned, layout)
    return ExportedRun(out, storage.join(out, CARD), checkpoint)


def write_run(
    out: str,
    folder: RunFolder,
    recipe: Recipe,
    record: RunRecord | None,
    classes: RunClasses,
    learned: Mapping[str, Tensor],
    layout: Layout | None = None,
    name: str = ".",
) -> None:
    """Write the run's model card and the files required for inference.

    Args:
        recipe, record, classes: contents of the corresponding files, without private values.
        learned: learned tensors, keyed by their syncclip names.
        layout: layout of the exported checkpoint for published code, or None if no checkpoint is exported.
        name: argument for `load` in the card's example.
    """
    if out != folder.url:
        for file in (PROMPTS, RESULTS):
            if storage.exists(folder.path(file)):
                storage.copy(folder.path(file), storage.join(out, file))
        if record is not None:
            storage.write_document(storage.join(out, RECORD), record.model_copy(update={"logs": {}}), folder.owner)
        storage.write_with_checksum(storage.join(out, RECIPE), recipe.to_yaml().encode(), owner=folder.owner)
    storage.write_document(storage.join(out, CLASSES), classes, folder.owner)
    results = read_results(url, folder.owner) if storage.exists(url := folder.path(RESULTS)) else {}
    idea = (inspect.getdoc(find_method(recipe.training.method)) or "").partition("\n")[0]
    values = sum(tensor.numel() for tensor in learned.values())
    facts = {
        "method": f"`{recipe.training.method}`, {idea}",
        "backbone": f"{clip_of(recipe)}, frozen",
        "learned": f"{values:,} values in {counted(len(learned), 'tensor')}, `prompts.safetensors`",
        "from": record.origin if record is not None and record.origin else _training_images(recipe),
        "dataset": f"{classes.dataset}, {len(classes.classnames)} classes ({classes.base_count} base classes)",
    }
    names, base = list(map(markdown_text, classes.classnames)), classes.base_count
    sections = [
        f"---\n{_metadata(recipe, folder.name, classes.dataset, results)}---\n\n# {folder.name}",
        "This image classifier adapts a frozen CLIP model and was trained with syncclip.",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {markdown_text(value)} |" for key, value in facts.items())]),
        *(f"> {markdown_text(note)}" for note in (record.notes if record is not None else ())),
        f"## Results\n\n{_results(results)}",
        _usage(recipe, name),
        *([_checkpoint(recipe, layout, learned)] if layout is not None else []),
        f"## Classes\n\nBase: {', '.join(names[:base])}.\n\nNovel: {', '.join(names[base:])}.",
        f"## Recipe\n\n```yaml\n{recipe.to_yaml()}```",
    ]
    card = "\n\n".join(sections) + "\n"
    storage.write_with_checksum(storage.join(out, CARD), card.encode(), owner=folder.owner)
    storage.require(out, (RECIPE, PROMPTS, CLASSES, CARD))
    storage.write_contents(out, folder.owner)


def _training_images(recipe: Recipe) -> str:
    count = recipe.training.images_per_class
    images = {
        "real": f"{recipe.dataset.shots} real images per base class",
        "synthetic": f"{count} synthetic images per class" if count else "synthetic images",
    }
    return " and ".join(text for data, text in images.items() if recipe.training.data in (data, "both"))


def _usage(recipe: Recipe, name: str) -> str:
    """Return the card's usage section; `name` is the run to load, or "." for the card's folder."""
    sentences = [f"On the command line: `syncclip classify {name} image.jpg`."]
    if name == ".":
        sentences.append(
            "`syncclip evaluate .` re-evaluates the run; `syncclip prompts show .` shows the words nearest to the "
            "run's learned vectors."
        )
    if recipe.backbone.name != EMBEDDED and _weights_on_hub(recipe) is None:
        values = {"backbone": recipe.backbone.name, "pretrained": recipe.backbone.pretrained}
        arguments = ", ".join(f'{key}="{value}"' for key, value in values.items() if value)
        sentences.append(f"The CLIP model is not public; pass its location to `load` with `{arguments}`.")
    return (
        f'## Usage\n\n```python\nimport syncclip\n\nmodel = syncclip.load("{name}")\n'
        'for label in model.classify("image.jpg", top=3):\n    print(f"{label.name}: {label.probability:.0%}")\n```\n\n'
        + " ".join(sentences)
    )


def _weights_on_hub(recipe: Recipe) -> str | None:
    """Return the Hub repository of the run's CLIP model, "" if published elsewhere, or None if not public."""
    import open_clip

    weights, tag = recipe.backbone.name, recipe.backbone.pretrained or ""
    if weights.startswith("hf-hub:"):
        return weights.removeprefix("hf-hub:")
    published = open_clip.get_pretrained_cfg(weights.replace("/", "-"), tag)
    return (published.get("hf_hub") or "").strip("/") if published else None


def _metadata(recipe: Recipe, name: str, dataset: str, results: Mapping[str, Any]) -> str:
    """Return the card's YAML metadata."""
    from huggingface_hub import EvalResult, ModelCardData

    evaluations = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
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
        eval_results=evaluations or None,
        library_name="syncclip",
        pipeline_tag="zero-shot-image-classification",
        base_model=_weights_on_hub(recipe) or None,
        tags=["clip", "open_clip", "prompt-learning", recipe.training.method],
    )
    return f"{data.to_yaml()}\n"


def _results(results: Mapping[str, Any]) -> str:
    columns = [
        (heading, f"{results[key]:.2f}") for key, heading in METRIC_HEADINGS.items() if results.get(key) is not None
    ]
    if not columns:
        return "Not evaluated yet."
    headings, values = (" | ".join(cells) for cells in zip(*columns, strict=True))
    return (
        f"Results on {results['counts']['all']:,} images of the {results['split']} split, in %. In columns "
        "marked (all), all classes are candidates; in the other columns, only the base or novel classes.\n\n"
        f"| {headings} |\n{'|---' * len(columns)}|\n| {values} |"
    )


def _checkpoint(recipe: Recipe, layout: Layout, learned: Mapping[str, Tensor]) -> str:
    """Return the card's section on the checkpoint for published code: contents, omissions and usage."""
    settings = recipe.methods.of(recipe.training.method)
    values = {**settings.model_dump(mode="json"), **{key: read(learned) for key, read in layout.shape.items()}}
    # None means a default that depends on the tower; published code has its own defaults
    config = {f"TRAINER.{theirs}": values[ours] for theirs, ours in layout.config.items() if values[ours] is not None}
    left_out = ["optimiser and scheduler states, without which training can't be resumed", *layout.left_out]
    words = " and the fixed token embeddings of each class prompt" if hasattr(settings, "initial_words") else ""
    return (
        f"## Usage with the published code\n\n`{layout.folder}/` contains a checkpoint for [{layout.repository}]"
        f"(https://github.com/{layout.repository}). Evaluate the checkpoint with "
        f"`--load-epoch {recipe.training.epochs}`, this card's folder as `--model-dir`, and these settings, which "
        "determine the model's shape:\n\n"
        f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```\n\n"
        f"The checkpoint contains the learned parameters{words}, in single precision. "
        f"The checkpoint omits {'; '.join(left_out)}."
    )
