"""Settings of a training: what learns from what, how long, how fast, and what is kept on the way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from syncclip.settings import Settings


class TrainingSettings(Settings):
    """Section `training` of a recipe. The learning rate is the method's own (`methods.<name>.learning_rate`)."""

    method: str = "syncclip"
    data: Literal["real", "synthetic", "both"] = "both"
    synthetic: str | None = None  # folder or URL of the synthetic set; None: where this recipe's `synth` wrote it
    images_per_class: int | None = Field(None, ge=1)  # the first so many synthetic images of each class; None: all
    seed: int = Field(1, ge=0)

    epochs: int = Field(10, ge=1)
    batch: int = Field(16, ge=1)  # real images a step over all workers; each brings a seen and a novel synthetic one
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    warmup_rate: float = Field(1e-5, gt=0)
    scale: tuple[float, float] = (0.08, 1.0)  # range of the random resized crop's area, as a share of the picture
    flip: float = Field(0.5, ge=0, le=1)  # chance of a mirrored picture

    workers: int = Field(1, ge=1)  # ranks that share every batch
    threads: int = Field(1, ge=1)  # torch threads a worker; another number may change the last bits of a result
    device: Literal["auto", "cpu", "cuda"] = "auto"
    window: int = Field(8, ge=1)  # shards that a stretch of the stream draws from
    cache_images: int = Field(1 << 30, ge=0)  # bytes of decoded pictures that may be kept in memory
    corrupt_limit: int = Field(10, ge=0)  # unreadable pictures that are skipped before training stops

    log_every: int = Field(1, ge=1)  # steps between two lines of metrics
    checkpoint_every: int = Field(100, ge=1)  # steps between two checkpoints
    keep_checkpoints: int = Field(2, ge=1)  # newest ones kept; with 1 a damaged one costs the whole run

    @model_validator(mode="after")
    def _hangs_together(self) -> TrainingSettings:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"scale is [{low}, {high}], but must hold two shares of a picture, 0 < smaller <= larger <= 1"
            )
        if self.workers > self.batch:
            raise ValueError(
                f"{self.workers} workers cannot share a batch of {self.batch}; use at most {self.batch} workers "
                "or a larger training.batch"
            )
        return self


class EvaluationSettings(Settings):
    """Section `evaluation` of a recipe."""

    split: Literal["test", "val"] = "test"
    batch: int = Field(256, ge=1)  # pictures a forward pass
    bins: int = Field(15, ge=1)  # of the calibration error
