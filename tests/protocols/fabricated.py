"""Fabricated tables of reproductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from syncclip.protocols.protocols import Protocol

Numbers = Callable[[str, str, int], dict[str, float] | None]
"""(test dataset, method, seed) -> metrics of the run; None for a missing run."""


def fabricated(
    protocol: Protocol,
    numbers: Numbers,
    datasets: Sequence[str] | None = None,
    tests: Sequence[str] = (),
    methods: Sequence[str] = ("zeroshot", "promptsrc", "syncclip"),
    amount: int = 16,
) -> pd.DataFrame:
    """One row per run and dataset, like `gather`; trained methods have three seeds."""
    rows = []
    for dataset in datasets or protocol.datasets:
        for method in methods:
            for seed in [None] if method == "zeroshot" else [1, 2, 3]:
                for test in [dataset, *tests]:
                    metrics = numbers(test, method, seed or 0)
                    rows.append(
                        {
                            "trained_on": dataset,
                            "tested_on": test,
                            "backbone": "ViT-B-16 openai",
                            "configuration": method,
                            "method": method,
                            "data": {"zeroshot": "none", "syncclip": "both"}.get(method, "real"),
                            "shots": 16,
                            "images_per_class": amount if method == "syncclip" else None,
                            "seed": seed,
                            "status": "waiting" if metrics is None else "done",
                            **{metric: (metrics or {}).get(metric) for metric in protocol.metrics},
                        }
                    )
    return pd.DataFrame(rows).astype({"images_per_class": "Int64", "seed": "Int64"})
