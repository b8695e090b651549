"""Filter that applies a head to CLIP features, such as a published aesthetic or NSFW head."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import first_line
from syncclip.synthesis.filters import assets
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.clip import FrozenClip

if TYPE_CHECKING:
    import torch


class ClipHeadSettings(Settings):
    """Reject images based on the output of linear layers on normalised CLIP features, e.g. an aesthetic predictor."""

    name: Literal["clip_head"] = "clip_head"
    """Reject images based on the output of a small network on CLIP features, such as a watermark detector."""
    reason: str = Field("head", pattern=r"^[a-z][a-z0-9_]*$")
    """Rejection reason in statistics and thumbnails, such as `aesthetic` or `nsfw`."""
    weights: str
    """Path or URL of the head's weights: a .safetensors file, or a .pth file with a state dict."""
    backbone: BackboneSettings | None = None
    """CLIP model that the head was trained on; default: the recipe's backbone."""
    activation: Literal["none", "relu"] = "none"
    """Activation function between layers."""
    minimum: float | None = None
    """Minimum head output to accept an image."""
    maximum: float | None = None
    """Maximum head output to accept an image."""
    blur: bool = False
    """Blur thumbnails of rejected images beyond recognition."""
    checksum: str = ""
    """Checksum of the weights, set when the dataset is created."""

    @model_validator(mode="after")
    def _check_limits(self) -> ClipHeadSettings:
        if self.minimum is None and self.maximum is None:
            raise ValueError("a clip_head filter without 'minimum' or 'maximum' accepts all images; set one of them")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}; swap them")
        return self


class ClipHead(Filter):
    """Filter configured by `ClipHeadSettings`; the score is the head's output, negated if only a maximum is set."""

    def __init__(self, settings: ClipHeadSettings, clip: FrozenClip, url: str) -> None:
        self.settings, self.clip = settings, clip
        self.name, self.blurred = settings.reason, settings.blur
        tensors = assets.fetch(url, settings.checksum, settings.reason)
        self.layers = [
            (tensors[f"{i}.weight"].to(clip.device), tensors[f"{i}.bias"].to(clip.device))
            for i in range(len(tensors) // 2)
        ]
        expected, dim = self.layers[0][0].shape[1], clip.classes.shape[1]
        if expected != dim:
            raise UserError(
                f"filter {self.name!r}: {settings.weights} expects features of size {expected}, but "
                f"those of {clip.backbone.name!r} have size {dim}; set the filter's backbone to the head's CLIP model"
            )

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        with torch.inference_mode():
            hidden = self.clip.features(batch.images)
            for i, (weight, bias) in enumerate(self.layers):
                hidden = hidden.relu() if i and self.settings.activation == "relu" else hidden
                hidden = torch.nn.functional.linear(hidden, weight, bias)
        low, high = self.settings.minimum, self.settings.maximum
        outputs = [float(value) for value in hidden[:, 0]]
        keep = [(low is None or value >= low) and (high is None or value <= high) for value in outputs]
        return FilterResult([-value for value in outputs] if low is None else outputs, keep)


def with_head_checksum(settings: ClipHeadSettings, url: str) -> ClipHeadSettings:
    """Store the head's weights in the dataset at `url`, and return the settings with the weights' checksum."""
    source = settings.weights
    if settings.checksum and not storage.exists(source):
        return settings  # the dataset has a copy
    layers = layers_of(_state(source, storage.read_bytes(source)), source)
    mismatch = (
        f"filter {settings.reason!r}: the weights in {source} differ from those that the dataset was created with; "
        "restore the original weights, or generate into a different folder"
    )
    return settings.model_copy(update={"checksum": assets.store(url, layers, settings.checksum, mismatch)})


def layers_of(state: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
    """Rename a head's parameters to `0.weight`, `0.bias`, `1.weight`, …; the last layer must have one output."""
    prefixes = sorted({key.rpartition(".")[0] for key in state}, key=_natural)
    names = [f"{prefix}." if prefix else "" for prefix in prefixes]
    pairs: list[tuple[Any, Any]] = [(state.get(f"{name}weight"), state.get(f"{name}bias")) for name in names]
    chained = bool(pairs) and all(
        weight is not None and bias is not None and weight.ndim == 2 and bias.shape == weight.shape[:1]
        for weight, bias in pairs
    )
    widths = [pairs[0][0].shape[1], *(bias.shape[0] for _, bias in pairs)] if chained else []
    if not chained or widths[-1] != 1 or any(w.shape[1] != n for (w, _), n in zip(pairs, widths, strict=False)):
        raise UserError(
            f"{source} is not a sequence of linear layers with one output (keys: {', '.join(list(state)[:4])} …); use "
            "a head's state dict"
        )
    return {
        f"{i}.{part}": tensor.float()
        for i, pair in enumerate(pairs)
        for part, tensor in zip(("weight", "bias"), pair, strict=True)
    }


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _state(source: str, data: bytes) -> Mapping[str, Any]:
    """Read a state dict; pickles may contain only tensors and plain containers, which prevents code execution."""
    import pickle

    import torch

    try:
        if source.endswith(".safetensors"):
            return storage.parse_tensors(data, source, "re-save the weights as safetensors")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{source} is not a state dict of tensors ({first_line(error)[:160]}); save one with "
            "torch.save(model.state_dict()) or as safetensors"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {"": state}
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
