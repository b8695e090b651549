"""Synthetic gain maps, generated from a known model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from syncclip.studies.gain_prediction import COLUMNS

LEVELS = {"none": 0.35, "few": 0.5, "some": 0.65, "many": 0.8, "all": 0.95}
"""CLIP model -> mean name knowledge."""
DATASETS = ("devices", "household", "nature", "office", "things", "travel")
CONFIGURATIONS = {"class-vectors": (16.0, -20.0), "prompts": (6.0, -8.0), "harmful": (-3.0, -2.0)}
"""Configuration -> intercept and slope of its asymptotic gain over real images only."""
REAL_OVER_ZERO_SHOT = 2.0
SHOTS = 4
"""Number of shots of the map."""


def gain(configuration: str, name_knowledge: float, n: int) -> float:
    """Expected gain over real images only; the remaining gain is proportional to 1 / (1 + n)."""
    intercept, slope = CONFIGURATIONS[configuration]
    return (intercept + slope * name_knowledge) * (1 - 1 / (1 + n))


def synthetic_map(
    seed: int, between: float = 1.0, within: float = 0.5, numbers: tuple[int, ...] = (1, 4, 16)
) -> pd.DataFrame:
    """A gain map with normal deviations of these standard deviations between and within datasets.

    Args:
        numbers: numbers of images per class.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for dataset in DATASETS:
        effects = {name: generator.normal(0, between) for name in CONFIGURATIONS}
        for level, mean in LEVELS.items():
            knowledge = mean + generator.uniform(-0.05, 0.05)
            for name in CONFIGURATIONS:
                for n in numbers:
                    over_real = gain(name, knowledge, n) + effects[name] + generator.normal(0, within)
                    over_zero_shot = over_real + REAL_OVER_ZERO_SHOT
                    keys = level, dataset, name, n, "ivlp-real", SHOTS, knowledge, 100 * knowledge
                    rows.append([*keys, over_real, within, over_zero_shot, within])
    return pd.DataFrame(rows, columns=list(COLUMNS))
