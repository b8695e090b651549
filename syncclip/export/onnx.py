"""ONNX and torch.export programs that compute logits from images."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from syncclip.core.settings import UserError
from syncclip.core.text import first_line, install_command
from syncclip.methods import Method

OPSET = 18
MAX_BATCH = 1 << 16
"""Maximum batch size of an exported program."""


class Classifier(nn.Module):
    """Compute logits (B, C) for preprocessed images (B, 3, S, S) with precomputed class vectors.

    Args:
        others: (C,) boolean mask of the classes that are not candidates; their logits are set to minus infinity.
        temperature: divisor of the logits.
    """

    text: Tensor
    others: Tensor

    def __init__(self, method: Method, others: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.method, self.towers = method, method.clip  # a method's parameters exclude those of the CLIP model
        self.register_buffer("others", others)
        self.register_buffer("text", method.text_features().clone())

    def forward(self, images: Tensor) -> Tensor:
        return self.method.logits_given(self.text, images).masked_fill(self.others, -torch.inf) / self.temperature


def write_torch(classifier: Classifier, file: Path) -> None:
    """Write an `ExportedProgram` for `torch.export.load`."""
    torch.export.save(_program(classifier), file)


def write_onnx(classifier: Classifier, file: Path) -> None:
    """Write an ONNX model; a large model's weights are written to a separate file."""
    try:
        import onnx  # noqa: F401  (required by torch)
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


def _program(classifier: Classifier) -> torch.export.ExportedProgram:
    side = classifier.method.clip.backbone.image_size
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return torch.export.export(classifier, (torch.zeros(2, 3, side, side),), dynamic_shapes={"images": {0: batch}})
