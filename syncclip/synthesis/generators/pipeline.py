"""The local generator, a diffusers pipeline that generates one image for each (prompt, seed) pair."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from PIL import Image, ImageOps

from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.synthesis.generators.acceleration import CompiledCode
from syncclip.synthesis.generators.arguments import call_arguments, size_of
from syncclip.synthesis.generators.endpoint import Endpoint
from syncclip.synthesis.generators.loading import OOM_REMEDY, load
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.text_embeddings import TextEmbeddings
from syncclip.synthesis.generators.weights import locate

NSFW = "nsfw"
"""Key in an image's `info` for the result of the pipeline's safety checker."""

SECTION = 2**20
"""Random 32-bit numbers in each section of a sequence (see `random_generator`). The noise of an image of 2048 x 2048
pixels with 16 latent channels consists of as many numbers."""

_Pixels = tuple[Any, bool | None]
"""An image, as an (H, W, 3) uint8 array or a PIL image, and the result of the pipeline's safety checker."""


class Generator:
    """Generator that runs a diffusers pipeline in this process.

    Image i depends on prompt i, seed i, guide i and the settings. Its least significant bits also depend on the batch,
    the device type and the number of torch threads. Noise is always generated on the CPU.

    Args:
        device: torch device.
        fingerprint: fingerprint of the planned weights, from `locate`; empty for a new plan.

    Attributes:
        computed: seconds during which the device was busy, measured on the GPU's stream or as the thread's CPU time.

    Raises:
        UserError: the pipeline is missing, unreadable or not a text-to-image pipeline, doesn't have the planned
            weights, or doesn't support a setting.
    """

    def __init__(self, settings: GeneratorSettings, device: str = "cpu", fingerprint: str = "") -> None:
        self.settings = settings
        self.device = device
        self.computed = 0.0
        located = locate(settings, fingerprint)
        shares = settings.compile and settings.compile_cache
        self._code = CompiledCode(settings, device, located.fingerprint) if shares else None
        self.pipeline = load(settings, located, device)
        size = settings.batch_size
        encodes = hasattr(self.pipeline, "encode_prompt")
        self.texts = TextEmbeddings(self.pipeline, None if size == "auto" else size) if encodes else None
        self._arguments = call_arguments(self.pipeline, settings)
        if settings.guide is not None:
            self._guided = _image_to_image(self.pipeline)
            if self.texts is not None:
                self.texts.attach(self._guided)
            self._guided_arguments = call_arguments(self._guided, settings, guided=True)
            self._size = size_of(self.pipeline, settings)

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], guides: Sequence[Image.Image | None] = ()
    ) -> list[Image.Image]:
        """Generate one RGB image for each (prompt, seed) pair, as one batch.

        Args:
            guides: real image that each generated image starts from, or None for noise; empty: no guides. Images with
                a guide are generated as a second batch.
        """
        return self.start(prompts, seeds, guides)()

    def start(
        self, prompts: Sequence[str], seeds: Sequence[int], guides: Sequence[Image.Image | None] = ()
    ) -> Callable[[], list[Image.Image]]:
        """Generate the pixels, and return a function that converts them to images in any thread."""
        assert len(prompts) == len(seeds) > 0 and len(guides) in (0, len(seeds))
        guided = [i for i, guide in enumerate(guides) if guide is not None]
        unguided = [i for i in range(len(seeds)) if i not in set(guided)]
        generated: dict[int, _Pixels] = {}
        if unguided:
            pixels = self._call(self.pipeline, self._arguments, prompts, seeds, unguided)
            generated |= zip(unguided, pixels, strict=True)
        if guided:
            starts = [ImageOps.fit(guides[i].convert("RGB"), self._size) for i in guided]  # type: ignore[union-attr]
            arguments = {**self._guided_arguments, "image": starts}
            generated |= zip(guided, self._call(self._guided, arguments, prompts, seeds, guided), strict=True)
        return lambda: [_image(*generated[i]) for i in range(len(seeds))]

    def _call(
        self,
        pipeline: Any,
        arguments: dict[str, Any],
        prompts: Sequence[str],
        seeds: Sequence[int],
        rows: Sequence[int],
    ) -> list[_Pixels]:
        """Generate the images at positions `rows` as one batch."""
        import torch

        if "negative_prompt" in arguments:
            arguments = {**arguments, "negative_prompt": [arguments["negative_prompt"]] * len(rows)}
        devices = [self.device] if self.device.startswith("cuda") else []
        output_type = "pt" if type(pipeline).__module__.startswith("diffusers.") else "pil"  # custom code may edit PIL
        code = nullcontext() if self._code is None else self._code.shared(len(rows))
        with torch.inference_mode(), torch.random.fork_rng(devices), warnings.catch_warnings(), code, self._timed():
            warnings.simplefilter("ignore")
            torch.manual_seed(seeds[rows[0]])  # some schedulers also use torch's global generator
            try:
                output = pipeline(
                    prompt=[prompts[i] for i in rows],
                    generator=[random_generator(seeds[i]) for i in rows],
                    output_type=output_type,
                    **arguments,
                )
            except Exception as error:
                pipeline.maybe_free_model_hooks()  # reset the step cache
                raise _translated(error, self.settings) from error
            images = output.images
            if isinstance(images, torch.Tensor):  # (B, 3, H, W) in [0, 1]
                images = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        flags = getattr(output, "nsfw_content_detected", None) or [None] * len(images)
        return list(zip(images, flags, strict=True))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the device time of the `with` block to `computed`."""
        import torch

        if not self.device.startswith("cuda"):
            start = time.thread_time()
            yield
            self.computed += time.thread_time() - start
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        last.synchronize()
        self.computed += first.elapsed_time(last) / 1e3


AnyGenerator = Generator | Endpoint


def generator_of(settings: GeneratorSettings, device: str, fingerprint: str, token: str | None = None) -> AnyGenerator:
    """Return the endpoint or local generator for the settings."""
    return Endpoint(settings, fingerprint, token) if settings.endpoint else Generator(settings, device, fingerprint)


def random_generator(seed: int) -> Any:
    """Return a `torch.Generator` on the CPU that depends on all bits of a seed from `seeds.seed_of`.

    torch's generator on the CPU uses only the low 32 bits; the high bits select a section of its sequence.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in range(seed >> 32):
        torch.empty(SECTION, dtype=torch.int32).random_(generator=generator)
    return generator


