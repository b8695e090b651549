"""Learning rates by epoch and by step, and optimisers written out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from syncclip.core.settings import UserError
from syncclip.methods.settings import Optimisation
from syncclip.training.loop import TrainJob, run
from syncclip.training.optimizers import learning_rate, optimizer_of, rate_at, restore, state_of
from tests.training import fakes

OPTIMISERS = [
    None,
    Optimisation(),
    Optimisation(weight_decay=0.3, by_step=True, last_rate=0.01),
    Optimisation("adam", weight_decay=0.1, eps=1e-3),
    Optimisation("sgd", weight_decay=0.2),
]


def job(folder: Path, own: Optimisation | None, noise: float = 0.1) -> TrainJob:
    return replace(fakes.job(folder, noise=noise), optimisation=own)


@pytest.mark.parametrize("own", [*OPTIMISERS[1:], Optimisation(by_step=True, first_stage=0.6)])
@pytest.mark.parametrize("step", [1, 7])
def test_crashed_run_resumes_to_the_same_bits(tmp_path: Path, own: Optimisation, step: int) -> None:
    fakes.crash_at(job(tmp_path / "crashed", own), step)
    for name in ("crashed", "uninterrupted"):
        run(job(tmp_path / name, own))
    assert fakes.bits(tmp_path / "crashed") == fakes.bits(tmp_path / "uninterrupted")


@pytest.mark.parametrize("own", OPTIMISERS)
def test_training_equals_the_optimiser_written_out_by_hand(tmp_path: Path, own: Optimisation | None) -> None:
    run(job(tmp_path / "run", own, noise=0.0))
    plain = fakes.job(tmp_path / "unused", noise=0.0)
    weight, mean, square = plain.method.weight.detach().clone(), torch.tensor(0.0), torch.tensor(0.0)
    total = 4 * fakes.STEPS_PER_EPOCH
    kind, decay = (own.optimizer, own.weight_decay) if own is not None else ("sgd", 5e-4)
    for step in range(total):
        epoch, within = divmod(step, fakes.STEPS_PER_EPOCH)
        if own is not None and own.by_step:
            rate = own.last_rate + (0.1 - own.last_rate) * (1 + math.cos(math.pi * step / total)) / 2
        else:
            rate = 1e-5 if epoch == 0 else 0.05 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        batch = plain.stream.batch(epoch, within)
        weight.requires_grad_(True)
        loss = nn.functional.cross_entropy(batch.images @ weight.T, batch.labels) + 0.01 * weight.square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            if kind == "sgd":
                mean = 0.9 * mean + gradient + decay * weight
                weight = (weight - rate * mean).detach()
                continue
            if kind == "adam":
                gradient = gradient + decay * weight
            else:
                weight = weight * (1 - rate * decay)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            corrected = (square / (1 - 0.999 ** (step + 1))).sqrt() + own.eps
            weight = (weight - rate * mean / (1 - 0.9 ** (step + 1)) / corrected).detach()
    trained = safetensors.torch.load_file(tmp_path / "run" / "prompts.safetensors")["weight"]
    torch.testing.assert_close(trained, weight, rtol=1e-4, atol=1e-5)


def test_rates_by_step_are_logged_and_decrease_to_the_last_rate(tmp_path: Path) -> None:
    run(job(tmp_path, Optimisation(by_step=True, last_rate=1e-3)))
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == 0.1 and rates == sorted(rates, reverse=True) and 1e-3 < rates[-1] < 5e-3


def test_second_stage_restarts_the_cosine() -> None:
    own = Optimisation(by_step=True, last_rate=0.1, first_stage=0.6)
    rates = [rate_at(1.0, step, 4, fakes.settings(epochs=4), own) for step in range(16)]
    assert own.switch(16) == 9
    fractions = [step / 9 for step in range(9)] + [step / 7 for step in range(7)]
    assert rates == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * fraction)) for fraction in fractions])


@pytest.mark.parametrize("own", OPTIMISERS[:2])
def test_parameter_without_gradient_has_no_state(own: Optimisation | None) -> None:
    parameters = {name: nn.Parameter(torch.ones(2)) for name in ("used", "un.used")}
    first, second = (optimizer_of(parameters.values(), 0.1, fakes.settings(), own) for _ in range(2))
    parameters["used"].square().sum().backward()
    first.step()
    state = state_of(first, parameters)
    assert {name.partition(".")[0] for name in state} == {"used"}
    restore(second, parameters, state)
    restored = state_of(second, parameters)
    assert state.keys() == restored.keys() and all(torch.equal(state[key], restored[key]) for key in state)
    assert parameters["un.used"] not in second.state


@pytest.mark.parametrize(("before", "after"), [(None, Optimisation()), (Optimisation(), None)])
def test_state_of_another_optimiser_is_an_error(before: Optimisation | None, after: Optimisation | None) -> None:
    learnable = {"weight": nn.Parameter(torch.ones(2))}
    first, second = (optimizer_of(learnable.values(), 0.1, fakes.settings(), own) for own in (before, after))
    learnable["weight"].square().sum().backward()
    first.step()
    with pytest.raises(UserError, match="different optimiser or method"):
        restore(second, learnable, state_of(first, learnable))


def test_rate_of_the_recipe_is_constant_within_an_epoch() -> None:
    rates = [rate_at(0.002, step, 3, fakes.settings(epochs=4), None) for step in range(12)]
    assert rates == [learning_rate(0.002, step // 3, 4) for step in range(12)]
    # by hand: 0.001 (1 + cos 0), 0.001 (1 + cos 45 degrees), 0.001 (1 + cos 90 degrees)
    assert rates[::3] == pytest.approx([1e-5, 0.002, 0.001 * (1 + math.sqrt(0.5)), 0.001], rel=1e-12)


def test_warmup_is_constant() -> None:
    assert [learning_rate(1.0, epoch, 5, 2, 0.3) for epoch in range(3)] == [0.3, 0.3, 1.0]
    assert learning_rate(0.5, 0, 10, warmup_epochs=0) == 0.5
