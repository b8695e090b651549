"""Metrics from answers, and the paired bootstrap over seeds and images."""

from __future__ import annotations

import numpy as np
import pytest

from syncclip.evaluation.predict import Predictions, results
from syncclip.studies.bootstrap import METRICS, Answers, arm_metrics, difference, make_draws, run_metrics, seed_weights


def answers(seeds: int, images: int, right: float, generator: np.random.Generator) -> Answers:
    own = generator.random((seeds, images)) < right
    return Answers(own, own & (generator.random((seeds, images)) < 0.9), np.arange(images) % 2 == 1)


def test_metrics_equal_those_of_the_evaluation() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 6, 50)
    half = np.where(generator.random(50) < 0.6, label, (label + 1) % 3 + 3 * (label >= 3))
    opened = np.where(generator.random(50) < 0.5, label, (label + 1) % 6)
    confidence = np.full(50, 0.5)
    expected = results(Predictions(np.arange(50), label, half, opened, confidence, confidence), list("abcdef"), 3)
    found = run_metrics(Answers((half == label)[None], (opened == label)[None], label >= 3))
    assert {name: float(found[name][0, 0]) for name in METRICS} == pytest.approx(
        {name: expected[name] for name in METRICS}
    )


def test_counts_weigh_images_as_repeating_them_would() -> None:
    generator = np.random.default_rng(0)
    one = answers(2, 8, 0.6, generator)
    counts = np.array([[0, 1, 3, 1, 0, 2, 1, 0]], dtype=np.uint16)
    again = np.repeat(np.arange(8), counts[0])
    repeated = run_metrics(Answers(one.own[:, again], one.open[:, again], one.novel[again]))
    weighted = run_metrics(one, counts)
    for name in METRICS:
        assert weighted[name][0] == pytest.approx(repeated[name][0])


def test_seed_weights_sum_to_one_and_give_the_unbiased_variance() -> None:
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 3.0, 7.0, 9.0, 2.5])
    weights = seed_weights(len(values), 200_000, np.random.default_rng(0))
    assert weights.sum(axis=1) == pytest.approx(1)
    # Student's variance is f / (f - 2) times the normal one, f = 8
    assert (weights @ values).var() == pytest.approx(values.var(ddof=1) / 9 * 8 / 6, rel=0.03)


def test_one_seed_always_weighs_one() -> None:
    assert (seed_weights(1, 10, np.random.default_rng(0)) == 1).all()


def test_draws_keep_the_sizes_of_both_halves() -> None:
    novel = np.array([True] * 7 + [False] * 5)
    draws = make_draws(3, novel, 50, np.random.default_rng(0))
    assert (draws.images[:, novel].sum(axis=1) == 7).all() and (draws.images[:, ~novel].sum(axis=1) == 5).all()


def test_an_arm_does_not_differ_from_itself() -> None:
    generator = np.random.default_rng(0)
    one = answers(3, 40, 0.5, generator)
    for interval in difference(one, one, make_draws(3, one.novel, 200, generator)).values():
        assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)


def test_one_run_of_an_untrained_arm_stands_for_every_seed() -> None:
    generator = np.random.default_rng(0)
    trained, untrained = answers(4, 60, 0.7, generator), answers(1, 60, 0.5, generator)
    repeated = Answers(untrained.own.repeat(4, 0), untrained.open.repeat(4, 0), untrained.novel)
    draws = make_draws(4, trained.novel, 300, generator)
    short, long = difference(trained, untrained, draws), difference(trained, repeated, draws)
    for name in METRICS:
        assert vars(short[name]) == pytest.approx(vars(long[name]))


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    hits = 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        shared = generator.random(300)  # how hard each image is; both arms meet the same ones
        luck = generator.normal(0, 0.02, (2, 5, 1))  # of each arm's seeds
        own = [
            shared[None] < 0.5 + gain + luck[i] + generator.normal(0, 0.1, (5, 300)) for i, gain in enumerate((0.04, 0))
        ]
        novel = np.arange(300) % 2 == 1
        first, second = (Answers(right, right, novel) for right in own)
        interval = difference(first, second, make_draws(5, novel, 300, generator), level=0.9)["open_all"]
        hits += interval.low <= 4 <= interval.high
    assert hits >= 170


def test_images_that_both_arms_share_cancel_in_the_difference() -> None:
    generator = np.random.default_rng(0)
    first = answers(1, 400, 0.5, generator)
    own = first.own.copy()
    own[0, :8] = ~own[0, :8]
    second = Answers(own, first.open, first.novel)
    draws = make_draws(1, first.novel, 500, generator)
    paired = difference(first, second, draws)["hm"]
    alone = np.quantile(arm_metrics(first, draws)["hm"][1], [0.025, 0.975])
    assert paired.high - paired.low < 0.5 * (alone[1] - alone[0])
