"""Image classifier from a trained run, loaded without the run's dataset."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from syncclip import storage
from syncclip.core.settings import UserError, with_one_placeholder
from syncclip.core.text import first_line
from syncclip.methods import Method
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import RunClasses, build_for, build_trained, carry_over
from syncclip.runs.resolve import readable_run
from syncclip.runtime.threads import thread_pool
from syncclip.shards.images import decode_image, to_rgb
from syncclip.training.loop import device_of
from syncclip.training.run_folder import RunFolder

BATCH, DECODERS = 64, 4
"""Default batch size, and number of threads that decode the next batch in advance."""

ImageLike = str | PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor
"""Image: path, URL, PIL image, uint8 array (H, W, 3) or (H, W), uint8 tensor (3, H, W), or preprocessed tensor."""
Item = TypeVar("Item")
Result = TypeVar("Result")

_LOCK = threading.Lock()


@contextmanager
def computing() -> Iterator[None]:
    """Disable gradients and admit one thread at a time, since attention kernels are selected per process."""
    with _LOCK, torch.no_grad():
        yield


class Label(NamedTuple):
    """A class and its probability over all of the model's classes."""

    name: str
    probability: float


class Model:
    """Image classifier from a trained run. Calls from several threads are serialised.

    Attributes:
        url: folder or URL of the run.
        run_hash: hash of the run's recipe.
        classes: class names by class id.
        base: number of base classes, which come first.
        recipe: recipe of the run.
        metadata: classes and CLIP model of the run.
        method: trained method, in evaluation mode.
        others: (C,) boolean mask of classes that are excluded from prediction (not in `metadata.only`).
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, classes: RunClasses, method: Method) -> None:
        self.url, self.classes, self.base = folder.url, list(classes.classnames), classes.base_count
        self.recipe, self.metadata, self._folder = recipe, classes, folder
        self.run_hash = folder.recipe_hash
        self.method = method.eval()
        self.others = torch.ones(len(self.classes), dtype=torch.bool)
        self.others[list(range(len(self.classes)) if classes.only is None else classes.only)] = False

    def __repr__(self) -> str:
        return f"<syncclip.Model {self._folder.name}: {len(self.classes)} classes, {self.metadata.clip}>"

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.method.clip.device

    @overload
    def classify(self, images: ImageLike, top: int = 5) -> list[Label]: ...  # type: ignore[overload-overlap]

    @overload
    def classify(self, images: Iterable[ImageLike], top: int = 5) -> list[list[Label]]: ...

    def classify(self, images: Any, top: int = 5) -> list[Label] | list[list[Label]]:
        """Return the most probable classes for one or more images, in descending order of probability.

        Args:
            images: an image, or an iterable or batch of images (see `ImageLike`).
            top: maximum number of classes per image.

        Raises:
            UserError: an image is unreadable.
        """
        single = _is_image(images)
        labels = self.labels(self.probabilities([images] if single else images), top)
        return labels[0] if single else labels

    def labels(self, probabilities: npt.NDArray[np.float64], top: int = 5) -> list[list[Label]]:
        """Return the most probable classes for each row of `probabilities` (n, C)."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Label(self.classes[label], float(row[label])) for label in best]
            for row, best in zip(probabilities, order.tolist(), strict=True)
        ]

    def probabilities(self, images: Iterable[ImageLike], batch: int = BATCH) -> npt.NDArray[np.float64]:
        """Return class probabilities (n, C) for images, in the order of `classes`."""
        scores = [self.batch_probabilities(pixels) for pixels in self._batches(images, batch)]
        return np.concatenate(scores) if scores else np.zeros((0, len(self.classes)))

    def image_features(self, images: Iterable[ImageLike], batch: int = BATCH) -> npt.NDArray[np.float32]:
        """Return unit-length image features (n, D), computed with the learned prompts.

        For SYNC-CLIP with `test_domain: both`, these features are computed with the prompts of the real domain,
        whereas `probabilities` averages the logits of both domains.
        """
        features = [self._image_features(pixels) for pixels in self._batches(images, batch)]
        width = 0 if features else self.text_features().shape[1]
        return np.concatenate(features) if features else np.zeros((0, width), np.float32)

    def text_features(self) -> npt.NDArray[np.float32]:
        """Return unit-length class features (C, D); for CoCoOp, without the image-conditional part."""
        with computing():
            features: npt.NDArray[np.float32] = self.method.text_features().float().cpu().numpy()
        return features

    def preprocess(self, image: ImageLike) -> Tensor:
        """Convert an image to the image tower's input, a float tensor (3, S, S)."""
        if isinstance(image, Tensor) and image.is_floating_point():
            return image
        pixels: Tensor = self.method.clip.backbone.preprocess(open_image(image))
        return pixels

    def with_classes(self, classes: Sequence[str], template: str | None = None) -> Model:
        """Return a model with the same prompts and different class names, without training.

        Args:
            classes: distinct class names.
            template: prompt template, with `{}` for the class name, for methods that use it; None: the run's template.

        Raises:
            UserError: the learned parameters are class-specific, or a name exceeds CLIP's context length.
        """
        names = [] if isinstance(classes, str) else list(classes)
        if not names or len({*names}) < len(names) or not all(name.strip() and name.isprintable() for name in names):
            raise UserError(f"classes: {classes!r} is not a list of distinct names, such as ['cat', 'dog']")
        template = with_one_placeholder(self.metadata.template if template is None else template)
        new = {"classnames": names, "base_count": len(names), "only": None, "template": template}
        metadata = self.metadata.model_copy(update=new)
        method = build_for(self.recipe, self.method.clip, metadata)
        carry_over(self.recipe, self._folder, method, "other classes")
        return Model(self.recipe, self._folder, metadata, method.to(self.device))

    def _image_features(self, pixels: Tensor) -> npt.NDArray[np.float32]:
        with computing():
            features = normalize(self.method.image_features(pixels.to(self.device)), dim=-1)
        array: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return array

    def batch_probabilities(self, pixels: Tensor) -> npt.NDArray[np.float64]:
        """Return class probabilities (B, C) for preprocessed images (B, 3, S, S)."""
        with computing():
            logits = self.method.logits(pixels.to(self.device)).double().cpu() / self.metadata.temperature
        array: npt.NDArray[np.float64] = logits.masked_fill(self.others, -torch.inf).softmax(1).numpy()
        return array

    def _batches(self, images: Iterable[ImageLike], size: int) -> Iterator[Tensor]:
        """Yield batches (B, 3, S, S) of preprocessed images."""
        return map(torch.stack, read_ahead(self.preprocess, images, size))


