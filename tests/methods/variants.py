"""Reference numbers of the methods that learn weights, heads or adapters: one file per method, with several variants.

They were produced like those of `parity.py`, with the same CLIP. Settings are read from the header of the file, so
files in another folder may have other ranks, depths and seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from syncclip.methods.base import Method
from syncclip.methods.settings import MethodSettings, Optimisation
from syncclip.training.optimizers import learning_rate, optimizer_of
from syncclip.training.settings import TrainingSettings
from tests.methods import parity

Rename = Callable[[str], str]


def variants_of(file: str) -> list[str]:
    """Names of the variants in a file."""
    with safe_open(parity._path(file), "pt") as opened:
        info = json.loads(opened.metadata()["info"])
    return [name for name, settings in info.items() if isinstance(settings, dict)]


class Variant:
    """One variant of a file.

    Attributes:
        info: header of the file.
        settings: the authors' settings of this variant.
    """

    def __init__(self, file: str, variant: str) -> None:
        with safe_open(parity._path(file), "pt") as opened:
            self.info: dict[str, Any] = json.loads(opened.metadata()["info"])
            prefixes = {key: key.partition(".")[0] for key in opened.keys()}  # noqa: SIM118  (not a dict)
            # Tensors without the prefix of a variant are shared by all.
            keys = [key for key, prefix in prefixes.items() if prefix == variant or prefix not in self.info]
            self.tensors = {key.removeprefix(f"{variant}."): opened.get_tensor(key) for key in keys}
        self.name, self.settings = f"{file}:{variant}", dict(self.info[variant])

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    @property
    def classnames(self) -> list[str]:
        return list(self.info["classnames"])

    @property
    def base(self) -> int:
        return int(self.info.get("n_base", len(self.classnames)))

    def under(self, prefix: str, ours: Rename = str) -> dict[str, Tensor]:
        """Tensors with a prefix, by our names."""
        return {ours(key.removeprefix(prefix)): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def batch(self) -> parity.Batch:
        return parity.real_batch(self["in.images"], self["in.labels"])

    def check_close(self, kind: str, key: str, value: Tensor) -> None:
        parity.check_close(kind, f"{self.name}:{key}", value, self[key])

    def loss_differs(self, key: str, value: Tensor) -> None:
        """Like `differs` for losses, with a relative limit for large ones."""
        reference = self[key].double()
        gap = (value.detach().double() - reference).abs()
        limit = (1e-5 * reference.abs()).clamp(min=5e-5)
        assert bool((gap <= limit).all()), f"{self.name}:{key} differs by {gap.max()}"

    def check_gradients(self, method: Method, loss: Tensor, ours: Rename, prefix: str = "grad.") -> None:
        """Gradients in the file are equal to ours; all others are zero."""
        references, gradients = self.under(prefix, ours), parity.gradients(method, loss)
        for name, gradient in gradients.items():
            if name in references:
                parity.check_close("gradient", f"{self.name}:{prefix}{name}", gradient, references[name])
            else:
                assert not gradient.any(), f"{self.name}:{prefix}{name} differs: it is not zero"
        assert references.keys() <= gradients.keys()

    def check_trajectory(
        self,
        method: Method,
        own: Optimisation | None,
        ours: Rename,
        limits: tuple[float, float],
        rates: Tensor | None = None,
        course: str = "traj.",
        losses: str = "loss",
    ) -> None:
        """Losses and final parameters of a training on one batch.

        Args:
            limits: of the largest and of the median difference of a parameter.
            rates: learning rates of the steps; None: `traj.lr`.
        """
        steps = (self["traj.lr"] if rates is None else rates).tolist()
        optimizer = optimizer_of(method.parameters(), steps[0], self.training, own)
        values = []
        for rate in steps:
            optimizer.param_groups[0]["lr"] = rate
            loss = method.loss(self.batch())["total"]
            values.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.loss_differs(f"{course}{losses}", torch.stack(values[: len(self[f"{course}{losses}"])]))
        state = method.state_dict()
        for name, reference in self.under(f"{course}param.", ours).items():
            gap = (state[name] - reference).abs()
            largest, median = float(gap.max()), float(gap.median())
            assert largest <= limits[0] and median <= limits[1], (
                f"{self.name}: {course}{name} differs by {largest:.3g}, in the median by {median:.3g}"
            )

    @property
    def training(self) -> TrainingSettings:
        """Settings of SGD."""
        keys = [key for key in ("momentum", "weight_decay") if key in self.settings]
        sgd = self.settings["optimizer"] == "SGD"
        return TrainingSettings(epochs=1, **{key: self.settings[key] for key in keys if sgd})

    def check_optimisation(self, settings: MethodSettings) -> None:
        """The default optimiser of a method is that of its authors."""
        own, published = settings.optimisation, self.settings
        if own is None:
            default = TrainingSettings(epochs=1)
            sgd = "SGD", published["momentum"], published["weight_decay"]
            assert (published["optimizer"], default.momentum, default.weight_decay) == sgd
            return
        assert own.optimizer == published["optimizer"].lower()
        assert own.weight_decay == published.get("weight_decay", published.get("wd"))
        if own.optimizer != "sgd":
            assert own.eps == published.get("eps", 1e-8)
            assert own.last_rate == published.get("eta_min", 0.0)

    def check_epoch_rates(self) -> None:
        """Learning rates by epoch."""
        epochs, warmup = self.settings["MAX_EPOCH"], self.settings["WARMUP_EPOCH"]
        rates = [learning_rate(self.settings["lr"], epoch, epochs, warmup) for epoch in range(epochs)]
        assert rates == pytest.approx(self["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)
