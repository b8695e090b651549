"""Reference numbers made by the methods' published code, and how ours are held against them.

The folder is `tests/data/parity`, or what `SYNCCLIP_PARITY_DIR` names. Class names, settings, depths and optimiser are
read from each file's header; shapes follow from its tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
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

from syncclip.clip.backbone import Backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import METHODS
from syncclip.methods.base import Method
from syncclip.methods.syncclip import SyncClip
from tests.methods.upstream import SETTINGS, TERMS, our_method, ours

COMMITTED = Path(__file__).parents[1] / "data" / "parity"
FOLDER = Path(os.environ.get("SYNCCLIP_PARITY_DIR") or COMMITTED)

# Largest differences allowed; for gradients relative to the tensor's largest entry.
LIMITS = {
    "logits": 1e-4,
    "raw": 1e-4,
    "normalised": 1e-5,
    "loss": 5e-5,
    "gradient": 1e-4,
    "trajectory": 5e-5,
    "parameter": 2e-6,
    "exact": 0.0,
}


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    domains: Tensor
    sizes: tuple[int, int, int]
    teacher: Tensor | None = None


@dataclass
class Fixture:
    """One file: its tensors, and its header's facts."""

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

    def differs(self, kind: str, key: str, ours: Tensor) -> float:
        """The difference of one tensor, as a share of what is allowed.

        Raises:
            AssertionError: it is more than that.
        """
        return differs(kind, f"{self.name}:{key}", ours, self[key])


