"""Settings of a training (method, data, schedule, checkpoints) and of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from syncclip.core.settings import Settings, UserError, added
from syncclip.methods.settings import Optimisation

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^!?{_LABEL}$")]


class MixedDataset(Settings):
    """One of several datasets to mix: `{url: sets/a, weight: 2}`, or its folder or URL alone."""

    url: str
    """Folder or URL of the dataset."""
    weight: float = Field(1.0, gt=0)
    """Sampling weight of a synthetic dataset among those with images of a class; number of times that an epoch contains
    each image of a real dataset."""

    @model_validator(mode="before")
    @classmethod
    def _by_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


def _kind(value: object) -> str:
    return MixedDataset.__name__ if isinstance(value, list | tuple) else "text"


class TrainingSettings(Settings):
    """Section `training` of a recipe. The learning rate is the method's own (`methods.<name>.learning_rate`)."""

    method: str = "syncclip"
    """Method to train: a name in `methods`, or `module:Class` of a custom method."""
    data: Literal["real", "synthetic", "both", "all_real"] = "both"
    """Training data. "all_real" is the upper bound: it includes real images of novel classes, which are not available
    in practice."""
    synthetic: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[tuple[MixedDataset, ...], Tag(MixedDataset.__name__)],
            Discriminator(_kind),
        ]
        | None
    ) = None
    """Folder or URL of the synthetic dataset, or a list of several; None: the output of `syncclip synth` with this
    recipe."""
    teacher: str | None = added(None)
    """Folder or URL of soft labels for that dataset, written by `syncclip teacher`, for methods with distillation."""
    real: tuple[MixedDataset, ...] = added(())
    """Additional datasets of the same classes, such as packed datasets; their few-shot images are mixed in."""
    images_per_class: int | None = Field(None, ge=1)
    """Number of synthetic images per class (the first ones); None: all."""
    seed: int = Field(1, ge=0)
    """Random seed of the few-shot sample, the initial prompts, the data order and the augmentations."""

    epochs: int = Field(10, ge=1)
    """Number of passes over the training data (see `epochs_over`)."""
    epochs_over: Literal["real", "synthetic", "longer"] = added("real")
    """Length of an epoch: one pass over the real images, one over the synthetic images, or the longer of both. With
    "real", the number of steps does not depend on the number of synthetic images."""
    batch_size: int = Field(16, ge=1)
    """Real images per step over all workers; each is accompanied by one synthetic image of its class and one of a
    novel class."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay of SGD."""
    warmup_epochs: int = Field(1, ge=0)
    """Number of warm-up epochs at `warmup_learning_rate`, before the cosine schedule."""
    warmup_learning_rate: float = Field(1e-5, gt=0)
    """Learning rate of the warm-up."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the random resized crop's area, as a fraction of the image."""
    flip_probability: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""

    workers: int = Field(1, ge=1)
    """Number of data-parallel workers (ranks), among which every batch is split."""
    min_workers: int | None = added(None, ge=1)
    """Minimum number of workers of an elastic training, which uses up to `workers` as resources are available; None:
    exactly `workers`."""
    label_selector: dict[LabelKey, LabelValue] = added({"ray.io/market-type": "!spot"})
    """Labels of the Ray nodes on which trainings run: label -> value, or "!value" to exclude a value. The default
    excludes spot nodes; {}: any node. Generation ignores it."""
    max_failures: int = added(2, ge=0)
    """Number of restarts after lost workers before the run fails."""
    accumulation_steps: int = added(1, ge=1)
    """Number of micro-batches into which each worker's batch is split, to save memory. Activations are recomputed in
    the backward pass; the result equals that of the whole batch."""
    threads: int = Field(1, ge=1)
    """Torch threads per worker; a change may change the last bits of a result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a worker; auto: a GPU if available."""
    shuffle_window: int | None = Field(None, ge=1)
    """Number of shards of a synthetic dataset that a step samples from; None: all."""
    cache_images: int = Field(256 << 20, ge=0)
    """Memory per worker for decoded images, in bytes."""
    cache_bytes: int = added(4 << 30, ge=0)
    """Local disk space per machine for copies of remote shards, in bytes."""
    cache_folder: str | None = added(None)
    """Folder of these copies, shared by the workers of a machine; None: a temporary folder of the user."""
    verify_shards: bool = added(True)
    """Verify the checksum of each shard when it is copied or first opened."""
    prefetch_threads: int = Field(1, ge=0)
    """Threads per worker that prefetch batches; with `loader_processes`, batches prefetched by each process."""
    loader_processes: int = added(0, ge=0)
    """Processes per worker that prepare batches, instead of threads; 0: none."""
    max_corrupt_images: int = Field(16, ge=0)
    """Maximum number of unreadable images, which are replaced by others; more stop the training."""

    log_every: int = Field(1, ge=1)
    """Steps between two lines of metrics."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = added(())
    """Experiment trackers, in addition to metrics.jsonl; the `tracking` extra installs their libraries."""
    tracking_project: str = added("syncclip")
    """MLflow experiment or Weights & Biases project."""
    mlflow_uri: str | None = added(None)
    """URI of the MLflow server; None: MLFLOW_TRACKING_URI. Its credentials are redacted in all files."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between two checkpoints."""
    checkpoint_minutes: float | None = added(None, gt=0)
    """Maximum time between two checkpoints, in minutes; None: no limit."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of recent checkpoints to keep. With 1, the run starts over if the checkpoint is damaged."""
    keep_best: Literal["loss", "validation"] | None = added(None)
    """Also keep the best checkpoint, by mean loss since the previous checkpoint or by validation accuracy."""

    @model_validator(mode="after")
    def _check_consistency(self) -> TrainingSettings:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale is [{low}, {high}], but must be two fractions of the image area, 0 < min <= max <= 1"
            )
        if self.synthetic == ():
            raise ValueError("synthetic is an empty list; add a synthetic dataset, or remove the setting")
        for mixed in (self.real, self.synthetic):
            urls = [each.url.rstrip("/") for each in mixed] if isinstance(mixed, tuple) else []
            if twice := [url for url in urls if urls.count(url) > 1]:
                raise ValueError(f"{twice[0]} is listed twice among the mixed datasets; use a weight instead")
        check_shared(self.batch_size, self.workers)
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, but workers is {self.workers}")
        for workers in range(self.min_workers or self.workers, self.workers):  # any number in between must work
            check_shared(self.batch_size, workers, "between training.min_workers and training.workers is")
        return self


