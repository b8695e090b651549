"""One image for each prompt and seed."""

from __future__ import annotations

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
from syncclip.synthesis.generators.loading import LARGER, load
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.texts import TextEmbeddings
from syncclip.synthesis.generators.weights import locate

NSFW = "nsfw"
"""Key of an image's `info` that holds the answer of the pipeline's own safety checker, where it has one."""

_Pixels = tuple[Any, bool | None]
"""Of an image: (H, W, 3) uint8 or what a pipeline made itself, and its safety checker's answer."""


class Generator:
    """Generates images with one pipeline; holds its weights.

    Image i depends on prompt i, seed i, guide i, the settings and, in its last bits, on the batch that it is generated
    in, on the kind of device and on torch's number of threads. Its noise is always made on the CPU.

    Args:
        settings: the pipeline and how to run it.
        device: `cpu`, `cuda` or another torch device.
        fingerprint: what `locate` gave when the plan was made; other weights than those are refused.

    Attributes:
        computed: seconds that the device has computed: of a GPU the time of its stream, else the thread's own. Where
            others use the processor it is less than the time that passed.

    Raises:
        UserError: the pipeline is missing, changed, can't be read, isn't text-to-image, or wouldn't obey a setting.
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
                self.texts.serve(self._guided)
            self._guided_arguments = call_arguments(self._guided, settings, guided=True)
            self._size = size_of(self.pipeline, settings)

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], guides: Sequence[Image.Image | None] = ()
    ) -> list[Image.Image]:
        """One RGB image for each (prompt, seed), generated as one batch.

        Args:
            guides: the real image that each starts from, None where it starts from noise; those with a guide are
                generated as a batch of their own. Nothing: all start from noise.
        """
        return self.start(prompts, seeds, guides)()

    def start(
        self, prompts: Sequence[str], seeds: Sequence[int], guides: Sequence[Image.Image | None] = ()
    ) -> Callable[[], list[Image.Image]]:
        """`generate` without the last step, from pixels to images, which what is returned does on any thread."""
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
        """Some rows, as one batch."""
        import torch

        if "negative_prompt" in arguments:
            arguments = {**arguments, "negative_prompt": [arguments["negative_prompt"]] * len(rows)}
        devices = [self.device] if self.device.startswith("cuda") else []
        kind = "pt" if type(pipeline).__module__.startswith("diffusers.") else "pil"  # others may work on images
        code = nullcontext() if self._code is None else self._code.shared(len(rows))
        with torch.inference_mode(), torch.random.fork_rng(devices), warnings.catch_warnings(), code, self._counted():
            warnings.simplefilter("ignore")
            torch.manual_seed(seeds[rows[0]])  # some schedulers also draw from torch's own generator
            try:
                output = pipeline(
                    prompt=[prompts[i] for i in rows],
                    generator=[torch.Generator("cpu").manual_seed(seeds[i]) for i in rows],
                    output_type=kind,
                    **arguments,
                )
            except Exception as error:
                pipeline.maybe_free_model_hooks()  # no batch begins with what another has left in a step cache
                raise _told(error, self.settings) from error
            images = output.images
            if isinstance(images, torch.Tensor):  # (B, 3, H, W) from 0 to 1; a quarter of its bytes leaves the device
                images = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        flags = getattr(output, "nsfw_content_detected", None) or [None] * len(images)
        return list(zip(images, flags, strict=True))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Add to `computed` what the block takes of the device."""
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
    """What generates by the settings; see the arguments of both."""
    return Endpoint(settings, fingerprint, token) if settings.endpoint else Generator(settings, device, fingerprint)


def _image(pixels: Any, flag: bool | None) -> Image.Image:
    image = pixels.convert("RGB") if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if flag is not None:
        image.info[NSFW] = bool(flag)
    return image


def _image_to_image(pipeline: Any) -> Any:
    """The image-to-image form of a pipeline's family, with the same weights."""
    import inspect

    import diffusers

    auto: Any = diffusers.AutoPipelineForImage2Image
    name = type(pipeline).__name__
    missing = f"synthesis.generator.guide: a {name} can't start from real images; remove it, or use another pipeline"
    try:
        found = auto.from_pipe(pipeline)
    except ValueError as error:
        raise UserError(missing) from error
    if "strength" not in inspect.signature(type(found).__call__).parameters:
        raise UserError(missing)
    found.set_progress_bar_config(disable=True)
    return found


def _told(error: Exception, settings: GeneratorSettings) -> Exception:
    """A sentence for what the user can cure; the error itself, where trying again may help."""
    import torch

    where = type(error).__module__
    if settings.compile and where.startswith(("torch._dynamo", "torch._inductor")):
        key, cure = ("compile", "set it to false") if settings.speed == "exact" else ("speed", "use exact")
        return UserError(f"synthesis.generator.{key}: torch.compile fails here ({first_line(error)}); {cure}")
    if isinstance(error, torch.OutOfMemoryError):  # it may fit at the next try, where others use the GPU
        return torch.OutOfMemoryError(f"a batch doesn't fit into memory: make batch_size smaller, or {LARGER}")
    if type(error) in (ValueError, TypeError):
        return UserError(f"generator {settings.pipeline!r} can't generate like this: {first_line(error)}")
    return error
