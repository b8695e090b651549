"""The parity checks of the linear probe and of Tip-Adapter notice mistakes: each is planted, and must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.methods import frozen, tip
from syncclip.methods.probe import Probe
from syncclip.methods.settings import Optimisation, ProbeSettings, TipSettings
from syncclip.methods.tip import Tip
from tests.methods import parity, test_probe, test_tip

pytestmark = pytest.mark.slow

Plant = Callable[[pytest.MonkeyPatch], None]


def optimised(patch: pytest.MonkeyPatch, settings: type[Any], **changes: object) -> None:
    """A method's optimiser with other settings."""
    right = settings.optimisation.fget
    patch.setattr(settings, "optimisation", property(lambda s: right(s)._replace(**changes)))


def normalised_start(patch: pytest.MonkeyPatch) -> None:
    """The vectors start at length 1."""
    right = Probe.__init__

    def wrong(method: Probe, *given: Any) -> None:
        right(method, *given)
        method.start.raw = False

    patch.setattr(Probe, "__init__", wrong)


def names_without_underscores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frozen, "spoken", lambda name: name.replace("&#95;", " "))


def one_multiplier_for_all(patch: pytest.MonkeyPatch) -> None:
    right = Probe.prepare

    def wrong(method: Probe, views: Iterable[Iterable[parity.Batch]]) -> None:
        right(method, views)
        method.multipliers.fill_(method.multipliers.mean())

    patch.setattr(Probe, "prepare", wrong)


def constrained_otherwise(patch: pytest.MonkeyPatch, change: Callable[[Probe, Tensor], Tensor]) -> None:
    """The constraint is changed, and all else is right."""
    right = Probe.terms

    def wrong(method: Probe, batch: parity.Batch) -> dict[str, Tensor]:
        terms = right(method, batch)
        return terms | {name: change(method, terms[name]) for name in terms.keys() - {"classification"}}

    patch.setattr(Probe, "terms", wrong)


def sum_over_classes(patch: pytest.MonkeyPatch) -> None:
    constrained_otherwise(patch, lambda method, term: term * len(method.classnames))


def mean_over_dimensions(patch: pytest.MonkeyPatch) -> None:
    constrained_otherwise(patch, lambda method, term: term / method.vectors.shape[1])


def detached_constraint(patch: pytest.MonkeyPatch) -> None:
    """The constraint is reported, but pulls at nothing."""
    constrained_otherwise(patch, lambda _, term: term.detach())


def decay_of_the_recipe(patch: pytest.MonkeyPatch) -> None:
    optimised(patch, ProbeSettings, weight_decay=5e-4)


def mean_of_raw_texts(patch: pytest.MonkeyPatch) -> None:
    """Each template counts by the length of its feature."""
    right = tip.FrozenTexts
    patch.setattr(tip, "FrozenTexts", lambda *given, directions: right(*given))


def normalised_views(patch: pytest.MonkeyPatch) -> None:
    """Each view counts the same, whatever its feature's length."""
    right = Tip.prepare

    def wrong(method: Tip, views: Iterable[Iterable[parity.Batch]]) -> None:
        with pytest.MonkeyPatch.context() as inner:
            encode = method.clip.encode_images
            inner.setattr(method.clip, "encode_images", lambda images: normalize(encode(images), dim=-1))
            right(method, views)

    patch.setattr(Tip, "prepare", wrong)


def raw_keys(patch: pytest.MonkeyPatch) -> None:
    """Keys have the length of their features' mean."""
    right = Tip.prepare

    def wrong(method: Tip, views: Iterable[Iterable[parity.Batch]]) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(tip, "normalize", lambda rows, dim: rows / method.prepares)
            right(method, views)

    patch.setattr(Tip, "prepare", wrong)


def keys_of_the_first_view(patch: pytest.MonkeyPatch) -> None:
    right = Tip.prepare
    patch.setattr(Tip, "prepare", lambda method, views: right(method, list(views)[:1]))


def no_exponential(patch: pytest.MonkeyPatch) -> None:
    """What is near counts by its cosine."""
    right = torch.exp
    patch.setattr(torch, "exp", lambda x: 1 + x if x.dim() else right(x))


def keys_at_length_1(patch: pytest.MonkeyPatch) -> None:
    """Trained keys are normalised where they are used."""
    right = Tip.cache_scores

    def wrong(method: Tip, images: Tensor, count: int, beta: float) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem(method._parameters, "keys", normalize(method.keys, dim=-1))  # type: ignore[arg-type]
            return right(method, images, count, beta)

    patch.setattr(Tip, "cache_scores", wrong)


def grid_with_its_end(patch: pytest.MonkeyPatch) -> None:
    right = tip.search

    def wrong(method: Tip, features: Tensor, labels: Tensor, scale: Any, steps: Any) -> tip.Search:
        reached = [0.1 + (end - 0.1) * count / (count - 1) for end, count in zip(scale, steps, strict=True)]
        return right(method, features, labels, tuple(reached), steps)  # type: ignore[arg-type]

    patch.setattr(test_tip, "search", wrong)


def last_of_equals(patch: pytest.MonkeyPatch) -> None:
    right = tip.search

    def wrong(method: Tip, features: Tensor, labels: Tensor, scale: Any, steps: Any) -> tip.Search:
        best = right(method, features, labels, scale, steps)
        betas, alphas = ([0.1 + i * (end - 0.1) / n for i in range(n)] for end, n in zip(scale, steps, strict=True))
        beta, alpha = (best.accuracy == best.accuracy.max()).nonzero()[-1].tolist()
        return best._replace(alpha=alphas[alpha], beta=betas[beta])

    patch.setattr(test_tip, "search", wrong)


def usual_epsilon(patch: pytest.MonkeyPatch) -> None:
    optimised(patch, TipSettings, eps=Optimisation().eps)


def no_decay(patch: pytest.MonkeyPatch) -> None:
    optimised(patch, TipSettings, weight_decay=0.0)


MISTAKES: list[tuple[Plant, Callable[[Any], None], Any]] = [
    *[
        (plant, test_probe.check, name)
        for name in test_probe.VARIANTS
        for plant in (normalised_start, names_without_underscores, decay_of_the_recipe)
    ],
    *[
        (plant, test_probe.check, "clap")
        for plant in (one_multiplier_for_all, sum_over_classes, mean_over_dimensions, detached_constraint)
    ],
    *[
        (plant, test_tip.check_cache, "main")
        for plant in (
            mean_of_raw_texts,
            normalised_views,
            raw_keys,
            keys_of_the_first_view,
            no_exponential,
            grid_with_its_end,
            last_of_equals,
        )
    ],
    *[
        (plant, test_tip.check_finetuning, "main")
        for plant in (no_exponential, keys_at_length_1, usual_epsilon, no_decay)
    ],
]


@pytest.fixture(scope="module", autouse=True)
def without_mistakes_all_is_well() -> Iterator[None]:
    with parity.committed():
        test_probe.check("lp")
        test_probe.check("clap")
        test_tip.check_cache("main")
        test_tip.check_finetuning("main")
        yield


@pytest.mark.parametrize(
    ("plant", "check", "name"),
    [pytest.param(*mistake, id=f"{mistake[0].__name__}-{mistake[1].__name__}-{mistake[2]}") for mistake in MISTAKES],
)
def test_parity_catches_a_planted_mistake(
    plant: Plant, check: Callable[[str], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity.tiny_clip(), "text_cache", {})  # without features that were encoded correctly
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="differs by|traj|schedule"):
        check(name)
