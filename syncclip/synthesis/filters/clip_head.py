"""A linear head on a CLIP's features, in the forms in which aesthetic and NSFW heads are published."""

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
    """Rejects images by a head that was trained on a CLIP's features of length 1: too ugly, too naked.

    Published forms are one linear layer (LAION's first aesthetic predictor) and several with nothing, or a ReLU, in
    between (the improved one, on ViT-L-14). The threshold is on the head's raw output.
    """

    name: Literal["clip_head"] = "clip_head"
    """Judges images by a small network on CLIP's features, such as an aesthetic score or a watermark detector."""
    called: str = Field("head", pattern=r"^[a-z][a-z0-9_]*$")
    """The reason under which its rejects are counted, such as `aesthetic` or `nsfw`."""
    weights: str
    """A .safetensors file, or a .pth with a state dict: path or URL."""
    backbone: BackboneSettings | None = None
    """The CLIP that the head was trained on; the recipe's backbone where it is not given."""
    activation: Literal["none", "relu"] = "none"
    """What comes between several layers."""
    minimum: float | None = None
    """Least output."""
    maximum: float | None = None
    """Largest output."""
    blur: bool = False
    """Make thumbnails of its rejects unrecognisable, as an NSFW head's should be."""
    digest: str = ""
    """Of the weights; filled in when a set is started."""

    @model_validator(mode="after")
    def _check_limits(self) -> ClipHeadSettings:
        if self.minimum is None and self.maximum is None:
            raise ValueError("a clip_head filter needs 'minimum', 'maximum', or both; it would keep everything")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}; nothing could pass")
        return self


class ClipHead(Filter):
    """See `ClipHeadSettings`. The score is the head's output, its negative where only a maximum is given."""

    def __init__(self, settings: ClipHeadSettings, clip: FrozenClip, url: str) -> None:
        self.settings, self.clip = settings, clip
        self.name, self.blurred = settings.called, settings.blur
        tensors = assets.fetch(url, settings.digest, settings.called)
        self.layers = [
            (tensors[f"{i}.weight"].to(clip.device), tensors[f"{i}.bias"].to(clip.device))
            for i in range(len(tensors) // 2)
        ]
        takes, has = self.layers[0][0].shape[1], clip.classes.shape[1]
        if takes != has:
            raise UserError(
                f"filter {self.name!r}: {settings.weights} takes features of {takes} numbers, but "
                f"{clip.backbone.name!r} gives {has}; name the CLIP that the head was trained on as its backbone"
            )

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        with torch.inference_mode():
            found = self.clip.features(batch.images)
            for i, (weight, bias) in enumerate(self.layers):
                found = found.relu() if i and self.settings.activation == "relu" else found
                found = torch.nn.functional.linear(found, weight, bias)
        low, high = self.settings.minimum, self.settings.maximum
        outputs = [float(value) for value in found[:, 0]]
        keep = [(low is None or value >= low) and (high is None or value <= high) for value in outputs]
        return FilterResult([-value for value in outputs] if low is None else outputs, keep)


def with_head_digest(settings: ClipHeadSettings, url: str) -> ClipHeadSettings:
    """Store the head's weights beside the set at `url`, and note their digest.

    Raises:
        UserError: they can't be read, are no head, or are not those that the set was started with.
    """
    source = settings.weights
    if not storage.exists(source):
        if settings.digest:
            return settings  # the set's own copy will do
        raise UserError(f"filter {settings.called!r}: there is no weights file {source}; check the path")
    layers = layers_of(_state(source, storage.read_bytes(source)), source)
    refusal = (
        f"filter {settings.called!r}: {source} holds other weights than those that the set was started with; "
        "restore them or generate into another folder"
    )
    return settings.model_copy(update={"digest": assets.store(url, layers, settings.digest, refusal)})


def layers_of(state: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
    """`0.weight`, `0.bias`, `1.weight`, … of a head, from whatever names its layers have in a state dict.

    Raises:
        UserError: it isn't a chain of linear layers that ends in one number.
    """
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
            f"{source} is no head of linear layers that ends in one number (it holds {', '.join(list(state)[:4])} …); "
            "give the state dict of one"
        )
    return {
        f"{i}.{part}": tensor.float()
        for i, pair in enumerate(pairs)
        for part, tensor in zip(("weight", "bias"), pair, strict=True)
    }


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _state(source: str, data: bytes) -> Mapping[str, Any]:
    """A state dict from bytes; of a pickle, only tensors and plain containers are read, no code is run."""
    import pickle

    import torch

    try:
        if source.endswith(".safetensors"):
            return storage.parse_tensors(data, source, "save it as safetensors again")
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{source} holds no plain state dict of tensors ({first_line(error)[:160]}); save one with "
            "torch.save(model.state_dict()) or as safetensors"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else {"": found}
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
