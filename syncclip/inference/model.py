"""A trained run as a model that names the classes of images; it needs the run's folder and its CLIP, no dataset."""

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
from syncclip.core.settings import UserError, with_one_place
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
"""Images in one forward pass, and threads that read and decode those of the next."""

ImageLike = str | PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor
"""A path or URL; a PIL image; an array (H, W, 3) or (H, W) of uint8; a tensor (3, H, W) of uint8, or of floats as the
model's `preprocess` returns it."""
Given = TypeVar("Given")
Read = TypeVar("Read")

_TURN = threading.Lock()


@contextmanager
def computing() -> Iterator[None]:
    """One thread at a time, without gradients: which attention a tower runs with (`clip.blocks.attend`) is set for the
    whole process, and threads that change it under each other would also leave it changed."""
    with _TURN, torch.no_grad():
        yield


class Label(NamedTuple):
    """A class and how likely an image shows it, among all classes of the model."""

    name: str
    probability: float


class Model:
    """A trained run. Calls may come from several threads, which take turns.

    Attributes:
        url: of the run.
        run_hash: of the run's recipe.
        classes: names of the classes, by label.
        base: how many of them, the first ones, had real training images.
        recipe: of the run.
        told: what the run's folder says of its classes and its CLIP.
        method: with what it learned, in evaluation mode.
        others: (C,) True for classes that no image may have, those beside `told.only`.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, classes: RunClasses, method: Method) -> None:
        self.url, self.classes, self.base = folder.url, list(classes.classnames), classes.base_count
        self.recipe, self.told, self._folder = recipe, classes, folder
        self.run_hash = folder.recipe_hash
        self.method = method.eval()
        self.others = torch.ones(len(self.classes), dtype=torch.bool)
        self.others[list(range(len(self.classes)) if classes.only is None else classes.only)] = False

    def __repr__(self) -> str:
        return f"<syncclip.Model {self._folder.name}: {len(self.classes)} classes, {self.told.clip}>"

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.method.clip.device

    @overload
    def classify(self, images: ImageLike, top: int = 5) -> list[Label]: ...  # type: ignore[overload-overlap]

    @overload
    def classify(self, images: Iterable[ImageLike], top: int = 5) -> list[list[Label]]: ...

    def classify(self, images: Any, top: int = 5) -> list[Label] | list[list[Label]]:
        """The likeliest classes of an image, or of each of several, the likeliest first.

        Args:
            images: one, or an iterable or batch of them, see `ImageLike`.
            top: how many classes; at most all of them.

        Raises:
            UserError: an image can't be read, or is none.
        """
        one = _is_one(images)
        found = self.labels(self.probabilities([images] if one else images), top)
        return found[0] if one else found

    def labels(self, probabilities: npt.NDArray[np.float64], top: int = 5) -> list[list[Label]]:
        """The likeliest classes of each row of `probabilities` (n, C)."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Label(self.classes[label], float(row[label])) for label in best]
            for row, best in zip(probabilities, order.tolist(), strict=True)
        ]

    def probabilities(self, images: Iterable[ImageLike], batch: int = BATCH) -> npt.NDArray[np.float64]:
        """(n, C) probability of each class for each image, in the order of `classes`; rows sum to 1."""
        scores = [self.batch_probabilities(pixels) for pixels in self._batches(images, batch)]
        return np.concatenate(scores) if scores else np.zeros((0, len(self.classes)))

    def image_features(self, images: Iterable[ImageLike], batch: int = BATCH) -> npt.NDArray[np.float32]:
        """(n, D) features of images through the tower with its learned prompts, of length 1."""
        found = [self._image_features(pixels) for pixels in self._batches(images, batch)]
        return np.concatenate(found) if found else np.zeros((0, self._width), np.float32)

    def text_features(self) -> npt.NDArray[np.float32]:
        """(C, D) features of the classes, of length 1; of a method whose texts depend on the image, as CoCoOp's do,
        those of an image without influence."""
        with computing():
            features: npt.NDArray[np.float32] = self.method.text_features().float().cpu().numpy()
        return features

    def preprocess(self, image: ImageLike) -> Tensor:
        """(3, S, S) float tensor of an image, as the towers read it."""
        if isinstance(image, Tensor) and image.is_floating_point():
            return image
        pixels: Tensor = self.method.clip.backbone.preprocess(open_image(image))
        return pixels

    def with_classes(self, classes: Sequence[str], template: str | None = None) -> Model:
        """The same prompts around other class names, without any training.

        Args:
            classes: their names, at least one.
            template: a sentence with `{}` for the name, for methods that read one; None: the run's.

        Raises:
            UserError: what the method learned belongs to its own classes, or a name does not fit the CLIP's context.
        """
        names = [] if isinstance(classes, str) else list(classes)
        if not names or len({*names}) < len(names) or not all(name.strip() and name.isprintable() for name in names):
            raise UserError(f"classes: {classes!r} are no names, each once; give some, as in ['cat', 'dog']")
        template = with_one_place(self.told.template if template is None else template)
        new = {"classnames": names, "base_count": len(names), "only": None, "template": template}
        others = self.told.model_copy(update=new)
        method = build_for(self.recipe, self.method.clip, others)
        carry_over(self.recipe, self._folder, method, "other classes")
        return Model(self.recipe, self._folder, others, method.to(self.device))

    @property
    def _width(self) -> int:
        return int(self.text_features().shape[1])

    def _image_features(self, pixels: Tensor) -> npt.NDArray[np.float32]:
        with computing():
            features = normalize(self.method.image_features(pixels.to(self.device)), dim=-1)
        found: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return found

    def batch_probabilities(self, pixels: Tensor) -> npt.NDArray[np.float64]:
        """`probabilities` of a batch (B, 3, S, S) of images that `preprocess` has prepared."""
        with computing():
            logits = self.method.logits(pixels.to(self.device)).double().cpu() / self.told.temperature
        found: npt.NDArray[np.float64] = logits.masked_fill(self.others, -torch.inf).softmax(1).numpy()
        return found

    def _batches(self, images: Iterable[ImageLike], size: int) -> Iterator[Tensor]:
        """(B, 3, S, S) of the images, in order."""
        return map(torch.stack, read_ahead(self.preprocess, images, size))


