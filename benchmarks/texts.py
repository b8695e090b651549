"""What text encoders hold of a GPU, with and without keeping embeddings: `python -m benchmarks.texts`.

Models of true shapes in bf16, without numbers: their tensors are counted, not allocated. A plain loop keeps the
encoders on the GPU and runs them with every batch; where all texts of a set fit into main memory, ours runs them with
the first batch and then moves them off the GPU.
"""

from __future__ import annotations

import sys
from typing import Annotated

import torch
import typer
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu.shapes import FAMILIES, Family, build_part
from benchmarks.memory import LiveBytes, resident_bytes

LENGTHS = {"CLIPTextModel": 77, "CLIPTextModelWithProjection": 77}
T5_LENGTHS = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512}
"""Tokens that the families pad a text to."""


def encoders_of(family: Family, texts: int) -> tuple[int, int]:
    """Bytes of the encoders' weights, and of what a batch of so many texts adds at its peak."""
    weights, added = 0, 0
    for part, (kind, _) in family.parts.items():
        if part.startswith("text_encoder"):
            with FakeTensorMode(), torch.no_grad():
                model = build_part(family, part, torch.bfloat16)
                weights += resident_bytes(model)
                # with guidance, a negative text for each
                rows = texts * (2 if family.guidance > 1 else 1)
                ids = torch.zeros(rows, LENGTHS.get(kind) or T5_LENGTHS[family.pipeline], dtype=torch.long)
                with LiveBytes() as count:
                    model(ids, output_hidden_states=kind != "T5EncoderModel")
                added = max(added, count.peak)
    return weights, added


def main(
    families: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(FAMILIES)}; all by default.")] = None,
) -> None:
    """Show what encoders take of a GPU before and after the first batch."""
    print(
        "| model | weights, GB | a batch of 8 adds, GB | GPU, plain call at every batch | ours from the 2nd batch on |"
    )
    print("|---|---|---|---|---|")
    for name in families or FAMILIES:
        weights, eight = encoders_of(FAMILIES[name], 8)
        print(f"| {name} | {weights / 1e9:.2f} | {eight / 1e9:.2f} | {(weights + eight) / 1e9:.2f} | 0 |")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
