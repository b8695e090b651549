"""Commands that use a trained run: classify, teacher, export, push."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from syncclip import storage
from syncclip.cli.arguments import (
    REPEATED,
    ActorGpus,
    Backbone,
    Batch,
    Folder,
    Labels,
    Out,
    OutFile,
    OutFolder,
    Pretrained,
    Run,
    label_selector,
)
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.runtime.progress import Progress, print_message

if TYPE_CHECKING:
    from syncclip.inference.model import Model
    from syncclip.inference.predictions import Prediction

HEADINGS = ["image", "class", "%", "then"]


def classify(
    run: Run,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Image files, folders, patterns, URLs, tables or shards; use - to read a list from standard input.",
        ),
    ],
    classes: Annotated[
        list[str],
        typer.Option(
            "--class", **REPEATED, metavar="NAME", help="Class to use instead of the run's classes; may be repeated."
        ),
    ],
    labels: Labels,
    out: OutFile = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of most probable classes to return per image.")] = 5,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    batch: Batch = 64,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors",
            min=1,
            help="Number of Ray actors that classify a folder of shards, writing one table per shard.",
        ),
    ] = None,
    num_gpus: ActorGpus = 0.0,
) -> None:
    """Classify images; print a table (JSON lines in a pipe), or write a .jsonl, .csv or .parquet file."""
    if actors is not None:
        from syncclip.inference.shards import TABLE, classify_shards
        from syncclip.workers.settings import Pool

        if len(images) != 1:
            raise UserError(f"--actors requires exactly one folder of shards, not {len(images)} paths")
        pool = Pool(actors, num_gpus=num_gpus, label_selector=label_selector(labels))
        backbone_arguments = {"backbone": backbone, "pretrained": pretrained}
        done = classify_shards(
            run, images[0], out, pool=pool, classes=classes, top=top, batch=batch, backbone_arguments=backbone_arguments
        )
        url = storage.join(done.url, f"*{TABLE}")
        text.show(f"{counted(done.images, 'image')} of {counted(done.shards, 'shard')}: {url}")
        if done.unread:
            print_message(f"classify: {counted(done.unread, 'image')} could not be read; see the `error` column")
            raise typer.Exit(1)
        return
    if num_gpus or labels:
        raise UserError("--num-gpus and --label require --actors; add --actors, or omit them to use this machine")
    from syncclip.inference import predictions
    from syncclip.inference.model import load
    from syncclip.shards.images import SkippedFiles

    if out is not None:
        predictions.check_extension(out)
    model = load(run, backbone, pretrained)
    if classes:
        model = model.with_classes(classes)
    skipped = SkippedFiles()
    try:
        _show(model, predictions.classify(model, images, top, batch, skipped=skipped), out)
    finally:
        if skipped:
            print_message(f"classify: {skipped}")


def teacher(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Teacher: the folder or URL of a finished run, or hf://owner/name[@revision]."
        ),
    ],
    synthetic: Annotated[str, typer.Argument(metavar="SET", help="Synthetic dataset: a folder or a URL.")],
    labels: Labels,
    out: Out = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    batch: Batch = 64,
    actors: Annotated[int, typer.Option("--actors", min=1, help="Number of Ray actors.")] = 1,
    num_gpus: ActorGpus = 0.0,
) -> None:
    """Precompute a run's soft labels on a synthetic dataset, for distillation."""
    from syncclip.inference import soft_labels as teaching
    from syncclip.workers.settings import Pool

    pool = Pool(actors, num_gpus=num_gpus, label_selector=label_selector(labels))
    backbone_arguments = {"backbone": backbone, "pretrained": pretrained}
    done = teaching.write_soft_labels(
        run, synthetic, out, batch=batch, pool=pool, backbone_arguments=backbone_arguments
    )
    text.show(f"{counted(done.images, 'image')} of {counted(done.shards, 'shard')}: training.teacher={done.url}")
    if done.unread:
        print_message(f"teacher: {counted(done.unread, 'image')} could not be read; training uses other images instead")


def _show(model: Model, predictions: Iterable[Prediction], out: str | None) -> None:
    """Print or write predictions one by one; exit with status 1 if an image could not be read."""
    from syncclip.inference.predictions import json_line, write_predictions

    unread: list[str] = []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(None, "images", "classify"))

        def counting() -> Iterator[Prediction]:
            for prediction in predictions:
                progress.update()
                if prediction.error is not None:
                    unread.append(prediction.image)
                yield prediction

        if out is not None:
            write_predictions(counting(), out)
        elif sys.stdout.isatty():
            rows = [(prediction.image, *_cells(prediction)) for prediction in counting()]
            stack.close()  # end the progress line before the table
            text.show(text.table(f"{model.url}: {counted(len(model.classes), 'class', 'classes')}", HEADINGS, rows))
        else:
            for prediction in counting():
                sys.stdout.write(json_line(prediction.row))
                sys.stdout.flush()
    if out is not None:
        text.show(out)
    if unread:
        print_message(f"classify: {counted(len(unread), 'image')} could not be read: {text.few(unread)}")
        raise typer.Exit(1)


def _cells(prediction: Prediction) -> tuple[str, float | None, str]:
    """Return a prediction's table cells: class, probability in percent, and the next most probable classes."""
    if not prediction.labels:
        return "-", None, prediction.error or ""
    best, *others = prediction.labels
    return best.name, 100 * best.probability, ", ".join(f"{x.name} {100 * x.probability:.1f}" for x in others[:2])


def export(
    run: Run,
    to: Annotated[
        str, typer.Option("--to", metavar="onnx|torch|open_clip|transformers|vectors", help="Export format.")
    ],
    out: OutFolder,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
) -> None:
    """Export a run for use without syncclip, to ONNX, torch.export, open_clip, transformers or class vectors."""
    from typing import cast

    from syncclip.export import formats
    from syncclip.inference.model import load

    text.show(formats.export(load(run, backbone, pretrained, "cpu"), cast(formats.Format, to), out))


def push(
    run: Folder,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the Hugging Face Hub: owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", metavar="BRANCH", help="Branch to push to.")] = None,
) -> None:
    """Push a run and its model card to the Hugging Face Hub; load it with `syncclip.load("hf://owner/name")`."""
    from syncclip.interop import hub

    text.show(hub.push(run, repo, private, revision))
