"""What a pipeline's text encoders make of a text: computed once, and shared by all of its images."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 2 << 30
"""Of embeddings that a process keeps, in main memory: of 500 texts of FLUX.1, or of 9,000 of Stable Diffusion."""

GUIDED = "do_classifier_free_guidance"
SHORT, LONG = "a", "a photo of a cat " * 12
"""Texts that show whether embeddings are equally long."""

Texts = tuple[str | None, ...]
"""Of an image: its prompt; in some families one for each encoder."""


class _Form(NamedTuple):
    """The tuple that `encode_prompt` returns."""

    prompts: list[int]
    """Places of tensors with a row for each prompt."""
    negatives: list[int]
    """Places of tensors with a row for each negative prompt; none without guidance."""
    others: list[Any]
    """What is the same for all texts, at its place."""


class _Key(NamedTuple):
    """Of kept embeddings: all that their bits depend on."""

    told: str
    size: int
    negative: bool
    texts: Texts


class TextEmbeddings:
    """Takes the place of a pipeline's `encode_prompt`, which its call asks for the embeddings of a batch.

    Texts are encoded in batches of one size, filled up by repetition: an embedding's last bits may depend on how many
    are computed at once. So they are those that the pipeline itself computes in such a batch or, on a CPU, in any of
    several images. A batch of one image has its own.

    Where an embedding's length depends on the other prompts of a batch, all is encoded anew for each batch.

    Args:
        pipeline: a loaded one, whose class has an `encode_prompt`.
        size: images in a batch of the plan; None: open, so that each batch has its own size.
        most_bytes: of the embeddings that are kept, those that were used last.
    """

    def __init__(self, pipeline: Any, size: int | None, most_bytes: int = MOST_BYTES) -> None:
        self.encoded = 0
        """Texts that were encoded, negative prompts included."""
        self._encode, self._signature = pipeline.encode_prompt, inspect.signature(pipeline.encode_prompt)
        self._device, self._size, self._most_bytes = pipeline._execution_device, size, most_bytes
        self._forms: dict[str, _Form | None] = {}
        self._kept: OrderedDict[_Key, dict[int, Tensor]] = OrderedDict()
        self._bytes = 0
        self._ahead: list[Texts] = []
        self._pipelines: list[Any] = []
        self._away: dict[str, Any] = {}
        self._stay = True
        self.serve(pipeline)

    def serve(self, pipeline: Any) -> None:
        """Take the same place in another form of the pipeline, with the same encoders."""
        self._pipelines.append(pipeline)
        pipeline.encode_prompt = self

    def encode_ahead(self, prompts: Iterable[str]) -> None:
        """With the first batch, encode these as well; if all can be kept, the encoders leave their device then."""
        self._ahead = [(prompt,) for prompt in prompts]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The embeddings of a batch, as the pipeline's own method returns them."""
        import torch

        given = dict(self._signature.bind(*args, **kwargs).arguments)
        prompts, negatives = _texts(given, "prompt"), _texts(given, "negative_prompt")
        form = self._form(given, prompts)
        if form is None:
            return self._run(given)
        told, size = _fixed(given), 1 if len(prompts) == 1 else self._size or len(prompts)
        positive = [_Key(told, size, False, texts) for texts in prompts]
        negative = [_Key(told, size, True, texts) for texts in negatives or [()] * len(prompts)]
        found = self._rows(given, form, [*positive, *negative] if form.negatives else positive)
        joined = list(form.others)
        for keys, places in ((positive, form.prompts), (negative, form.negatives)):
            for place in places:
                joined[place] = torch.stack([found[key][place] for key in keys]).to(self._device)
        if self._ahead and size > 1 and len(prompts[0]) == 1:
            each, self._ahead, ahead = _bytes(found[positive[0]]), [], self._ahead
            if each * len(ahead) <= self._most_bytes:
                self._rows(given, form, [_Key(told, size, False, texts) for texts in ahead])
                self.leave()
        return tuple(joined)

    def leave(self) -> None:
        """Move the encoders into main memory; they come back for a text that is missing."""
        self._stay = False
        for pipeline in self._pipelines:
            for name in _encoders(pipeline):
                self._away[name] = getattr(pipeline, name).to("cpu")
                setattr(pipeline, name, None)

    def _run(self, given: Mapping[str, Any]) -> Any:
        """The pipeline's own method, with its encoders."""
        for name, encoder in self._away.items():
            for pipeline in self._pipelines:
                setattr(pipeline, name, encoder.to(self._device))
        self._away.clear()
        found = self._encode(**given)
        if not self._stay:
            self.leave()
        return found

    def _rows(self, given: Mapping[str, Any], form: _Form, keys: Sequence[_Key]) -> dict[_Key, dict[int, Tensor]]:
        """The rows of each key; what is missing is encoded first, and the oldest forgotten."""
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        while missing:
            prompts, negatives = ([key for key in missing if key.negative is one] for one in (False, True))
            prompts, negatives = prompts[: keys[0].size], negatives[: keys[0].size]
            new = self._run(self._changed(given, prompts or [keys[0]], negatives))
            for part, places in ((prompts, form.prompts), (negatives, form.negatives)):
                for number, key in enumerate(part):
                    found[key] = {place: new[place][number].cpu().clone() for place in places}
            self.encoded += len(prompts) + len(negatives)
            missing = [key for key in missing if key not in found]
        for key, rows in found.items():
            self._bytes += _bytes(rows) * (key not in self._kept)
            self._kept[key] = rows
            self._kept.move_to_end(key)
        while self._bytes > self._most_bytes:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return found

    def _form(self, given: Mapping[str, Any], prompts: Sequence[Texts]) -> _Form | None:
        """What is returned for arguments like these; None where it is no tuple of equally long embeddings."""
        embedded = any(value is not None for name, value in given.items() if name.endswith("_embeds"))
        if not prompts or embedded or given.get("num_images_per_prompt", 1) != 1:
            return None
        told = _fixed(given)
        if told not in self._forms:
            self._forms[told] = self._found_form(given, len(prompts[0]))
        return self._forms[told]

    def _found_form(self, given: Mapping[str, Any], parts: int) -> _Form | None:
        def answer(text: str, size: int, guided: bool) -> Any:
            prompt, negative = (_Key("", size, kind, (text,) * parts) for kind in (False, True))
            return self._run(self._changed(given, [prompt], [negative] if guided else []))

        guided = bool(given.get(GUIDED))
        two, three, alone = answer(SHORT, 2, guided), answer(LONG, 3, guided), answer(SHORT, 2, False)
        if not isinstance(two, tuple):
            return None
        form = _Form([], [], list(two))
        for place, (one, other, without) in enumerate(zip(two, three, alone, strict=True)):
            if one is None:
                continue
            if (one.shape[0], other.shape[0]) == (2, 3) and one.shape[1:] == other.shape[1:]:
                (form.negatives if without is None else form.prompts).append(place)
            elif one.shape != other.shape or not bool((one == other).all()):
                return None
        return form

    def _changed(self, given: Mapping[str, Any], prompts: Sequence[_Key], negatives: Sequence[_Key]) -> dict[str, Any]:
        """The arguments with other texts, repeated to as many as the keys' size; guidance only with negative ones."""
        texts = {*_names(given, "prompt"), *_names(given, "negative_prompt")}
        changed = {name: value for name, value in given.items() if name not in texts}
        for stem, keys in (("prompt", prompts), ("negative_prompt", negatives)):
            rows = [key.texts for key in keys] + [keys[0].texts] * (keys[0].size - len(keys)) if keys else []
            columns = zip(*rows, strict=True)
            changed |= {name: list(texts) for name, texts in zip(_names(given, stem), columns, strict=False)}
        if GUIDED in self._signature.parameters:
            changed[GUIDED] = bool(negatives)
        return changed


def _names(given: Mapping[str, Any], stem: str) -> list[str]:
    """The arguments `prompt`, `prompt_2`, ... that are lists of texts."""
    names = (stem, *(f"{stem}_{number}" for number in (2, 3, 4)))
    return [name for name in names if isinstance(given.get(name), list)]


def _texts(given: Mapping[str, Any], stem: str) -> list[Texts]:
    """The texts of each image."""
    return list(zip(*(given[name] for name in _names(given, stem)), strict=True))


def _fixed(given: Mapping[str, Any]) -> str:
    """All arguments but the texts."""
    texts = {*_names(given, "prompt"), *_names(given, "negative_prompt")}
    return str({name: value for name, value in given.items() if name not in texts})


def _encoders(pipeline: Any) -> list[str]:
    return [name for name, part in pipeline.components.items() if name.startswith("text_encoder") and part is not None]


def _bytes(rows: Mapping[int, Tensor]) -> int:
    return sum(row.nbytes for row in rows.values())
