"""Generation of a dataset: `syncclip synth` compared with Ray's Stable Diffusion benchmark.

Ray's formulation is one `map_batches` stage: an actor with a pipeline in bf16, batches of 32 prompts, and pixels as
rows. Both measurements include starting Ray and loading the weights. `syncclip synth` also writes shards, checksums and
markers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks.gpu.measuring import Row
from benchmarks.gpu.shapes import FAMILIES, write_index
from syncclip.core.text import first_line
from syncclip.core.trust import trust, trusted
from syncclip.runtime.ray_session import ray_session
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.arguments import call_arguments
from syncclip.synthesis.generators.loading import load
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, draft
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.workers.settings import Pool

WHATS = ("Ray's map_batches", "synth, exact", "synth, fast")
BATCH = 32
CLASSES = 32


def rows(device: str, work: Path, tiny: bool = False, images: int = 256) -> Iterator[Row]:
    """Yield the rows in `WHATS` with Stable Diffusion 1.5.

    Args:
        work: folder for the datasets.
        tiny: whether to use the small pipeline of the same class.
        images: number of images per dataset, a multiple of `BATCH`.
    """
    folder, gpus = write_index(work / "model", "sd15", tiny), float(device == "cuda")
    size = {"height": 64, "width": 64} if tiny else {}
    for what in WHATS:
        speed = "fast" if what.endswith("fast") else "exact"
        generator = FAMILIES["sd15"].settings(folder, **size, speed=speed, batch_size=BATCH)
        settings = SynthesisSettings(
            images_per_class=images // CLASSES, generator=generator, filters=(), shard_size=BATCH
        )
        names = IMAGENET_CLASSNAMES[:CLASSES]
        plan = draft(settings, dataset="ImageNet", classnames=names, template="a photo of a {}.")
        start = time.perf_counter()
        try:
            if what == WHATS[0]:
                count, shares = _with_map_batches(plan, generator, gpus), {}
            else:
                ours = synthesise_set(plan, str(work / speed), Pool(num_gpus=gpus)).work
                count, shares = ours.images, {"busy": ours.busy, "computed": ours.computed}
        except Exception as error:  # other rows continue
            yield {"what": what, "left_out": first_line(error)}
            continue
        seconds = time.perf_counter() - start
        facts = {"batch": BATCH, "steps": generator.steps, "side": generator.height, "images": count}
        yield {"what": what, **facts, "seconds": seconds, "images_s": round(count / seconds, 3), **shares}


def _with_map_batches(plan: Plan, generator: GeneratorSettings, gpus: float) -> int:
    """Generate with Ray's formulation, and return the number of images."""
    import ray.data

    prompts = [{"prompt": plan.entry(index).prompt} for index in range(plan.total)]
    arguments = (generator, "cuda" if gpus else "cpu", trusted())
    with ray_session():
        stage = ray.data.from_items(prompts).map_batches(
            Painter, fn_constructor_args=arguments, batch_size=BATCH, concurrency=1, num_gpus=gpus or None
        )
        return sum(len(batch["image"]) for batch in stage.iter_batches(batch_size=None))


class Painter:
    """Actor of the `map_batches` stage."""

    def __init__(self, settings: GeneratorSettings, device: str, names: tuple[str, ...]) -> None:
        trust(*names)
        self.pipeline = load(settings, locate(settings), device)
        self.arguments = call_arguments(self.pipeline, settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            output = self.pipeline(prompt=list(batch["prompt"]), output_type="np", **self.arguments)
        return {"image": np.asarray(output.images)}
