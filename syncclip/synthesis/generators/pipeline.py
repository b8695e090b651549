"""The generator: one image for each prompt and seed."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from PIL import Image, ImageOps

from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.synthesis.generators.acceleration import CompiledCode
from syncclip.synthesis.generators.arguments import call_arguments, size_of
from syncclip.synthesis.generators.endpoint import Endpoint
from syncclip.synthesis.generators.loading import OOM_REMEDY, load
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.texts import TextEmbeddings
from syncclip.synthesis.generators.weights import locate

NSFW = "nsfw"
"""Key of an image's `info` with the result of the pipeline's safety checker, where it has one."""

_Pixels = tuple[Any, bool | None]
"""An image as (H, W, 3) uint8 or in the pipeline's own format, and the result of its safety checker."""


class Generator:
    """Generates images with one pipeline; holds its weights.

    Image i depends on prompt i, seed i, guide i, the settings and, in its last bits, on the batch that it is generated
    in, the kind of device and torch's number of threads. Its noise is always generated on the CPU.

    Args:
        settings: the pipeline and its options.
        device: `cpu`, `cuda` or another torch device.
        fingerprint: of the weights, from `locate` when the plan was made; other weights are an error.

    Attributes:
        computed: seconds in which the device was busy: for a GPU the time of its stream, otherwise the thread's CPU
            time. It is less than the elapsed time where other processes compete for the processors.

    Raises:
        UserError: the pipeline is missing, changed, unreadable or not text-to-image, or doesn't support a setting.
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
        """One RGB image for each (prompt, seed), generated as one batch.

        Args:
            guides: real image to start from, None for noise; images with a guide are a batch of their own. Empty: all
                start from noise.
        """
        return self.start(prompts, seeds, guides)()

    def start(
        self, prompts: Sequence[str], seeds: Sequence[int], guides: Sequence[Image.Image | None] = ()
    ) -> Callable[[], list[Image.Image]]:
        """`generate` without the last step from pixels to images, which the returned function does on any thread."""
        assert len(prompts) == len(seeds) > 0 and len(guides) in (0, len(seeds))
        guided = [i for i, guide in enumerate(guides) if guide is not None]
        free = [i for i in range(len(seeds)) if i not in set(guided)]
        generated: dict[int, _Pixels] = {}
        if free:
            generated |= zip(free, self._call(self.pipeline, self._arguments, prompts, seeds, free), strict=True)
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
        """Generate some rows as one batch."""
        import torch

        if "negative_prompt" in arguments:
            arguments = {**arguments, "negative_prompt": [arguments["negative_prompt"]] * len(rows)}
        devices = [self.device] if self.device.startswith("cuda") else []
        kind = "pt" if type(pipeline).__module__.startswith("diffusers.") else "pil"  # custom code may change images
        code = nullcontext() if self._code is None else self._code.shared(len(rows))
        with torch.inference_mode(), torch.random.fork_rng(devices), warnings.catch_warnings(), code, self._timed():
            warnings.simplefilter("ignore")
            torch.manual_seed(seeds[rows[0]])  # some schedulers also use torch's global generator
            try:
                output = pipeline(
                    prompt=[prompts[i] for i in rows],
                    generator=[torch.Generator("cpu").manual_seed(seeds[i]) for i in rows],
                    output_type=kind,
                    **arguments,
                )
            except Exception as error:
                pipeline.maybe_free_model_hooks()  # the next batch must not see the rest of a step cache
                raise _translated(error, self.settings) from error
            images = output.images
            if isinstance(images, torch.Tensor):  # (B, 3, H, W) from 0 to 1; a quarter of its bytes leaves the device
                images = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        flags = getattr(output, "nsfw_content_detected", None) or [None] * len(images)
        return list(zip(images, flags, strict=True))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the device time of the block to `computed`."""
        import torch

        if not self.device.startswith("cuda"):
            begun = time.thread_time()
            yield
            self.computed += time.thread_time() - begun
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        last.synchronize()
        self.computed += first.elapsed_time(last) / 1e3


AnyGenerator = Generator | Endpoint


def generator_of(settings: GeneratorSettings, device: str, fingerprint: str, token: str | None = None) -> AnyGenerator:
    """The generator or endpoint of the settings, with the arguments of both."""
    return Endpoint(settings, fingerprint, token) if settings.endpoint else Generator(settings, device, fingerprint)


def _image(pixels: Any, flag: bool | None) -> Image.Image:
    image = pixels.convert("RGB") if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if flag is not None:
        image.info[NSFW] = bool(flag)
    return image


def _image_to_image(pipeline: Any) -> Any:
    """The image-to-image pipeline of the family, with the same weights."""
    import diffusers

    auto: Any = diffusers.AutoPipelineForImage2Image
    name = type(pipeline).__name__
    missing = f"synthesis.generator.guide: a {name} can't start from real images; remove it, or use another pipeline"
    try:
        guided = auto.from_pipe(pipeline)
    except ValueError as error:
        raise UserError(missing) from error
    if "strength" not in inspect.signature(type(guided).__call__).parameters:
        raise UserError(missing)
    guided.set_progress_bar_config(disable=True)
    return guided


def _translated(error: Exception, settings: GeneratorSettings) -> Exception:
    """A `UserError` with a remedy; the error itself where a retry may succeed."""
    import torch

    module = type(error).__module__
    if settings.compile and module.startswith(("torch._dynamo", "torch._inductor")):
        key, remedy = ("compile", "set it to false") if settings.speed == "exact" else ("speed", "use exact")
        return UserError(f"synthesis.generator.{key}: torch.compile fails here ({first_line(error)}); {remedy}")
    if isinstance(error, torch.OutOfMemoryError):  # a retry may succeed where other processes share the GPU
        return torch.OutOfMemoryError(f"a batch doesn't fit into memory: make batch_size smaller, or {OOM_REMEDY}")
    if type(error) in (ValueError, TypeError):
        return UserError(f"generator {settings.pipeline!r} can't generate with these settings: {first_line(error)}")
    return error
