"""Mistakes planted in the methods are caught by the parity checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from syncclip.clip import prompted
from syncclip.clip.inserted import Inserted
from syncclip.clip.parts import BlockPart
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import classmeans, frozen, kgcoop, mma, promptkd, promptsrc, syncclip, tcp, twostage
from syncclip.methods.adapted import Adapted
from syncclip.methods.base import Method
from syncclip.methods.classmeans import ClassMeans
from syncclip.methods.cliplora import ClipLora, LowRank
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.maple import Maple
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.probe import Probe
from syncclip.methods.promptkd import PromptKd
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.settings import MethodSettings, Optimisation, TcpSettings
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.tcp import Tcp
from syncclip.methods.tip import Tip
from syncclip.methods.twostage import TwoStage
from syncclip.methods.vpt import Vpt
from tests.methods import (
    distilled,
    parity,
    test_classmeans,
    test_cliplora,
    test_mma,
    test_mmrl,
    test_parity,
    test_probe,
    test_tcp,
    test_tip,
    test_twostage,
)
from tests.methods.variants import Variant

pytestmark = pytest.mark.nightly

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def committed_files() -> Iterator[None]:
    with parity.committed():
        yield


def coop(**wanted: object) -> parity.Fixture:
    """The first variant of CoOp with some settings."""
    return next(f for f in test_parity.coop_variants() if wanted.items() <= f.config.items())


def check_twostage() -> None:
    for check in test_twostage.CHECKS:
        check(Variant("twostage", "all"))


def check_cliplora() -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_cliplora.check_training(Variant("cliplora", "both"), patch)


def check_visual(name: str) -> Callable[[], None]:
    return lambda: test_parity.CHECKS[name](parity.load(name))


CHECKS: dict[str, Callable[[], None]] = {
    "coop": lambda: parity.check_text_prompts(coop(CLASS_TOKEN_POSITION="end")),
    "coop in the middle": lambda: parity.check_text_prompts(coop(CLASS_TOKEN_POSITION="middle")),
    "cocoop": lambda: test_parity.check_cocoop(parity.load("cocoop")),
    "context": lambda: test_parity.check_context(parity.load("cocoop")),
    "kgcoop": lambda: test_parity.check_kgcoop(parity.load("kgcoop")),
    "vpt": check_visual("vpt"),
    "maple": check_visual("maple"),
    "promptsrc": check_visual("promptsrc"),
    "syncclip": lambda: test_parity.check_syncclip(parity.load("synclip")),
    "learning rate": test_parity.test_learning_rate_parity,
    "probe": lambda: test_probe.check(Variant("clap", "clap")),
    "tip cache": lambda: test_tip.check_cache(test_tip.TipVariant("main")),
    "tip": lambda: test_tip.check_finetuning("main"),
    "classmeans": lambda: test_classmeans.check(parity.tiny_clip()),
    "cliplora": check_cliplora,
    "twostage": check_twostage,
    "mma": lambda: test_mma.check(Variant("mma", "main")),
    "mmrl": lambda: test_mmrl.check(Variant("mmrl", "main")),
    "tcp": lambda: test_tcp.check(Variant("tcp", "main")),
    "promptkd": lambda: distilled.check(distilled.Distilled("main")),
}
"""The checks that must catch the mistakes."""


def replaced(target: object, name: str, change: Callable[[Any], Any]) -> Plant:
    """Replace a function or method by `change(original)`."""
    return lambda patch: patch.setattr(target, name, change(getattr(target, name)))


def weighted(method: type[Method], change: Callable[[Mapping[str, float]], dict[str, float]]) -> Plant:
    """Change the weights of the loss terms."""

    def change_init(original: Callable[..., None]) -> Callable[..., None]:
        def init(built: Method, *args: Any, **kwargs: Any) -> None:
            original(built, *args, **kwargs)
            built.weights = change(built.weights)

        return init

    return replaced(method, "__init__", change_init)


def optimised(settings: type[MethodSettings], **changes: object) -> Plant:
    """Change the optimiser."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = settings.optimisation.fget  # type: ignore[attr-defined]
        patch.setattr(settings, "optimisation", property(lambda s: original(s)._replace(**changes)))

    return plant


