"""Settings for training (method, data, schedule, checkpoints) and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from syncclip.core.labels import LabelSelector
from syncclip.core.settings import Settings, UserError, added
from syncclip.core.text import counted
from syncclip.methods.settings import Optimisation, TestDomain

SCHEDULES: Mapping[str, str] = {
    "real": "steps follow the real images",
    "synthetic": "steps follow the synthetic images",
    "longer": "steps follow the more numerous images, real or synthetic",
}
"""Value of `training.epochs_over` -> description of the training schedule."""


class MixedDataset(Settings):
    """Dataset in a mix, given as `{url: sets/a, weight: 2}` or just as a folder or URL."""

    url: str
    """Folder or URL of the dataset."""
    weight: float = Field(1.0, gt=0)
    """Sampling weight relative to other datasets with images of the same class (synthetic dataset), or number of
    occurrences of each image per epoch (real dataset)."""

    @model_validator(mode="before")
    @classmethod
    def _by_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


def _kind(value: object) -> str:
    return MixedDataset.__name__ if isinstance(value, list | tuple) else "text"


class TrainingSettings(Settings):
    """The `training` section of a recipe. Each method has its own learning rate (`methods.<name>.learning_rate`)."""

    method: str = "syncclip"
    """Method to train: one of the names in `methods`, or `module:Class` for a custom method."""
    data: Literal["real", "synthetic", "both", "all_real"] = "both"
    """Images to train on. "all_real" is an upper bound that also uses real images of novel classes, which are
    unavailable in practice."""
    synthetic: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[tuple[MixedDataset, ...], Tag(MixedDataset.__name__)],
            Discriminator(_kind),
        ]
        | None
    ) = None
    """Folder or URL of the synthetic dataset, or a list of datasets to mix; by default, the output of `syncclip synth`
    for this recipe."""
    teacher: str | None = added(None)
    """Folder or URL of soft labels for the synthetic dataset (output of `syncclip teacher`), for distillation."""
    real: tuple[MixedDataset, ...] = added(())
    """Additional real datasets with the same classes, such as packed datasets; each dataset contributes its own
    few-shot sample."""
    images_per_class: int | None = Field(None, ge=1)
    """Number of synthetic images per class to train on, starting from the first; by default, all images."""
    seed: int = Field(1, ge=0)
    """Random seed for the few-shot sample, the initial prompts, the data order and the augmentations."""

    epochs: int = Field(10, ge=1)
    """Number of passes over the training data (see `epochs_over`)."""
    epochs_over: Literal["real", "synthetic", "longer"] = added("real")
    """Length of an epoch: one pass over the real images, one pass over the synthetic images, or the longer of the two.
    With "real", the number of steps does not depend on the number of synthetic images."""
    batch_size: int = Field(16, ge=1)
    """Number of real images per step, summed over all workers. Each real image is paired with one synthetic image of
    its class and one synthetic image of a novel class."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum."""
    weight_decay: float = Field(5e-4, ge=0)
    """SGD weight decay."""
    warmup_epochs: int = Field(1, ge=0)
    """Number of warm-up epochs at `warmup_learning_rate`, before the cosine schedule."""
    warmup_learning_rate: float = Field(1e-5, gt=0)
    """Constant learning rate during the warm-up epochs."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Minimum and maximum area of random resized crops, as fractions of the image area."""
    flip_probability: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""

    workers: int = Field(1, ge=1)
    """Number of data-parallel workers (ranks). Every batch is split evenly among the workers."""
    min_workers: int | None = added(None, ge=1)
    """Minimum number of workers for elastic training, which uses up to `workers` workers if resources are available; by
    default, exactly `workers`."""
    label_selector: LabelSelector = added({"ray.io/market-type": "!spot"})
    """Ray node labels required for training workers: a mapping from labels to values, or to "!value" to exclude a
    value. The default excludes spot nodes; {} allows any node."""
    max_failures: int = added(2, ge=0)
    """Maximum number of restarts after losing a worker or a loader process; if exceeded, the run fails."""
    accumulation_steps: int = added(1, ge=1)
    """Number of micro-batches into which each worker's batch is split to save memory. Activations are recomputed in the
    backward pass; the gradients are the same as for the whole batch."""
    threads: int = Field(1, ge=1)
    """Number of PyTorch threads per worker. Changing the number of threads may change the last bits of results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of each worker; "auto" selects a GPU if available, otherwise the CPU."""
    shuffle_window: int | None = Field(None, ge=1)
    """Number of shards in each synthetic dataset's sliding window, from which each step samples images; by default, all
    shards."""
    cache_images: int = Field(256 << 20, ge=0)
    """Maximum size of each worker's in-memory cache of decoded images, in bytes."""
    cache_bytes: int = added(4 << 30, ge=0)
    """Maximum size of the local cache of remote shards on each machine, in bytes."""
    cache_folder: str | None = added(None)
    """Folder for the local cache of remote shards, shared by all workers on a machine; by default, a per-user temporary
    folder."""
    verify_shards: bool = added(True)
    """Verify the checksum of each shard when it is copied or first opened."""
    prefetch_threads: int = Field(1, ge=0)
    """Number of prefetching threads per worker or, with `loader_processes`, number of batches prefetched by each
    process."""
    loader_processes: int = added(0, ge=0)
    """Number of batch-loading processes per worker; 0 loads batches in threads (see `prefetch_threads`)."""
    max_corrupt_images: int = Field(16, ge=0)
    """Maximum number of unreadable images, each replaced with a different image of its class; training stops if the
    limit is exceeded."""

    log_every: int = Field(1, ge=1)
    """Number of steps between lines in `metrics.jsonl`."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = added(())
    """Experiment trackers to log to, in addition to `metrics.jsonl`; trackers require the `tracking` extra."""
    tracking_project: str = added("syncclip")
    """Name of the MLflow experiment or Weights & Biases project."""
    mlflow_uri: str | None = added(None)
    """MLflow server URI; by default, the value of the MLFLOW_TRACKING_URI environment variable. Credentials in the URI
    are redacted in all files."""
    checkpoint_every: int = Field(100, ge=1)
    """Number of steps between checkpoints."""
    checkpoint_minutes: float | None = added(None, gt=0)
    """Maximum time between checkpoints, in minutes; unlimited by default."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of recent checkpoints to keep. With 1, the run starts over if the checkpoint is damaged."""
    keep_best: Literal["loss", "validation"] | None = added(None)
    """Criterion for the best checkpoint, which is kept in addition to recent checkpoints: "loss" (mean since the
    previous checkpoint) or "validation" (accuracy). By default, only recent checkpoints are kept."""

    @model_validator(mode="after")
    def _check_consistency(self) -> TrainingSettings:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale is [{low}, {high}], but must be two fractions of the image area with 0 < min <= max <= 1"
            )
        if self.synthetic == ():
            raise ValueError("synthetic is an empty list; add a synthetic dataset, or remove the setting")
        for mixed in (self.real, self.synthetic):
            urls = [each.url.rstrip("/") for each in mixed] if isinstance(mixed, tuple) else []
            if twice := [url for url in urls if urls.count(url) > 1]:
                raise ValueError(
                    f"{twice[0]} is listed twice among the mixed datasets; list it once, with a higher weight"
                )
        check_shared(self.batch_size, self.workers)
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, but workers is {self.workers}; lower min_workers")
        for workers in range(self.min_workers or self.workers, self.workers):  # any number in between must work
            check_shared(self.batch_size, workers, "with training.min_workers, the number of workers may be")
        return self


