"""The parity checks notice mistakes: each is planted and must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from syncclip.methods.settings import Optimisation, TcpSettings
from tests.methods import parity, test_mmrl, test_tcp
from tests.methods.mistakes import (
    Plant,
    cliplora,
    maple,
    mma,
    mmrl,
    plants_of,
    probe,
    promptkd,
    promptsrc,
    syncclip,
    tcp,
    tip,
    twostage,
    vpt,
    words,
)
from tests.methods.variants import Variant

pytestmark = pytest.mark.nightly

Check = Callable[[pytest.MonkeyPatch], None]
MODULES = (syncclip, vpt, maple, promptsrc, cliplora, twostage, mma, mmrl, tcp, promptkd, words, probe, tip)


def cases(module: ModuleType) -> list[tuple[Plant, Check]]:
    """Each planted mistake with the check that must catch it."""
    if hasattr(module, "CASES"):
        return list(module.CASES)
    return [(plant, module.check) for plant in [*plants_of(module), *getattr(module, "OPTIMISERS", ())]]


CASES = [(module.__name__.rpartition(".")[2], plant, check) for module in MODULES for plant, check in cases(module)]


@pytest.fixture(scope="module", autouse=True)
def committed_files() -> Iterator[None]:
    with parity.committed():
        yield


@pytest.mark.parametrize("check", {repr(check): check for *_, check in CASES}.values())
def test_the_checks_pass_without_mistakes(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch)


@pytest.mark.parametrize(
    ("plant", "check"), [pytest.param(plant, check, id=f"{name}-{plant.__name__}") for name, plant, check in CASES]
)
def test_parity_catches_a_planted_mistake(plant: Plant, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.tiny_clip(), "text_cache", {})  # without features that were encoded correctly
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="differ|is reached|traj|schedule"):
        check(monkeypatch)


@pytest.mark.parametrize(
    "fixture",
    [*words.OWN, *words.COCOOP, *words.KGCOOP, "synclip", "vpt", "maple", "promptsrc"],
    ids=lambda f: getattr(f, "name", f),
)
def test_parity_catches_missing_weight_decay(fixture: parity.Fixture | str) -> None:
    fixture = parity.load(fixture) if isinstance(fixture, str) else fixture
    info = fixture.info | {"optim": fixture.info["optim"] | {"weight_decay": 0}}
    with pytest.raises(AssertionError, match="parameter differs by"):
        parity.check_steps(parity.Fixture(fixture.name, fixture.tensors, info))


def test_parity_of_mmrl_catches_missing_weight_decay() -> None:
    variant, wrong = Variant("mmrl", "main"), Optimisation("adamw", weight_decay=0.0)
    with pytest.raises(AssertionError, match=r"mmrl:main: traj\."):
        variant.check_course(test_mmrl.build(variant), wrong, test_mmrl.ours, (2.5e-4, 2e-7))


@pytest.mark.parametrize(
    "wrong",
    [
        Optimisation("adam", weight_decay=5e-4),
        Optimisation("adamw", weight_decay=5e-4, eps=1e-3),
        Optimisation("adam", weight_decay=0.0, eps=1e-3),
        Optimisation("sgd", weight_decay=5e-4),
    ],
    ids=["usual eps", "decoupled decay", "no decay", "sgd"],
)
def test_parity_of_tcp_catches_another_optimiser(wrong: Optimisation, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = Variant("tcp", "main")
    with pytest.raises(AssertionError, match=r"tcp:main:? ?traj\."):
        variant.check_course(test_tcp.build(variant), wrong, test_tcp.ours, test_tcp.LIMITS)
    monkeypatch.setattr(TcpSettings, "optimisation", wrong)
    with pytest.raises(AssertionError):
        variant.check_optimisation(TcpSettings())
