"""Settings of a training: what learns from what, how long, how fast, and what is kept on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from syncclip.core.settings import Settings, UserError, added
from syncclip.methods.settings import Optimisation

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^!?{_LABEL}$")]


class MixedSet(Settings):
    """One of several sets that a training mixes: `{url: sets/a, weight: 2}`, or just its folder or URL."""

    url: str
    """Folder or URL of the set."""
    weight: float = Field(1.0, gt=0)
    """Of a synthetic set: its chance among the sets that show a class. Of a real one: how often an
    epoch shows each image."""

    @model_validator(mode="before")
    @classmethod
    def _by_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


def _kind(value: object) -> str:
    return MixedSet.__name__ if isinstance(value, list | tuple) else "text"


class TrainingSettings(Settings):
    """Section `training` of a recipe. The learning rate is the method's own (`methods.<name>.learning_rate`)."""

    method: str = "syncclip"
    """What is trained: a method by its name in `methods`, or one of your own as `module:Class`."""
    data: Literal["real", "synthetic", "both", "all_real"] = "both"
    """What is learned from. "all_real": real images of the novel classes, too, as no experiment in earnest has them."""
    synthetic: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[tuple[MixedSet, ...], Tag(MixedSet.__name__)], Discriminator(_kind)
        ]
        | None
    ) = None
    """Folder or URL of the synthetic set, or a list of several; None: where this recipe's `synth` wrote it."""
    teacher: str | None = added(None)
    """Folder or URL of a teacher's files of that set, as `syncclip teacher` writes them, for methods that learn from
    its probabilities."""
    real: tuple[MixedSet, ...] = added(())
    """More datasets of the same classes, such as packed ones, whose shots are learned from beside the own ones."""
    images_per_class: int | None = Field(None, ge=1)
    """The first so many synthetic images of each class; None: all."""
    seed: int = Field(1, ge=0)
    """Of the shots, the initial prompts, the order and the crops."""

    epochs: int = Field(10, ge=1)
    """How often the images are gone through; `epochs_over` says which."""
    epochs_over: Literal["real", "synthetic", "longer"] = added("real")
    """What an epoch goes through once: the real images, as many images as the synthetic set has, or the one of these
    that takes more steps. With "real", the number of steps does not grow with the synthetic images."""
    batch_size: int = Field(16, ge=1)
    """Real images a step over all workers; each brings a seen and a novel synthetic one."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD; see torch."""
    weight_decay: float = Field(5e-4, ge=0)
    """Of SGD; see torch."""
    warmup_epochs: int = Field(1, ge=0)
    """First epochs, trained at `warmup_learning_rate`; after them the method's learning rate follows a cosine. If
    every epoch is
    one of these, that rate is never used."""
    warmup_learning_rate: float = Field(1e-5, gt=0)
    """Learning rate of the warm-up."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the random resized crop's area, as a share of the image."""
    flip_probability: float = Field(0.5, ge=0, le=1)
    """Chance of a mirrored image."""

    workers: int = Field(1, ge=1)
    """Ranks that share every batch."""
    min_workers: int | None = added(None, ge=1)
    """As few are enough: a training goes on with the workers that the cluster has room for, up to `workers`. None: as
    many as `workers`."""
    label_selector: dict[LabelKey, LabelValue] = added({"ray.io/market-type": "!spot"})
    """Labels that a Ray node requires to train or to run a cell of a study: label -> value, or "!value" for any other
    value or none. The default avoids nodes labelled as spot, and selects every node where none has labels; {}: any
    node. Generation ignores it."""
    max_failures: int = added(2, ge=0)
    """Times that lost workers are replaced before a run is given up."""
    accumulation_steps: int = added(1, ge=1)
    """Parts in which a worker's images of a step pass the tower, one after the other. The step stays that of the
    whole batch; only memory is saved, for the time of one more pass."""
    threads: int = Field(1, ge=1)
    """Torch threads a worker; another number may change the last bits of a result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """On which a worker computes; auto: a GPU where there is one."""
    shuffle_window: int | None = Field(None, ge=1)
    """Shards of a set that a step samples from; None: all."""
    cache_images: int = Field(256 << 20, ge=0)
    """Bytes of decoded images that may be kept in memory."""
    cache_bytes: int = added(4 << 30, ge=0)
    """Local disk that copies of remote shards may take, on each machine."""
    cache_folder: str | None = added(None)
    """Where those copies are kept, for all workers of a machine; None: the user's folder among the temporary files."""
    verify_shards: bool = added(True)
    """Compare each shard with its marker's sha256 when it is copied or first opened."""
    prefetch_threads: int = Field(1, ge=0)
    """Threads of a worker that make coming batches; of loaders, batches that each has ready."""
    loader_processes: int = added(0, ge=0)
    """Processes of a worker that make batches instead of threads; 0: none."""
    max_corrupt_images: int = Field(16, ge=0)
    """Unreadable images that are replaced by others before training stops."""

    log_every: int = Field(1, ge=1)
    """Steps between two lines of metrics."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = added(())
    """Where the numbers are shown as well, beside metrics.jsonl; the `tracking` extra installs the libraries."""
    tracking_project: str = added("syncclip")
    """Name of MLflow's experiment, or Weights & Biases' project."""
    mlflow_uri: str | None = added(None)
    """MLflow's server; None: MLFLOW_TRACKING_URI. Files hold neither its user nor a path that may be a token."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between two checkpoints."""
    checkpoint_minutes: float | None = added(None, gt=0)
    """One more whenever so much time went by since the last."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest ones kept; with 1 a damaged one costs the whole run."""
    keep_best: Literal["loss", "validation"] | None = added(None)
    """Keep the best one too: by the mean loss of the steps before it, or by the accuracy on the validation images."""

    @model_validator(mode="after")
    def _check_consistency(self) -> TrainingSettings:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale is [{low}, {high}], but must hold two shares of an image, 0 < smaller <= larger <= 1"
            )
        if self.synthetic == ():
            raise ValueError("synthetic is an empty list; name a set, or leave the key out")
        for sets in (self.real, self.synthetic):
            urls = [one.url.rstrip("/") for one in sets] if isinstance(sets, tuple) else []
            if twice := [url for url in urls if urls.count(url) > 1]:
                raise ValueError(f"{twice[0]} is named twice among the sets that are mixed; give it a weight instead")
        check_shared(self.batch_size, self.workers)
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, but workers is {self.workers}")
        for workers in range(self.min_workers or self.workers, self.workers):  # whatever a cluster has room for
            check_shared(self.batch_size, workers, "between training.min_workers and training.workers is")
        return self


