"""A trained run for those who don't have this package: models of ONNX, torch, open_clip, transformers; or vectors."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from syncclip import storage
from syncclip.core.manifest import MANIFEST
from syncclip.core.settings import UserError
from syncclip.core.text import first_line, install_command
from syncclip.export import folders
from syncclip.inference.model import Model, computing
from syncclip.methods import Method
from syncclip.recipe.recipe import digest
from syncclip.runs.classes import CLASSES
from syncclip.runtime.tempdirs import scratch_folder
from syncclip.storage.exports import exporting
from syncclip.training.run_folder import PROMPTS

Format = Literal["onnx", "torch", "open_clip", "transformers", "vectors"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "open_clip": folders.OPEN_CLIP,
    "transformers": folders.TRANSFORMERS,
    "vectors": "class_vectors.safetensors",
}

OPSET = 18
LARGEST = 1 << 16
"""Images that an exported model takes at a time."""


class Classifier(nn.Module):
    """From images (B, 3, S, S), as `Model.preprocess` returns them, to logits (B, C) among fixed class vectors."""

    text: Tensor
    others: Tensor

    def __init__(self, method: Method, others: Tensor, temperature: float = 1.0) -> None:
        """
        Args:
            others: (C,) True for classes that no image may have: their logits are minus infinity.
            temperature: by which logits are divided.
        """
        super().__init__()
        self.temperature = temperature
        self.method, self.towers = method, method.clip  # a method's own parameters are without the CLIP's
        self.register_buffer("others", others)
        self.register_buffer("text", method.text_features().clone())

    def forward(self, images: Tensor) -> Tensor:
        return self.method.logits_given(self.text, images).masked_fill(self.others, -torch.inf) / self.temperature


def export(model: Model, to: Format, out: str) -> str:
    """Write a model in a format that others load, and `classes.json` beside it, which has the names of the classes.

    `export.json`, completed last, holds the checksums of all files and identifies the run; see `storage.exports`.

    onnx: input `images` (B, 3, S, S) float32, output `logits` (B, C). torch: the same as `torch.export.load` reads it.
    vectors: `class_vectors` (C, D) of length 1 and `logit_scale`, for image features through the same image tower.
    open_clip: the frozen CLIP as its "local-dir:" loads it, beside these vectors. transformers: the same as a pipeline
    loads it, whose vocabulary has the learned words. All are in float32, whatever the run's precision.

    Args:
        out: folder or URL.

    Returns:
        The path or URL of the written model.

    Raises:
        UserError: the format is unknown or can't represent the run, its library is missing, or the method's scores
            are not of class vectors that are the same for all images; or the folder holds something else, such as the
            export of another run or in another format.
    """
    if to not in FORMATS:
        raise UserError(f"--to: there is no format {to!r}; choose one of {', '.join(FORMATS)}")
    if model.method.text_depends_on_image:
        raise UserError(
            f"{model.url}: {model.recipe.training.method!r} has class vectors of its own for every image, so there are "
            "none to be exported; use `syncclip classify`, or a run of another method"
        )
    if to not in ("onnx", "torch") and model.method.has_extra_scores:
        raise UserError(
            f"--to {to}: {model.recipe.training.method!r} has scores beyond those of its class vectors, and {to} has "
            "no place for them; use --to onnx or torch"
        )
    if to == "vectors" and model.method.has_several_image_features:
        raise UserError(
            f"--to vectors: {model.recipe.training.method!r} classifies by more than one feature of an image; use --to "
            "onnx or torch"
        )
    device, backbone = model.device, model.method.clip.backbone
    with exporting(out, to, _source(model), "export") as written, scratch_folder() as folder, computing():
        try:
            model.method.clip.backbone = replace(backbone, precision="fp32")
            _WRITERS[to](
                Classifier(model.method.cpu(), model.others, model.told.temperature).eval(), folder / FILES[to]
            )
        finally:
            model.method.clip.backbone = backbone
            model.method.to(device)
        written.begin()
        storage.write_document(storage.join(out, CLASSES), model.told)
        written.record_small(CLASSES)
        for file in sorted(folder.iterdir()):  # the weights of a large ONNX model are a file of their own
            written.publish(file, file.name)
    return storage.join(out, FILES[to])


def _source(model: Model) -> dict[str, str]:
    """What identifies the exported model."""
    prompts = storage.read_bytes(storage.join(model.url, PROMPTS))
    return {
        "run": model.run_hash,
        "prompts": hashlib.sha256(prompts).hexdigest(),
        "classes": digest(model.told.model_dump(mode="json")),
    }


def is_export_without_manifest(names: Collection[str]) -> bool:
    """Whether a folder's files are those of an export whose manifest was removed."""
    of_export = CLASSES in names and PROMPTS not in names and not {*FILES.values()}.isdisjoint(names)
    return of_export and MANIFEST not in names


def _program(classifier: Classifier) -> torch.export.ExportedProgram:
    side = classifier.method.clip.backbone.image_size
    batch = torch.export.Dim("batch", min=1, max=LARGEST)
    return torch.export.export(classifier, (torch.zeros(2, 3, side, side),), dynamic_shapes={"images": {0: batch}})


def _torch(classifier: Classifier, file: Path) -> None:
    torch.export.save(_program(classifier), file)


def _onnx(classifier: Classifier, file: Path) -> None:
    try:
        import onnx  # noqa: F401  (what torch writes with)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--to onnx: {first_line(error)}; run `{install_command('export')}`") from error
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            _program(classifier),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
        program.save(file)


def _vectors(classifier: Classifier, file: Path) -> None:
    scale = classifier.method.clip.logit_scale.clone()
    safetensors.torch.save_file({"class_vectors": classifier.text, "logit_scale": scale}, file)


def _open_clip(classifier: Classifier, file: Path) -> None:
    folders.write_open_clip(classifier.method, file.parent)
    _vectors(classifier, file.with_name(FILES["vectors"]))


def _transformers(classifier: Classifier, file: Path) -> None:
    possible = (~classifier.others).nonzero().flatten().tolist()
    folders.write_transformers(classifier.method, possible, file.parent)


_WRITERS: dict[Format, Callable[[Classifier, Path], None]] = {
    "onnx": _onnx,
    "torch": _torch,
    "open_clip": _open_clip,
    "transformers": _transformers,
    "vectors": _vectors,
}
