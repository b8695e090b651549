"""Reference numbers produced by the published code of the methods, and their comparison with ours.

The folder is `tests/data/parity`, or SYNCCLIP_PARITY_DIR. Class names, settings, depths and optimiser are read from
the header of each file; shapes follow from its tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from open_clip.model import build_model_from_openai_state_dict
from open_clip.tokenizer import SimpleTokenizer
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.backbone import Backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import METHODS
from syncclip.methods.base import Method
from tests.methods.upstream import SETTINGS, TERMS, our_method, ours

COMMITTED = Path(__file__).parents[1] / "data" / "parity"
FOLDER = Path(os.environ.get("SYNCCLIP_PARITY_DIR") or COMMITTED)

LIMITS = {
    "logits": 1e-4,
    "raw": 1e-4,
    "normalised": 1e-5,
    "loss": 5e-5,
    "gradient": 1e-4,  # relative to the tensor's largest entry
    "trajectory": 5e-5,
    "parameter": 2e-6,
    "exact": 0.0,
}
"""Largest differences allowed."""


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    domains: Tensor
    sizes: tuple[int, int, int]
    teacher: Tensor | None = None


def real_batch(images: Tensor, labels: Tensor) -> Batch:
    return Batch(images, labels, torch.zeros_like(labels), (len(images), 0, 0))


@dataclass
class Fixture:
    """Tensors and header of a file."""

    name: str
    tensors: dict[str, Tensor]
    info: dict[str, Any]

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.info["config"])

    @property
    def classnames(self) -> list[str]:
        return list(self.info["classnames"])

    @property
    def base(self) -> int:
        return int(self.config.get("n_base", len(self.classnames)))

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def check_close(self, kind: str, key: str, value: Tensor) -> None:
        check_close(kind, f"{self.name}:{key}", value, self[key])


def check_close(kind: str, name: str, value: Tensor, reference: Tensor) -> None:
    """Assert that a tensor differs from the reference by at most the limit of its kind."""
    assert value.shape == reference.shape, (name, tuple(value.shape), tuple(reference.shape))
    scale = max(float(reference.abs().max()), 1e-30) if kind == "gradient" else 1.0
    gap = float((value.detach().double() - reference.double()).abs().max()) / scale
    assert gap <= LIMITS[kind], f"{name}: {kind} differs by {gap:.3g}, more than {LIMITS[kind]:g}"


@cache
def load(name: str) -> Fixture:
    with safe_open(_path(name), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        return Fixture(name, tensors, json.loads(file.metadata().get("info", "{}")))


def _path(name: str) -> Path:
    """Path of a file; the committed one if another folder lacks it."""
    path = FOLDER / f"{name}.safetensors"
    assert any(FOLDER.glob("*.safetensors")), f"SYNCCLIP_PARITY_DIR: no reference numbers in {FOLDER}"
    return path if path.exists() else COMMITTED / path.name


@cache
def tiny_clip() -> PromptedClip:
    """The CLIP of all reference numbers."""
    weights = dict(load("clip_tiny").tensors)
    model = build_model_from_openai_state_dict(weights, quick_gelu=True, cast_dtype=torch.float32).float()
    size = model.visual.image_size
    backbone = Backbone(
        name="clip_tiny",
        model=model,
        tokenizer=SimpleTokenizer(),
        preprocess=lambda image: image,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        image_size=size if isinstance(size, int) else size[0],
    )
    return PromptedClip(backbone)


@contextmanager
def committed() -> Iterator[None]:
    """Read the committed files whatever SYNCCLIP_PARITY_DIR is."""
    global FOLDER
    before, FOLDER = FOLDER, COMMITTED
    for cached in (load, tiny_clip):
        cached.cache_clear()
    try:
        yield
    finally:
        FOLDER = before
        for cached in (load, tiny_clip):
            cached.cache_clear()


def names(*fixtures: str) -> list[str]:
    """The files that exist in the folder; all of them if it is the committed one."""
    return [name for name in fixtures if FOLDER == COMMITTED or _path(name).exists()]


def build(fixture: Fixture, published_parameters: bool = True) -> Method:
    """The method of a file, with the file's parameters or newly initialised."""
    name, config = our_method(fixture.info["method"]), fixture.config
    settings = SETTINGS[name](config)
    method = METHODS[name](tiny_clip(), fixture.classnames, fixture.base, config.get("template", ""), settings)
    if published_parameters:
        method.load_state_dict({ours(name): value for name, value in fixture.under("param.").items()})
    return method