def load(run: str, backbone: str | None = None, pretrained: str | None = None, device: str = "auto") -> Model:
    """The model of a finished run, from its folder alone.

    Args:
        run: folder or URL, or `hf://owner/name` on the Hugging Face hub, see `readable_run`.
        backbone: where the run's CLIP is now, as `backbone.name` of a recipe; None: where it was in the training.
        pretrained: the same of `backbone.pretrained`.
        device: auto (a GPU where there is one), cpu or cuda.

    Raises:
        UserError: there is no finished run, here or on the hub, or its CLIP is not there or another one.

    Examples:
        >>> from PIL import Image
        >>> from syncclip import load
        >>> model = load("runs/first")
        >>> labels = model.classify(Image.new("RGB", (64, 64)), top=3)
        >>> model.base, len(model.classes), [label.name in model.classes for label in labels]
        (7, 14, [True, True, True])
    """
    recipe, folder, _ = readable_run(run)
    places = {"backbone.name": backbone, "backbone.pretrained": pretrained}
    recipe = recipe.with_values({key: value for key, value in places.items() if value is not None})
    method, classes = build_trained(recipe, folder)
    return Model(recipe, folder, classes, method.to(device_of(device, "device")))


def read_ahead(read: Callable[[Given], Read], items: Iterable[Given], size: int) -> Iterator[list[Read]]:
    """What `read` makes of items, in order and `size` at a time; threads read the next batch while one is used."""
    rows = iter(items)
    with thread_pool(DECODERS, "decode") as readers:
        ahead = [readers.submit(read, row) for row in islice(rows, size)]
        while ahead:
            ready, ahead = ahead, [readers.submit(read, row) for row in islice(rows, size)]
            yield [one.result() for one in ready]


def open_image(image: ImageLike) -> Image.Image:
    """An RGB image from whatever shows one.

    Raises:
        UserError: it can't be read, or is no image.
    """
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
    shape, kind = getattr(image, "shape", ""), getattr(image, "dtype", type(image).__name__)
    raise UserError(
        f"no image: {kind} {tuple(shape) if shape else ''}".rstrip() + "; give a path, a PIL image, an array (H, W, 3) "
        "of uint8, or a tensor (3, H, W)"
    )


def _is_one(images: Any) -> bool:
    """Whether this is one image, and no batch of them."""
    if isinstance(images, np.ndarray):
        return images.ndim in (2, 3)
    if isinstance(images, Tensor):
        return images.dim() == 3
    return isinstance(images, str | PathLike | Image.Image)
