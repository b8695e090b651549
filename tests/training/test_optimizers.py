"""Rates by epoch and by step, and optimisers that go on after a kill to the same bits."""

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

ASKED = [
    Optimisation(),
    Optimisation(weight_decay=0.3, by_step=True, last_rate=0.01),
    Optimisation("adam", weight_decay=0.1, eps=1e-3),
    Optimisation("sgd", weight_decay=0.2),
    Optimisation(by_step=True, first_stage=0.6),
]


class StoppedError(Exception):
    pass


def job(folder: Path, asked: Optimisation, noise: float = 0.1) -> TrainJob:
    return replace(fakes.job(folder, noise=noise), optimisation=asked)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_broken_run_goes_on_to_the_same_bits(tmp_path: Path, asked: Optimisation, step: int) -> None:
    def listener(done: int, *_: object) -> None:
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(job(tmp_path / "broken", asked), listener=listener)
    for name in ("broken", "whole"):
        run(job(tmp_path / name, asked))
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


@pytest.mark.parametrize("asked", ASKED[:4])
def test_a_training_is_that_optimiser_written_out_by_hand(tmp_path: Path, asked: Optimisation) -> None:
    run(job(tmp_path / "run", asked, noise=0.0))
    plain = fakes.job(tmp_path / "none", noise=0.0)
    weight, mean, square = plain.method.weight.detach().clone(), torch.tensor(0.0), torch.tensor(0.0)
    total = 4 * fakes.STEPS_PER_EPOCH
    for step in range(total):
        epoch, within = divmod(step, fakes.STEPS_PER_EPOCH)
        if asked.by_step:
            rate = asked.last_rate + (0.1 - asked.last_rate) * (1 + math.cos(math.pi * step / total)) / 2
        else:
            rate = 1e-5 if epoch == 0 else 0.05 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        batch = plain.stream.batch(epoch, within)
        weight.requires_grad_(True)
        loss = nn.functional.cross_entropy(batch.images @ weight.T, batch.labels) + 0.01 * weight.square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            if asked.optimizer == "sgd":
                mean = 0.9 * mean + gradient + asked.weight_decay * weight
                weight = (weight - rate * mean).detach()
                continue
            if asked.optimizer == "adam":
                gradient = gradient + asked.weight_decay * weight
            else:
                weight = weight * (1 - rate * asked.weight_decay)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            corrected = (square / (1 - 0.999 ** (step + 1))).sqrt() + asked.eps
            weight = (weight - rate * mean / (1 - 0.9 ** (step + 1)) / corrected).detach()
    found = safetensors.torch.load_file(tmp_path / "run" / "prompts.safetensors")["weight"]
    torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-5)


def test_rates_by_step_are_logged_and_fall_to_the_last(tmp_path: Path) -> None:
    asked = Optimisation(by_step=True, last_rate=1e-3)
    run(job(tmp_path, asked))
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == 0.1 and rates == sorted(rates, reverse=True) and 1e-3 < rates[-1] < 5e-3


def test_a_second_stage_begins_the_cosine_anew() -> None:
    asked = Optimisation(by_step=True, last_rate=0.1, first_stage=0.6)
    rates = [rate_at(1.0, step, 4, fakes.settings(epochs=4), asked) for step in range(16)]
    assert asked.switch(16) == 9
    turns = [step / 9 for step in range(9)] + [step / 7 for step in range(7)]
    assert rates == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * turn)) for turn in turns])


def test_what_never_had_a_gradient_has_no_state() -> None:
    parameters = {name: nn.Parameter(torch.ones(2)) for name in ("used", "un.used")}
    for asked in (None, Optimisation()):
        optimizers = [optimizer_of(parameters.values(), 0.1, fakes.settings(), asked) for _ in range(2)]
        optimizers[0].zero_grad()
        parameters["used"].square().sum().backward()
        optimizers[0].step()
        state = state_of(optimizers[0], parameters)
        assert {name.partition(".")[0] for name in state} == {"used"}
        restore(optimizers[1], parameters, state)
        again = state_of(optimizers[1], parameters)
        assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in state)
        assert parameters["un.used"] not in optimizers[1].state


@pytest.mark.parametrize(("before", "now"), [(None, Optimisation()), (Optimisation(), None)])
def test_a_checkpoint_of_another_optimiser_is_refused(before: Optimisation | None, now: Optimisation | None) -> None:
    learnable = {"weight": nn.Parameter(torch.ones(2))}
    first, second = (optimizer_of(learnable.values(), 0.1, fakes.settings(), one) for one in (before, now))
    learnable["weight"].square().sum().backward()
    first.step()
    with pytest.raises(UserError, match="tensors of another optimiser or method; remove it, or train in another"):
        restore(second, learnable, state_of(first, learnable))


def test_without_a_method_of_its_own_a_rate_is_that_of_its_epoch() -> None:
    settings = fakes.settings(epochs=4)
    rates = [rate_at(0.002, step, 3, settings, None) for step in range(12)]
    assert rates == [learning_rate(0.002, step // 3, 4) for step in range(12)]


def test_the_first_epoch_warms_up_and_the_cosine_starts_after_it() -> None:
    rates = [learning_rate(0.002, epoch, 4) for epoch in range(4)]
    # by hand: 0.001 (1 + cos 0), 0.001 (1 + cos 45 degrees), 0.001 (1 + cos 90 degrees)
    assert rates == pytest.approx([1e-5, 0.002, 0.001 * (1 + math.sqrt(0.5)), 0.001], rel=1e-12)


def test_one_epoch_is_warm_up_only() -> None:
    assert learning_rate(0.0025, 0, 1) == 1e-5


def test_without_warm_up_the_first_epoch_has_the_full_rate() -> None:
    assert learning_rate(0.5, 0, 10, warmup_epochs=0) == 0.5


def test_a_longer_warm_up_is_constant() -> None:
    assert [learning_rate(1.0, epoch, 5, 2, 0.3) for epoch in range(3)] == [0.3, 0.3, 1.0]