def batch_of(fixture: Fixture) -> Batch:
    """Real images, and seen and novel synthetic ones if the file contains them."""
    real, labels = fixture["in.images"], fixture["in.labels"]
    if "in.syn_images" not in fixture.tensors:
        return real_batch(real, labels)
    synthetic, synthetic_labels = fixture["in.syn_images"], fixture["in.syn_labels"]
    domains = torch.cat([torch.zeros_like(labels), torch.ones_like(synthetic_labels)])
    sizes = (len(real), len(real), len(synthetic) - len(real))
    return Batch(torch.cat([real, synthetic]), torch.cat([labels, synthetic_labels]), domains, sizes)


def gradients(method: Method, loss: Tensor) -> dict[str, Tensor]:
    """Gradients by parameter name; zero for parameters that the loss does not depend on."""
    names, values = zip(*method.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for n, v, g in zip(names, values, grads, strict=True)}


def check_gradients(fixture: Fixture, prefix: str, method: Method, loss: Tensor) -> None:
    """Gradients in the file are equal to ours; those that are not in the file, or zero there, are zero."""
    references = {ours(name): value for name, value in fixture.under(prefix).items()}
    for name, gradient in gradients(method, loss).items():
        reference = references.get(name)
        if reference is None or not reference.any():
            assert not gradient.any(), f"{fixture.name}: {prefix}{name} differs: it is not zero"
        else:
            check_close("gradient", f"{fixture.name}: {prefix}{name}", gradient, reference)


def check_ids(ids: Tensor, reference: Tensor) -> None:
    """Token IDs are equal; ours have less padding."""
    check_close("exact", "token IDs", ids, reference[..., : ids.shape[-1]])
    assert not reference[..., ids.shape[-1] :].any()


def check_start(fixture: Fixture) -> None:
    """Token IDs, and the initial words of the prompts."""
    method = build(fixture, published_parameters=False)
    check_ids(method.tokens.ids, fixture["in.tokenized_prompts"])
    start = fixture.under("init.").get("prompt_learner.ctx")
    assert (method.tokens.initial is None) == (start is None)
    if start is not None:
        check_close("exact", "initial words", method.text_prompts[0], start)


def check_forward(fixture: Fixture, method: Method) -> None:
    """Text features, and image features of real images."""
    text, raw = method.text_features(), method.image_features(fixture["in.images"])
    fixture.check_close("normalised", "out.text_features", text)
    fixture.check_close("raw", "out.image_features_raw", raw)
    fixture.check_close("normalised", "out.image_features", normalize(raw, dim=-1))


def check_loss(fixture: Fixture, method: Method) -> dict[str, Tensor]:
    """Logits, total loss and gradients of a batch; returns the loss terms."""
    fixture.check_close("logits", "out.logits", method.logits(fixture["in.images"]))
    losses = method.loss(batch_of(fixture))
    fixture.check_close("loss", "loss.total", losses["total"])
    check_gradients(fixture, "grad.", method, losses["total"])
    return losses


def check_text_prompts(fixture: Fixture) -> tuple[Method, dict[str, Tensor]]:
    """Features, logits, loss and gradients of a method with text prompts; returns the method and its loss terms."""
    method = build(fixture)
    check_forward(fixture, method)
    fixture.check_close(
        "raw", "out.text_features_raw", method.clip.encode_text(method.tokens, list(method.text_prompts))
    )
    return method, check_loss(fixture, method)


def check_parameters(fixture: Fixture, prefix: str, method: Method) -> None:
    parameters = dict(method.named_parameters())
    for name, value in fixture.under(prefix).items():
        check_close("parameter", f"{fixture.name}: {prefix}{name}", parameters[ours(name)], value)


def check_steps(fixture: Fixture, steps: int = 5) -> None:
    """Losses and final parameters of some steps of SGD at a constant rate."""
    method, batch = build(fixture), batch_of(fixture)
    optimizer = torch.optim.SGD(method.parameters(), **fixture.info["optim"])
    course: dict[str, list[Tensor]] = {key: [] for key in TERMS if f"traj.{key}" in fixture.tensors}
    for step in range(steps + 1):
        losses = method.loss(batch)
        for key, values in course.items():
            values.append(losses[TERMS[key]].detach())
        if step < steps:
            optimizer.zero_grad()
            losses["total"].backward()
            optimizer.step()
    for key, values in course.items():
        fixture.check_close("trajectory", f"traj.{key}", torch.stack(values[: len(fixture[f"traj.{key}"])]))
    check_parameters(fixture, "traj.param.", method)