def shifted_read(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The text feature is read one token before the end."""

    def encode_text(clip: PromptedClip, tokens: prompted.PromptTokens, *args: Any) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(tokens, "read", tokens.read - 1)
            inner.setattr(tokens, "shared", 0)
            return original(clip, tokens, *args)

    return encode_text


def domain_tokens_last(_: object) -> Callable[..., list[Tensor]]:
    """The synthetic prompt replaces the last tokens instead of the first."""

    def domain_prompts(method: SyncClip, domains: Tensor) -> list[Tensor]:
        synthetic = domains.bool()[:, None, None]
        pairs = zip(method.vision_prompts, method.synthetic_prompts, strict=True)
        return [torch.where(synthetic, torch.cat([real[: len(real) - len(own)], own]), real) for real, own in pairs]

    return domain_prompts


def tokens_before_the_first(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def enter(inserted: Inserted, x: Tensor, block: int) -> Tensor:
        y = original(inserted, x, block)
        return y if y is x else torch.cat([y[..., 1:2, :], x[..., :1, :], y[..., 2:, :]], -2)

    return enter


def class_prompts_transposed(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The output of the network is read as (width, n) instead of (n, width)."""

    def class_prompts(method: Tcp, classes: slice = slice(None)) -> Tensor:
        prompts = original(method, classes)
        return prompts.reshape(len(prompts), prompts.shape[2], prompts.shape[1]).transpose(1, 2)

    return class_prompts


def second_stage_trains_the_towers(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.enable_grad()(original)


def constraint_summed(original: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    def terms(method: Probe, batch: parity.Batch) -> dict[str, Tensor]:
        losses = original(method, batch)
        return losses | {"constraint": losses["constraint"] * len(method.classnames)}

    return terms


def raw_features(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Features are averaged without normalisation; sums (in double precision) and class vectors are normalised."""
    return lambda x, dim: x if x.dtype == torch.float32 and not x.requires_grad else original(x, dim=dim)


def weights_swapped(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def text_features(method: ClassMeans, classes: slice = slice(None)) -> Tensor:
        method.text_weight = 1 - method.text_weight
        try:
            return original(method, classes)
        finally:
            method.text_weight = 1 - method.text_weight

    return text_features


def halved(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: weight / 2 for name, weight in weights.items()}


def swapped(first: str, second: str) -> Callable[[Mapping[str, float]], dict[str, float]]:
    return lambda weights: {**weights, first: weights[second], second: weights[first]}


def unnormalised_scores(_: object) -> Callable[..., Tensor]:
    return lambda s, images, text: s.clip.logit_scale * images @ text.T


MISTAKES: list[tuple[str, str, Plant]] = [
    # loss weights
    ("syncclip", "swapped weights", weighted(SyncClip, swapped("alignment", "synthetic"))),
    ("promptsrc", "swapped weights", weighted(PromptSrc, swapped("text", "image"))),
    ("kgcoop", "half weight", weighted(KgCoOp, halved)),
    ("tcp", "half weight", weighted(Tcp, halved)),
    ("mmrl", "swapped weights", weighted(Mmrl, swapped("classification", "representation"))),
    ("probe", "sum over classes", replaced(Probe, "terms", constraint_summed)),
    # position and order of tokens
    ("syncclip", "text tokens", replaced(prompted, "place", lambda f: lambda x, v, slots: f(x, v, slots - 1))),
    ("syncclip", "feature read too early", replaced(PromptedClip, "encode_text", shifted_read)),
    ("syncclip", "domain tokens last", replaced(SyncClip, "domain_prompts", domain_tokens_last)),
    ("coop in the middle", "name at the end", replaced(prompted, "arrange", lambda f: lambda *a: f(*a[:-1], "end"))),
    (
        "vpt",
        "reversed blocks",
        replaced(
            Vpt,
            "image_features",
            lambda _: lambda s, x, *_: s.clip.encode_images(x, list(s.vision_prompts)[::-1]),
        ),
    ),
    (
        "maple",
        "one projection for all blocks",
        replaced(Maple, "vision_prompts", lambda _: lambda s: [s.projections[0](p) for p in s.text_prompts]),
    ),
    ("mmrl", "tokens before the first", replaced(Inserted, "enter", tokens_before_the_first)),
    ("mmrl", "reversed maps", replaced(Mmrl, "_inserted", lambda f: lambda s, t, maps: f(s, t, [*reversed(maps)]))),
    ("tcp", "one block earlier", replaced(tcp, "checked_block", lambda f: lambda *a: f(*a) - 1)),
    ("tcp", "transposed class prompts", replaced(Tcp, "class_prompts", class_prompts_transposed)),
    # normalisation and templates
    ("syncclip", "raw features in scores", replaced(Method, "scores", unnormalised_scores)),
    (
        "syncclip",
        "normalised alignment",
        replaced(syncclip, "alignment", lambda f: lambda r, s, *a: f(normalize(r, dim=-1), normalize(s, dim=-1), *a)),
    ),
    ("promptsrc", "raw features in l1", replaced(promptsrc, "normalize", lambda _: lambda x, dim: x)),
    (
        "promptsrc",
        "normalised templates",
        replaced(FrozenTexts, "_encode", lambda f: lambda s, template: normalize(f(s, template), dim=-1)),
    ),
    (
        "cocoop",
        "raw features in the network",
        replaced(CoCoOp, "contexts", lambda _: lambda s, x: s.text_prompts[0] + s.meta_net(x)[:, None]),
    ),
    ("vpt", "underscores in names", replaced(frozen, "readable_name", lambda _: lambda name: name)),
    ("twostage", "raw class vectors", replaced(twostage, "normalize", lambda _: lambda x, dim: x)),
    ("tip cache", "first view only", replaced(Tip, "prepare", lambda f: lambda s, views: f(s, list(views)[:1]))),
    ("tip cache", "linear affinity", replaced(torch, "exp", lambda f: lambda x: 1 + x if x.dim() else f(x))),
    ("classmeans", "first view only", replaced(ClassMeans, "prepare", lambda f: lambda s, v: f(s, list(v)[:1]))),
    ("classmeans", "raw features in the mean", replaced(classmeans, "normalize", raw_features)),
    ("classmeans", "weights swapped", replaced(ClassMeans, "text_features", weights_swapped)),
    (
        "promptkd",
        "normalised before the projector",
        replaced(PromptKd, "raw_features", lambda f: lambda s, x: normalize(f(s, x), dim=-1)),
    ),
    # gradients
    ("syncclip", "detached target", replaced(syncclip, "alignment", lambda f: lambda r, *a: f(r.detach(), *a))),
    (
        "kgcoop",
        "detached text features",
        replaced(kgcoop, "cosine_similarity", lambda f: lambda a, b, dim: f(a.detach(), b, dim=dim)),
    ),
    ("promptsrc", "detached student", replaced(promptsrc, "divergence", lambda f: lambda t, s: f(t, s.detach()))),
    (
        "maple",
        "detached text prompts",
        replaced(
            Maple,
            "vision_prompts",
            lambda _: lambda s: [to(p.detach()) for to, p in zip(s.projections, s.text_prompts, strict=True)],
        ),
    ),
    ("mma", "true gradients", replaced(mma, "_scaled", lambda _: lambda x, value, gradient: x * value)),
    (
        "promptkd",
        "class vectors with gradient",
        replaced(PromptKd, "text_features", lambda _: lambda s, c=slice(None): s.class_vectors[c]),
    ),
    (
        "twostage",
        "towers trained in the second stage",
        replaced(TwoStage, "loss_features", second_stage_trains_the_towers),
    ),
    # divergence and temperature
    ("promptsrc", "reversed divergence", replaced(promptsrc, "divergence", lambda f: lambda t, s: f(s, t))),
    (
        "kgcoop",
        "squared distance",
        replaced(kgcoop, "cosine_similarity", lambda _: lambda a, b, dim: 2 * cosine_similarity(a, b, dim=dim) - 1),
    ),
    (
        "promptkd",
        "temperature not squared",
        replaced(promptkd, "distillation", lambda f: lambda p, s, heat: f(p, s, heat) / heat**2),
    ),
    # average, stages, adapters
    (
        "promptsrc",
        "epochs from zero",
        replaced(promptsrc, "gaussian_weights", lambda f: lambda epochs, mean, std: f(epochs, mean + 1, std)),
    ),
    ("promptsrc", "no average", replaced(PromptSrc, "epoch_ended", lambda _: Ivlp.epoch_ended)),
    (
        "learning rate",
        "another warm-up",
        replaced(test_parity, "learning_rate", lambda f: lambda base, e, n, warmup, lr: f(base, e, n, warmup + 1, lr)),
    ),
    ("twostage", "rounded switch", replaced(Optimisation, "switch", lambda _: lambda s, n: round(n * s.first_stage))),
    ("twostage", "texts for all classes", replaced(TwoStage, "text_features", lambda _: Adapted.text_features)),
    (
        "cliplora",
        "scale of the update",
        replaced(LowRank, "_update", lambda f: lambda s, name, x: f(s, name, x) / len(s.a[name]) ** 0.5),
    ),
    (
        "cliplora",
        "query not adapted",
        replaced(LowRank, "linear", lambda f: lambda s, n, *a: (BlockPart.linear if n == "q" else f)(s, n, *a)),
    ),
    (
        "mma",
        "inner layers not shared",
        replaced(
            mma,
            "_adapters",
            lambda f: lambda w, n, s, scale: f(w, n, dict(zip(s, [*s.values()][::-1], strict=True)), scale),
        ),
    ),
    ("mmrl", "class token alone", replaced(Mmrl, "logits_given", lambda _: Method.logits_given)),
    ("tip", "eps of Adam", optimised(Tip.Settings, eps=1e-8)),
    ("cliplora", "no weight decay", optimised(ClipLora.Settings, weight_decay=0.0)),
    ("tcp", "decoupled weight decay", optimised(TcpSettings, optimizer="adamw")),
]
"""(check, name, mistake)"""


@pytest.mark.parametrize("check", CHECKS)
def test_checks_pass_without_mistakes(check: str) -> None:
    CHECKS[check]()


@pytest.mark.parametrize(
    ("check", "plant"), [pytest.param(check, plant, id=f"{check}: {name}") for check, name, plant in MISTAKES]
)
def test_mistake_is_caught(check: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.tiny_clip(), "text_cache", {})
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="differ|not close"):
        CHECKS[check]()


@pytest.mark.parametrize("name", ["cocoop", "kgcoop", "synclip", "vpt", "maple", "promptsrc"])
def test_missing_weight_decay_is_caught(name: str) -> None:
    fixture = parity.load(name)
    info = fixture.info | {"optim": fixture.info["optim"] | {"weight_decay": 0}}
    with pytest.raises(AssertionError, match="parameter differs by"):
        parity.check_steps(parity.Fixture(fixture.name, fixture.tensors, info))
