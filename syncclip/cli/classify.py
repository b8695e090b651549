"""The commands that use a trained run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncclip import storage
from syncclip.cli.arguments import SEVERAL, Folder, Out, OutFile, OutSet, Run
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.runtime.progress import Progress, say

if TYPE_CHECKING:
    from syncclip.inference.model import Model
    from syncclip.inference.predictions import Answer

Backbone = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help="Where the run's CLIP is now, as backbone.name.")
]
Pretrained = Annotated[
    str | None, typer.Option("--pretrained", metavar="TAG", help="The same for its weights, as backbone.pretrained.")
]


def classify(
    run: Run,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Files, folders, patterns, URLs, tables or shards of images; - is a list of them on standard input.",
        ),
    ],
    classes: Annotated[
        list[str],
        typer.Option("--class", **SEVERAL, metavar="NAME", help="Instead of the run's own classes; repeat it."),
    ],
    out: OutFile = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Classes of each image, the likeliest first.")] = 5,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images in one forward pass.")] = 64,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors", min=1, help="On Ray: classify the shards of one folder, a table beside each or in --out."
        ),
    ] = None,
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs of an actor.")] = 0.0,
) -> None:
    """Name what images show: a table on a terminal, JSON lines elsewhere, or a .jsonl, .csv or .parquet file."""
    if actors is not None:
        places = {"backbone": backbone, "pretrained": pretrained}
        _classify_shards(run, images, out, (actors, num_gpus), classes=classes, top=top, batch=batch, places=places)
        return
    if num_gpus:
        raise UserError("--num-gpus: an actor's; give --actors as well, or leave it out: a GPU here is used anyway")
    from syncclip.datasets.files import skipped_files
    from syncclip.inference import predictions
    from syncclip.inference.model import load

    if out is not None:
        predictions.check_place(out)
    model = load(run, backbone, pretrained)
    if classes:
        model = model.with_classes(classes)
    skipped = Counter[str]()
    try:
        _show(model, predictions.classify(model, images, top, batch, skipped=skipped), out)
    finally:
        if skipped:
            say(f"classify: {skipped_files(skipped)}")


def teacher(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The teacher: a finished run, as for `classify`.")],
    synthetic: Annotated[str, typer.Argument(metavar="SET", help="The synthetic set: a folder or a URL.")],
    out: Out = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images in one forward pass.")] = 64,
    actors: Annotated[int, typer.Option("--actors", min=1, help="On Ray: so many work on the shards.")] = 1,
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs of an actor.")] = 0.0,
) -> None:
    """Write a trained run's probabilities of a synthetic set's images, once, for methods that learn from a teacher."""
    from syncclip.inference import soft_labels as teaching
    from syncclip.workers.settings import Pool

    places, pool = {"backbone": backbone, "pretrained": pretrained}, Pool(actors, num_gpus=num_gpus)
    done = teaching.write_soft_labels(run, synthetic, out, batch=batch, pool=pool, places=places)
    text.show(f"{counted(done.images, 'image')} of {counted(done.shards, 'shard')}: training.teacher={done.url}")
    if done.unread:
        others = "it by another" if done.unread == 1 else "them by others"
        say(f"teacher: {counted(done.unread, 'image')} could not be read; a training replaces {others}")


def _show(model: Model, coming: Iterable[Answer], out: str | None) -> None:
    """Print or write answers as they come; exit with 1 where an image could not be read."""
    from syncclip.inference import predictions

    unread: list[str] = []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(None, "images", "classify"))

        def counting() -> Iterator[Answer]:
            for answer in coming:
                progress.update()
                if answer.error is not None:
                    unread.append(answer.image)
                yield answer

        found = counting()
        if out is not None:
            predictions.write_answers(found, out)
        elif sys.stdout.isatty():
            rows = [(answer.image, *_shown(answer)) for answer in found]
            stack.close()  # the live line ends before the table begins
            text.show(text.table(f"{model.url}: {counted(len(model.classes), 'class', 'classes')}", HEADINGS, rows))
        else:
            for answer in found:
                sys.stdout.write(predictions.line(answer.row))
                sys.stdout.flush()
    if out is not None:
        text.show(out)
    if unread:
        say(f"classify: {counted(len(unread), 'image')} could not be read: {text.few(unread)}")
        raise typer.Exit(1)


def _classify_shards(run: str, images: list[str], out: str | None, pool: tuple[int, float], **asked: Any) -> None:
    """The same on Ray, with a pool of so many actors and GPUs of each; `asked` as `classify_shards` takes it."""
    from syncclip.inference.shards import TABLE, classify_shards
    from syncclip.workers.settings import Pool

    if len(images) != 1:
        raise UserError(f"--actors: they work on one folder of shards, and {len(images)} names were given; give one")
    done = classify_shards(run, images[0], out, pool=Pool(pool[0], num_gpus=pool[1]), **asked)
    text.show(
        f"{counted(done.images, 'image')} of {counted(done.shards, 'shard')}: {storage.join(done.url, '*' + TABLE)}"
    )
    if done.unread:
        say(f"classify: {counted(done.unread, 'image')} could not be read; their rows say why")
        raise typer.Exit(1)


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", metavar="onnx|torch|open_clip|transformers|vectors", help="The format.")],
    out: OutSet,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
) -> None:
    """Write a trained run for programs without syncclip: ONNX, torch.export, open_clip, transformers, or vectors."""
    from typing import cast

    from syncclip.export import export as exports
    from syncclip.inference.model import load

    text.show(exports.export(load(run, backbone, pretrained, "cpu"), cast(exports.Format, to), out))


def push(
    run: Folder,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Where to on the Hugging Face hub: owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="Show it to nobody else.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", metavar="BRANCH", help="Onto this branch.")] = None,
) -> None:
    """Share a trained run with its model card on the Hugging Face hub, for `syncclip.load("hf://owner/name")`."""
    from syncclip.interop import hub

    text.show(hub.push(run, repo, private, revision))


HEADINGS = ["image", "class", "%", "then"]


def _shown(answer: Answer) -> tuple[str, float | None, str]:
    """(class, probability in percent, the others) of a row on the terminal."""
    if not answer.labels:
        return "-", None, answer.error or ""
    best, *others = answer.labels
    rest = ", ".join(f"{one.name} {100 * one.probability:.1f}" for one in others[:2])
    return best.name, 100 * best.probability, rest