def load(run: str, backbone: str | None = None, pretrained: str | None = None, device: str = "auto") -> Model:
    """Load a finished run as a model.

    Args:
        run: folder or URL, or `hf://owner/name` on the Hugging Face Hub.
        backbone: current `backbone.name` of the run's CLIP model, if changed since training; None: unchanged.
        pretrained: current `backbone.pretrained` of the CLIP model, if changed since training; None: unchanged.
        device: auto (a GPU if available), cpu or cuda.

    Raises:
        UserError: the run is unfinished, or the CLIP model is missing or differs from the one used in training.

    Examples:
        >>> from PIL import Image
        >>> from syncclip import load
        >>> model = load("runs/first")
        >>> labels = model.classify(Image.new("RGB", (64, 64)), top=3)
        >>> model.base, len(model.classes), [label.name in model.classes for label in labels]
        (7, 14, [True, True, True])
    """
    recipe, folder, _ = readable_run(run)
    values = {"backbone.name": backbone, "backbone.pretrained": pretrained}
    recipe = recipe.with_values({key: value for key, value in values.items() if value is not None})
    method, classes = build_trained(recipe, folder)
    return Model(recipe, folder, classes, method.to(device_of(device, "device")))


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], size: int) -> Iterator[list[Result]]:
    """Apply `read` to items in order, and yield results in batches of `size`; threads prefetch the next batch."""
    remaining = iter(items)
    with thread_pool(DECODERS, "decode") as pool:
        ahead = [pool.submit(read, item) for item in islice(remaining, size)]
        while ahead:
            batch, ahead = ahead, [pool.submit(read, item) for item in islice(remaining, size)]
            yield [future.result() for future in batch]


def open_image(image: ImageLike) -> Image.Image:
    """Convert an image to RGB; raise a `UserError` if the image is unreadable."""
    if isinstance(image, str | PathLike):
        return decode_image(storage.read_bytes(str(image)), str(image))
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except (OSError, ValueError) as error:
            raise UserError(f"unreadable PIL image: {first_line(error)}") from error
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) and image.dim() == 3 else image
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] == (3,)):
        return Image.fromarray(array).convert("RGB")
    shape, dtype = getattr(image, "shape", ""), getattr(image, "dtype", type(image).__name__)
    raise UserError(
        f"not an image: {dtype} {tuple(shape) if shape else ''}".rstrip() + "; use a path, a PIL image, a uint8 "
        "array (H, W, 3), or a tensor (3, H, W)"
    )


def _is_image(images: Any) -> bool:
    """Return whether `images` is a single image rather than a batch."""
    if isinstance(images, np.ndarray):
        return images.ndim in (2, 3)
    if isinstance(images, Tensor):
        return images.dim() == 3
    return isinstance(images, str | PathLike | Image.Image)
