"""Text towers of the bundled CLIP model at several levels of name knowledge, stored as 8-bit integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from syncclip.embedded import CLIP

if TYPE_CHECKING:
    from torch import Tensor, nn

TOWERS = ("names-0", "names-3", "names-6.5", "names-25", "names-all")
"""Tags of the text towers; a tag contains the mean number of captions with the class name per class of `symbols`."""

COMPLETE = TOWERS[-1]
"""Tag of the text tower in the model's own weights."""

SCALE, ROWS, TOKENS = ".scale", ".rows", "token_embedding.weight"


def write_tower(tower: dict[str, Tensor], weights: dict[str, Tensor], path: Path) -> None:
    """Write 8-bit matrices with a scale per row, omitting token embeddings that are equal to those in `weights`."""
    import torch
    from safetensors.torch import save_file

    stored = {}
    for name, value in tower.items():
        if name == TOKENS:
            rows = (value != weights[name]).any(1).nonzero()[:, 0]
            stored[name + ROWS], value = rows.short(), value[rows]
        if value.ndim >= 2:
            scale = value.float().abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            stored[name + SCALE], value = scale, (value / scale).round().to(torch.int8)
        stored[name] = value.contiguous()
    save_file(stored, path)


def load_tower(model: nn.Module, tag: str) -> None:
    """Replace the text tower of the bundled model; the image tower is unchanged."""
    import torch
    from safetensors.torch import load_file

    if tag == COMPLETE:
        return
    stored, state = load_file(CLIP / f"{tag}.safetensors"), model.state_dict()
    with torch.no_grad():
        for name in sorted(stored.keys() & state.keys()):
            value = stored[name] * stored[name + SCALE] if name + SCALE in stored else stored[name]
            if name == TOKENS:
                state[name][stored[name + ROWS].long()] = value
            else:
                state[name].copy_(value)
