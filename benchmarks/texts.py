"""Compare the GPU memory of text encoders with and without cached embeddings: `python -m benchmarks.texts`.

Models have their published shapes in bf16 but no data, so tensor sizes are added up without allocating memory. A plain
loop keeps the encoders on the GPU and runs them for every batch. If the embeddings of all texts fit in host memory, our
generator runs the encoders when the first batch is processed, and then moves them off the GPU.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu.shapes import FAMILIES, Family, build_part
from benchmarks.memory import LiveBytes, resident_bytes

LENGTHS = {"CLIPTextModel": 77, "CLIPTextModelWithProjection": 77}
T5_LENGTHS = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512}
"""Padded text length in tokens, by encoder class; for T5, by pipeline class."""


def encoders_of(family: Family, texts: int) -> tuple[int, int]:
    """Return the bytes of the encoders' weights, and the peak bytes of a batch of texts."""
    weights, added = 0, 0
    for part, (kind, _) in family.parts.items():
        if part.startswith("text_encoder"):
            with FakeTensorMode(), torch.no_grad():
                model = build_part(family, part, torch.bfloat16)
                weights += resident_bytes(model)
                rows = texts * (2 if family.guidance > 1 else 1)
                ids = torch.zeros(rows, LENGTHS.get(kind) or T5_LENGTHS[family.pipeline], dtype=torch.long)
                with LiveBytes() as count:
                    model(ids, output_hidden_states=kind != "T5EncoderModel")
                added = max(added, count.peak)
    return weights, added


def main(
    families: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(FAMILIES)}; default: all.")] = None,
) -> None:
    """Print the GPU memory of the encoders."""
    print("| model | weights, GB | a batch of 8 adds, GB | plain loop, GB | ours from the second batch on, GB |")
    print("|---|---|---|---|---|")
    for name in families or FAMILIES:
        weights, eight = encoders_of(FAMILIES[name], 8)
        print(f"| {name} | {weights / 1e9:.2f} | {eight / 1e9:.2f} | {(weights + eight) / 1e9:.2f} | 0 |", flush=True)


if __name__ == "__main__":
    typer.run(main)