def warmup_warning(training: TrainingSettings, rate: float, asked: Optimisation | None) -> str | None:
    """A warning that every epoch of a training is warm-up, so that it never reaches its learning rate; None otherwise.

    Args:
        rate: the method's learning rate.
        asked: how the method learns, see `Optimisation`.
    """
    if training.epochs > training.warmup_epochs or (asked is not None and asked.by_step):
        return None
    return (
        f"training.epochs={training.epochs} is all warm-up (training.warmup_epochs={training.warmup_epochs}): "
        f"{training.method} trains at {training.warmup_learning_rate:g} and never reaches its learning rate of "
        f"{rate:g}; "
        "increase training.epochs, or set training.warmup_epochs=0"
    )


def check_shared(batch: int, workers: int, who: str = "training.workers is") -> None:
    """Refuse a number of workers that cannot take equal parts of a batch.

    Raises:
        UserError: more workers than images, or parts of different size.
    """
    if batch % workers:
        fitting = max(n for n in range(1, workers) if batch % n == 0)
        raise UserError(
            f"{who} {workers}, but a batch of {batch} cannot be shared out evenly to so many; "
            f"use {fitting} worker(s), or a training.batch_size that is a multiple of {workers}"
        )


class EvaluationSettings(Settings):
    """Section `evaluation` of a recipe."""

    split: Literal["test", "val"] = "test"
    """On which images a run is tested. Settings are chosen on `val`."""
    batch_size: int = Field(256, ge=1)
    """Images in one forward pass."""
    bins: int = Field(15, ge=1, le=1_000_000)
    """Of the calibration error."""
    calibrate: bool = added(False)
    """Whether confidences are those of a temperature, fitted on the validation images of base classes."""
    workers: int | None = added(None, ge=1)
    """Workers of a cluster that share the images; None: after a training as many as trained, else this process."""
    transfer: list[str] = Field(default=[])
    """Other datasets that a finished run is tested on, over their classes; looked up in `dataset.root`."""