def warmup_warning(training: TrainingSettings, rate: float, own: Optimisation | None) -> str | None:
    """Return a warning if all training epochs are warm-up epochs, otherwise None.

    Args:
        rate: the method's learning rate.
        own: the method's optimiser and schedule, or None for the recipe's SGD.
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
            f"{who} {workers}, but a batch of {counted(batch, 'image')} can't be split evenly; use "
            f"{counted(fitting, 'worker')}, or a training.batch_size that is a multiple of {workers}"
        )


class EvaluationSettings(Settings):
    """The `evaluation` section of a recipe."""

    split: Literal["test", "val"] = "test"
    """Split to evaluate on: "test", or "val" (validation), which is also used for tuning hyperparameters."""
    batch_size: int = Field(256, ge=1)
    """Number of images per forward pass."""
    bins: int = Field(15, ge=1, le=1_000_000)
    """Number of bins for the expected calibration error."""
    calibrate: bool = added(False)
    """Calibrate confidences by temperature scaling, fitted on the validation images of base classes."""
    test_domains: list[TestDomain] = added([])
    """Additional domains whose prompts are used to encode the test images in the same pass (see
    `methods.syncclip.test_domain`); the results are written to `test_domains/DOMAIN` in the run folder, with the run's
    temperature."""
    workers: int | None = added(None, ge=1)
    """Number of cluster workers for evaluation; by default, evaluation after training uses `training.workers`, and
    `syncclip evaluate` runs in the local process."""
    transfer: list[str] = Field(default=[])
    """Names of other datasets in `dataset.root` on which to evaluate the finished run, each with its own classes."""