def _image(pixels: Any, flag: bool | None) -> Image.Image:
    image = pixels.convert("RGB") if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if flag is not None:
        image.info[NSFW] = bool(flag)
    return image


def _image_to_image(pipeline: Any) -> Any:
    """Return the corresponding image-to-image pipeline, which shares the weights."""
    import diffusers

    auto: Any = diffusers.AutoPipelineForImage2Image
    guided: Any = None
    with suppress(ValueError):  # the family has none
        guided = auto.from_pipe(pipeline)
    if guided is None or "strength" not in inspect.signature(type(guided).__call__).parameters:
        name = type(pipeline).__name__
        raise UserError(
            f"synthesis.generator.guide: a {name} can't start from real images; remove guide, or use "
            "a different pipeline"
        )
    guided.set_progress_bar_config(disable=True)
    return guided


def _translated(error: Exception, settings: GeneratorSettings) -> Exception:
    """Convert a pipeline's error to a `UserError` with a remedy, or to a different error if a retry may succeed."""
    import torch

    module = type(error).__module__
    if settings.compile and module.startswith(("torch._dynamo", "torch._inductor")):
        key, remedy = ("compile", "use compile=false") if settings.speed == "exact" else ("speed", "use speed=exact")
        return UserError(f"synthesis.generator.{key}: torch.compile failed ({first_line(error)}); {remedy}")
    if isinstance(error, torch.OutOfMemoryError):  # a retry may succeed if other processes share the GPU
        return torch.OutOfMemoryError(f"a batch doesn't fit in memory; reduce batch_size, or {OOM_REMEDY}")
    if type(error) in (ValueError, TypeError):
        return UserError(f"generator {settings.pipeline!r} failed with these settings: {first_line(error)}")
    return error
