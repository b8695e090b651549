"""Text embedding cache that encodes each prompt only once for all of its images."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

MAX_CACHE_BYTES = 2 << 30
"""Maximum size of the cache in host memory, in bytes; enough for 500 FLUX.1 or 9,000 Stable Diffusion prompts."""

GUIDED = "do_classifier_free_guidance"
SHORT, LONG = "a", "a photo of a cat " * 12
"""Texts of different lengths, to detect whether embeddings have a fixed length."""

Texts = tuple[str | None, ...]
"""Prompts of an image; some pipeline families use one prompt per text encoder."""


class _Form(NamedTuple):
    """Structure of the tuple that `encode_prompt` returns."""

    prompts: list[int]
    """Positions of tensors with one row per prompt."""
    negatives: list[int]
    """Positions of tensors with one row per negative prompt; empty without guidance."""
    others: list[Any]
    """Template of the tuple, with the values that do not depend on the texts."""


class _Key(NamedTuple):
    """Key of a cached embedding, consisting of all values that affect the embedding."""

    options: str
    size: int
    negative: bool
    texts: Texts


class TextEmbeddings:
    """Caching replacement for a pipeline's `encode_prompt` method.

    Texts are encoded in batches of `size`, padded by repetition, since the batch size may affect an embedding's least
    significant bits. Batches with a single image are not padded. Embeddings whose length depends on the other prompts
    in the batch are not cached.

    Args:
        pipeline: a loaded pipeline with an `encode_prompt` method.
        size: images per batch; None: the actual size of each batch.
        max_bytes: maximum size of the cache, which evicts the least recently used embeddings.
    """

    def __init__(self, pipeline: Any, size: int | None, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.encoded = 0
        """Number of encoded texts, including negative prompts."""
        self._encode, self._signature = pipeline.encode_prompt, inspect.signature(pipeline.encode_prompt)
        self._device, self._size, self._max_bytes = pipeline._execution_device, size, max_bytes
        self._forms: dict[str, _Form | None] = {}
        self._cache: OrderedDict[_Key, dict[int, Tensor]] = OrderedDict()
        self._bytes = 0
        self._ahead: list[Texts] = []
        self._pipelines: list[Any] = []
        self._offloaded: dict[str, Any] = {}
        self._offload = False
        self.attach(pipeline)

    def attach(self, pipeline: Any) -> None:
        """Replace the `encode_prompt` method of a pipeline that has the same text encoders."""
        self._pipelines.append(pipeline)
        pipeline.encode_prompt = self

    def encode_ahead(self, prompts: Iterable[str]) -> None:
        """If the cache is large enough, encode `prompts` during the first batch, then offload the encoders."""
        self._ahead = [(prompt,) for prompt in prompts]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the embeddings of a batch, like the pipeline's original method."""
        import torch

        arguments = dict(self._signature.bind(*args, **kwargs).arguments)
        prompts, negatives = _texts(arguments, "prompt"), _texts(arguments, "negative_prompt")
        form = self._form(arguments, prompts)
        if form is None:
            return self._run(arguments)
        options, size = _options(arguments), 1 if len(prompts) == 1 else self._size or len(prompts)
        positive = [_Key(options, size, False, texts) for texts in prompts]
        negative = [_Key(options, size, True, texts) for texts in negatives or [()] * len(prompts)]
        rows = self._rows(arguments, form, [*positive, *negative] if form.negatives else positive)
        result = list(form.others)
        for keys, positions in ((positive, form.prompts), (negative, form.negatives)):
            for position in positions:
                result[position] = torch.stack([rows[key][position] for key in keys]).to(self._device)
        if self._ahead and size > 1 and len(prompts[0]) == 1:
            row_bytes, self._ahead, ahead = _bytes(rows[positive[0]]), [], self._ahead
            if row_bytes * len(ahead) <= self._max_bytes:
                self._rows(arguments, form, [_Key(options, size, False, texts) for texts in ahead])
                self.offload()
        return tuple(result)

    def offload(self) -> None:
        """Keep the encoders in host memory from now on, except while they encode texts that are not cached."""
        self._offload = True
        for pipeline in self._pipelines:
            for name, part in pipeline.components.items():
                if name.startswith("text_encoder") and part is not None:
                    self._offloaded[name] = part.to("cpu")
                    setattr(pipeline, name, None)

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the pipeline's original method, with the encoders on the device."""
        for name, encoder in self._offloaded.items():
            for pipeline in self._pipelines:
                setattr(pipeline, name, encoder.to(self._device))
        self._offloaded.clear()
        result = self._encode(**arguments)
        if self._offload:
            self.offload()
        return result

    def _rows(self, arguments: Mapping[str, Any], form: _Form, keys: Sequence[_Key]) -> dict[_Key, dict[int, Tensor]]:
        """Return each key's embeddings by output position, from the cache or from the encoders."""
        by_key = {key: self._cache[key] for key in keys if key in self._cache}
        missing = [key for key in dict.fromkeys(keys) if key not in by_key]
        while missing:
            prompts = [key for key in missing if not key.negative][: keys[0].size]
            negatives = [key for key in missing if key.negative][: keys[0].size]
            encoded = self._run(self._replaced(arguments, prompts or [keys[0]], negatives))
            for part, positions in ((prompts, form.prompts), (negatives, form.negatives)):
                for number, key in enumerate(part):
                    by_key[key] = {position: encoded[position][number].cpu().clone() for position in positions}
            self.encoded += len(prompts) + len(negatives)
            missing = [key for key in missing if key not in by_key]
        for key, rows in by_key.items():
            self._bytes += _bytes(rows) * (key not in self._cache)
            self._cache[key] = rows
            self._cache.move_to_end(key)
        while self._bytes > self._max_bytes:
            self._bytes -= _bytes(self._cache.popitem(last=False)[1])
        return by_key

    def _form(self, arguments: Mapping[str, Any], prompts: Sequence[Texts]) -> _Form | None:
        """Return the structure of the result, or None if the result isn't a tuple of fixed-length embeddings."""
        embedded = any(value is not None for name, value in arguments.items() if name.endswith("_embeds"))
        if not prompts or embedded or arguments.get("num_images_per_prompt", 1) != 1:
            return None
        options = _options(arguments)
        if options not in self._forms:
            self._forms[options] = self._detect_form(arguments, len(prompts[0]))
        return self._forms[options]

    def _detect_form(self, arguments: Mapping[str, Any], parts: int) -> _Form | None:
        def encode(text: str, size: int, guided: bool) -> Any:
            key = _Key("", size, False, (text,) * parts)
            return self._run(self._replaced(arguments, [key], [key] if guided else []))

        guided = bool(arguments.get(GUIDED))
        two, three, unguided = encode(SHORT, 2, guided), encode(LONG, 3, guided), encode(SHORT, 2, False)
        if not isinstance(two, tuple):
            return None
        form = _Form([], [], list(two))
        for position, (value, other, without) in enumerate(zip(two, three, unguided, strict=True)):
            if value is None:
                continue
            if (value.shape[0], other.shape[0]) == (2, 3) and value.shape[1:] == other.shape[1:]:
                (form.negatives if without is None else form.prompts).append(position)
            elif value.shape != other.shape or not bool((value == other).all()):
                return None
        return form

    def _replaced(
        self, arguments: Mapping[str, Any], prompts: Sequence[_Key], negatives: Sequence[_Key]
    ) -> dict[str, Any]:
        """Replace the texts in the arguments with the keys' texts, padded to the keys' batch size."""
        texts = {*_names(arguments, "prompt"), *_names(arguments, "negative_prompt")}
        replaced = {name: value for name, value in arguments.items() if name not in texts}
        for stem, keys in (("prompt", prompts), ("negative_prompt", negatives)):
            rows = [key.texts for key in keys] + [keys[0].texts] * (keys[0].size - len(keys)) if keys else []
            columns = zip(*rows, strict=True)
            replaced |= {name: list(column) for name, column in zip(_names(arguments, stem), columns, strict=False)}
        if GUIDED in self._signature.parameters:
            replaced[GUIDED] = bool(negatives)
        return replaced


def _names(arguments: Mapping[str, Any], stem: str) -> list[str]:
    """Return the names of list-valued text arguments, such as `prompt` and `prompt_2`."""
    names = (stem, *(f"{stem}_{number}" for number in (2, 3, 4)))
    return [name for name in names if isinstance(arguments.get(name), list)]


def _texts(arguments: Mapping[str, Any], stem: str) -> list[Texts]:
    """Return the texts of each image."""
    return list(zip(*(arguments[name] for name in _names(arguments, stem)), strict=True))


def _options(arguments: Mapping[str, Any]) -> str:
    """Return all arguments except for the texts, as a string."""
    texts = {*_names(arguments, "prompt"), *_names(arguments, "negative_prompt")}
    return str({name: value for name, value in arguments.items() if name not in texts})


def _bytes(rows: Mapping[int, Tensor]) -> int:
    return sum(row.nbytes for row in rows.values())