def warmup_warning(training: TrainingSettings, rate: float, own: Optimisation | None) -> str | None:
    """A warning if all epochs of a training are warm-up; None otherwise.

    Args:
        rate: learning rate of the method.
        own: optimiser and schedule of the method.
    """
    if training.epochs > training.warmup_epochs or (own is not None and own.by_step):
        return None
    return (
        f"training.epochs={training.epochs} is all warm-up (training.warmup_epochs={training.warmup_epochs}): "
        f"{training.method} trains at {training.warmup_learning_rate:g} and never reaches its learning rate of "
        f"{rate:g}; increase training.epochs, or set training.warmup_epochs=0"
    )


def check_shared(batch: int, workers: int, who: str = "training.workers is") -> None:
    """Raise a UserError if a batch can't be split evenly among the workers."""
    if batch % workers:
        fitting = max(n for n in range(1, workers) if batch % n == 0)
        raise UserError(
            f"{who} {workers}, but a batch of {batch} can't be split evenly; use {fitting} worker(s), or a "
            f"training.batch_size that is a multiple of {workers}"
        )


class EvaluationSettings(Settings):
    """Section `evaluation` of a recipe."""

    split: Literal["test", "val"] = "test"
    """Images to evaluate on: test images, or validation images, on which hyperparameters are tuned."""
    batch_size: int = Field(256, ge=1)
    """Images per forward pass."""
    bins: int = Field(15, ge=1, le=1_000_000)
    """Number of bins of the expected calibration error."""
    calibrate: bool = added(False)
    """Calibrate confidences by a temperature fitted on the validation images of base classes."""
    workers: int | None = added(None, ge=1)
    """Number of cluster workers for the evaluation; None: the workers of the training, or this process alone."""
    transfer: list[str] = Field(default=[])
    """Other datasets in `dataset.root` on which to evaluate a finished run, with their own classes."""