def differs(kind: str, what: str, ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, (what, tuple(ours.shape), tuple(theirs.shape))
    scale = max(float(theirs.abs().max()), 1e-30) if kind == "gradient" else 1.0
    gap = float((ours.detach().double() - theirs.double()).abs().max()) / scale
    assert gap <= LIMITS[kind], f"{what}: {kind} differs by {gap:.3g}, allowed are {LIMITS[kind]:g}"
    GAPS[kind] = max(GAPS.get(kind, 0.0), gap)
    return gap


GAPS: dict[str, float] = {}
"""The largest gap met of each kind, for whoever wants to know how close it was."""


@cache
def load(name: str) -> Fixture:
    with safe_open(_path(name), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        return Fixture(name, tensors, json.loads(file.metadata().get("info", "{}")))


def _path(name: str) -> Path:
    """Of a file that another folder lacks, the committed one: a folder may hold one collection alone."""
    path = FOLDER / f"{name}.safetensors"
    assert any(FOLDER.glob("*.safetensors")), f"SYNCCLIP_PARITY_DIR: {FOLDER} holds no reference numbers"
    return path if path.exists() else COMMITTED / path.name


@cache
def tiny_clip() -> PromptedClip:
    """The CLIP that all reference numbers were made with."""
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
    """Inside, the committed files are read whatever the environment names: mistakes are planted for their shapes."""
    global FOLDER
    named, FOLDER = FOLDER, COMMITTED
    for cached in (load, tiny_clip):
        cached.cache_clear()
    try:
        yield
    finally:
        FOLDER = named
        for cached in (load, tiny_clip):
            cached.cache_clear()


def build(fixture: Fixture, official_start: bool = False) -> Method:
    """The method of a file with the file's parameters, or with its own start."""
    name, config = our_method(fixture.info["method"]), fixture.config
    settings = SETTINGS[name](config)
    method = METHODS[name](tiny_clip(), fixture.classnames, fixture.base, config.get("template", ""), settings)
    if not official_start:
        theirs = fixture.under("param.")
        assert sorted(map(ours, theirs)) == sorted(method.state_dict()), "our parameters are theirs"
        method.load_state_dict({ours(name): value for name, value in theirs.items()})
    return method


def batch_of(fixture: Fixture) -> Batch:
    """Real images, and where the file has them seen and novel synthetic ones."""
    real, labels = fixture["in.images"], fixture["in.labels"]
    if "in.syn_images" not in fixture.tensors:
        return Batch(real, labels, torch.zeros_like(labels), (len(real), 0, 0))
    synthetic, synthetic_labels = fixture["in.syn_images"], fixture["in.syn_labels"]
    domains = torch.cat([torch.zeros_like(labels), torch.ones_like(synthetic_labels)])
    sizes = (len(real), len(real), len(synthetic) - len(real))
    return Batch(torch.cat([real, synthetic]), torch.cat([labels, synthetic_labels]), domains, sizes)


def gradients(method: Method, loss: Tensor) -> dict[str, Tensor]:
    """By name; zero where the loss does not reach."""
    names, values = zip(*method.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for n, v, g in zip(names, values, found, strict=True)}


def check_gradients(fixture: Fixture, prefix: str, method: Method, loss: Tensor) -> None:
    """Those that the file has are equal, and those that it has not are zero."""
    theirs = {ours(name): value for name, value in fixture.under(prefix).items()}
    for name, gradient in gradients(method, loss).items():
        reference = theirs.get(name)
        if reference is None:
            assert not gradient.any(), f"{fixture.name}: {prefix}{name} is reached"
        elif not reference.any():
            assert not gradient.any(), f"{fixture.name}: {prefix}{name} is zero"
        else:
            differs("gradient", f"{fixture.name}: {prefix}{name}", gradient, reference)


def check_tokens(fixture: Fixture, ids: Tensor) -> None:
    """Ours end where the longest text ends; behind it there is only padding."""
    theirs = fixture["in.tokenized_prompts"]
    differs("exact", "token ids", ids, theirs[:, : ids.shape[1]])
    assert not theirs[:, ids.shape[1] :].any()


def check_start(fixture: Fixture) -> None:
    """The texts, and what the words among the prompts start as."""
    method = build(fixture, official_start=True)
    check_tokens(fixture, method.tokens.ids)
    start = fixture.under("init.").get("prompt_learner.ctx")
    assert (method.tokens.initial is None) == (start is None)
    if start is not None:
        differs("exact", "first words", method.text_prompts[0], start)


def check_text_prompts(fixture: Fixture) -> tuple[Method, dict[str, Tensor]]:
    """Features, logits, loss and gradients of one batch under a method with text prompts; (method, loss terms)."""
    method = build(fixture)
    check_forward(fixture, method)
    fixture.differs("raw", "out.text_features_raw", method.clip.encode_text(method.tokens, list(method.text_prompts)))
    fixture.differs("logits", "out.logits", method.logits(fixture["in.images"]))
    losses = method.loss(batch_of(fixture))
    fixture.differs("loss", "loss.total", losses["total"])
    check_gradients(fixture, "grad.", method, losses["total"])
    return method, losses


def check_steps(fixture: Fixture) -> None:
    """Plain SGD at a constant rate: every loss on the way, and where the parameters end."""
    method, batch = build(fixture), batch_of(fixture)
    optimizer = torch.optim.SGD(method.parameters(), **fixture.info["optim"])
    met: dict[str, list[Tensor]] = {key: [] for key in TERMS if f"traj.{key}" in fixture.tensors}
    steps = 5
    for step in range(steps + 1):
        losses = method.loss(batch)
        for key, values in met.items():
            values.append(losses[TERMS[key]].detach())
        if step < steps:
            optimizer.zero_grad()
            losses["total"].backward()
            optimizer.step()
    for key, values in met.items():
        fixture.differs("trajectory", f"traj.{key}", torch.stack(values[: len(fixture[f"traj.{key}"])]))
    end = dict(method.named_parameters())
    for name, value in fixture.under("traj.param.").items():
        differs("parameter", f"{fixture.name}: traj.param.{name}", end[ours(name)], value)


def check_syncclip(fixture: Fixture) -> None:
    """Features, logits, losses and gradients of one batch."""
    method, batch = build(fixture), batch_of(fixture)
    assert isinstance(method, SyncClip)
    check_forward(fixture, method)
    real, synthetic = fixture["in.images"], fixture["in.syn_images"]
    domains = torch.ones(len(synthetic), dtype=torch.long)
    fixture.differs("raw", "out.syn_image_features_raw", method.image_features(synthetic, domains))
    logits, synthetic_logits = method.logits(real), method.logits(synthetic, domains)
    fixture.differs("logits", "out.logits_base", logits[:, : fixture.base])
    fixture.differs("logits", "out.logits_novel", logits[:, fixture.base :])
    fixture.differs("logits", "out.logits_open", logits)
    fixture.differs("logits", "out.logits_syn_seen", synthetic_logits[: len(real)])
    fixture.differs("logits", "out.logits_syn_unseen", synthetic_logits[len(real) :])

    losses = method.loss(batch)
    for key, term in {"real": "real", "syn": "synthetic", "align": "alignment", "total": "total"}.items():
        fixture.differs("loss", f"loss.{key}", losses[term])
        prefix = "grad." if key == "total" else f"grad_{key}."
        check_gradients(fixture, prefix, method, losses[term])


def check_forward(fixture: Fixture, method: Method) -> None:
    """Text features, and image features of real images."""
    text, raw = method.text_features(), method.image_features(fixture["in.images"])
    fixture.differs("normalised", "out.text_features", text)
    fixture.differs("raw", "out.image_features_raw", raw)
    fixture.differs("normalised", "out.image_features", torch.nn.functional.normalize(raw, dim=-1))


def names(*fixtures: str) -> Iterable[str]:
    """Those of the files that the folder has; all, where it is the committed one."""
    return [name for name in fixtures if FOLDER == COMMITTED or _path(name).exists()]
