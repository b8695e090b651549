"""Export runs to ONNX, torch.export, open_clip, transformers or class vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import safetensors.torch

from syncclip import storage
from syncclip.core.manifest import MANIFEST
from syncclip.core.settings import UserError
from syncclip.export import checkpoints, onnx
from syncclip.inference.model import Model, computing
from syncclip.recipe.recipe import digest
from syncclip.runs.classes import CLASSES
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.storage.exports import exporting
from syncclip.training.run_folder import PROMPTS

Format = Literal["onnx", "torch", "open_clip", "transformers", "vectors"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "open_clip": checkpoints.OPEN_CLIP,
    "transformers": checkpoints.TRANSFORMERS,
    "vectors": "class_vectors.safetensors",
}


def export(model: Model, to: Format, out: str) -> str:
    """Write a float32 model and `classes.json`, then `export.json` with the checksums of all files.

    Args:
        to: `onnx`: program with input `images` (B, 3, S, S) and output `logits` (B, C). `torch`: the same program for
            `torch.export.load`. `vectors`: unit-length `class_vectors` (C, D) and `logit_scale`. `open_clip`: the
            frozen CLIP model and the output of `vectors`. `transformers`: the frozen CLIP model for a zero-shot
            pipeline, with the learned vectors added to the vocabulary.
        out: output folder or URL.

    Returns:
        Path or URL of the exported model.

    Raises:
        UserError: the format is unknown or can't represent the run, its library is missing, or the output folder
            contains other files.
    """
    _check_method(model, to)
    device, backbone = model.device, model.method.clip.backbone
    with exporting(out, to, _source(model), "export") as written, private_tempdir() as folder, computing():
        try:
            model.method.clip.backbone = replace(backbone, precision="fp32")
            classifier = onnx.Classifier(model.method.cpu(), model.others, model.metadata.temperature).eval()
            _write(classifier, to, folder)
        finally:
            model.method.clip.backbone = backbone
            model.method.to(device)
        written.begin()
        storage.write_document(storage.join(out, CLASSES), model.metadata)
        written.record_small(CLASSES)
        for file in sorted(folder.iterdir()):
            written.publish(file, file.name)
    return storage.join(out, FILES[to])


def _check_method(model: Model, to: Format) -> None:
    name, method = repr(model.recipe.training.method), model.method
    if to not in FORMATS:
        raise UserError(f"--to: unknown format {to!r}; choose one of {', '.join(FORMATS)}")
    if method.text_depends_on_image:
        raise UserError(
            f"{model.url}: the class vectors of {name} depend on the image and can't be exported; use `syncclip "
            "classify` or a run with a different method"
        )
    if to not in ("onnx", "torch") and method.has_extra_scores:
        raise UserError(
            f"--to {to}: {name} does not compute its scores from class vectors alone, as {to} requires; use --to onnx "
            "or torch"
        )
    if to == "vectors" and method.has_several_image_features:
        raise UserError(
            f"--to vectors: {name} uses more than one feature per image, which vectors can't represent; use --to "
            "onnx or torch"
        )


def _write(classifier: onnx.Classifier, to: Format, folder: Path) -> None:
    if to == "onnx":
        onnx.write_onnx(classifier, folder / FILES[to])
    elif to == "torch":
        onnx.write_torch(classifier, folder / FILES[to])
    elif to == "transformers":
        possible = (~classifier.others).nonzero().flatten().tolist()
        checkpoints.write_transformers(classifier.method, possible, folder)
    else:
        if to == "open_clip":
            checkpoints.write_open_clip(classifier.method, folder)
        scale = classifier.method.clip.logit_scale.clone()
        vectors = {"class_vectors": classifier.text, "logit_scale": scale}
        safetensors.torch.save_file(vectors, folder / FILES["vectors"])


def _source(model: Model) -> dict[str, str]:
    """Return the hashes that identify the exported model."""
    prompts = storage.read_bytes(storage.join(model.url, PROMPTS))
    return {
        "run": model.run_hash,
        "prompts": hashlib.sha256(prompts).hexdigest(),
        "classes": digest(model.metadata.model_dump(mode="json")),
    }


def is_export_without_manifest(names: Collection[str]) -> bool:
    """Return whether these are the file names of an export whose manifest is missing."""
    is_export = CLASSES in names and PROMPTS not in names and not {*FILES.values()}.isdisjoint(names)
    return is_export and MANIFEST not in names
