"""Reference numbers of the second collection: methods that learn weights, heads or adapters, one file each.

Each was made as those of `parity.py`, on the same tiny CLIP; most hold two variants behind a prefix. Their settings are
read from the file's header, so another folder's files may have other ranks, depths and seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from syncclip.methods.base import Method
from syncclip.methods.settings import MethodSettings, Optimisation
from syncclip.training.optimizers import optimizer_of
from syncclip.training.settings import TrainingSettings
from tests.methods import parity

Rename = Callable[[str], str]


def variants_of(file: str) -> list[str]:
    """The names of a file's variants: its header has settings of each."""
    with safe_open(parity._path(file), "pt") as opened:
        return [name for name, told in json.loads(opened.metadata()["info"]).items() if isinstance(told, dict)]


class Variant:
    """One variant of a file.

    Attributes:
        info: what the header tells of all variants.
        settings: the authors' settings of this one.
    """

    def __init__(self, file: str, variant: str) -> None:
        with safe_open(parity._path(file), "pt") as opened:
            self.info: dict[str, Any] = json.loads(opened.metadata()["info"])
            owners = {key: key.partition(".")[0] for key in opened.keys()}  # noqa: SIM118  (not a dict)
            # What is not below a variant's name, all of them share.
            keys = [key for key, owner in owners.items() if owner == variant or owner not in self.info]
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
        """Tensors below a prefix, by our names."""
        return {ours(key.removeprefix(prefix)): one for key, one in self.tensors.items() if key.startswith(prefix)}

    def batch(self) -> parity.Batch:
        images, labels = self["in.images"], self["in.labels"]
        return parity.Batch(images, labels, torch.zeros_like(labels), (len(images), 0, 0))

    def differs(self, kind: str, key: str, found: Tensor) -> None:
        parity.differs(kind, f"{self.name}:{key}", found, self[key])

    def loss_differs(self, key: str, found: Tensor) -> None:
        """As `differs` of losses, but of large ones a part in a hundred thousand is allowed."""
        expected = self[key].double()
        gap = (found.detach().double() - expected).abs()
        assert bool((gap <= (1e-5 * expected.abs()).clamp(min=5e-5)).all()), f"{self.name}:{key} differs by {gap.max()}"

    def check_gradients(self, method: Method, loss: Tensor, ours: Rename, prefix: str = "grad.") -> None:
        """Those that the file has are equal, and there are no others."""
        expected, found = self.under(prefix, ours), parity.gradients(method, loss)
        for name, gradient in found.items():
            if name in expected:
                parity.differs("gradient", f"{self.name}:{prefix}{name}", gradient, expected[name])
            else:
                assert not gradient.any(), f"{self.name}:{prefix}{name} differs: it is reached"
        assert expected.keys() <= found.keys()

    def check_course(
        self,
        method: Method,
        asked: Optimisation | None,
        ours: Rename,
        limits: tuple[float, float],
        rates: Tensor | None = None,
        course: str = "traj.",
        losses: str = "loss",
    ) -> None:
        """Steps on the same batch: every loss on the way, and where the parameters end.

        Args:
            limits: on the largest and on the median difference of a parameter.
            rates: of the steps; None: `traj.lr`.
        """
        steps = (self["traj.lr"] if rates is None else rates).tolist()
        optimizer = optimizer_of(method.parameters(), steps[0], self.training, asked)
        met = []
        for rate in steps:
            optimizer.param_groups[0]["lr"] = rate
            loss = method.loss(self.batch())["total"]
            met.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected = self[f"{course}{losses}"]
        self.loss_differs(f"{course}{losses}", torch.stack(met[: len(expected)]))
        found = method.state_dict()
        for name, end in self.under(f"{course}param.", ours).items():
            gap = (found[name] - end).abs()
            found_gap = float(gap.max()), float(gap.median())
            inside = all(one <= limit for one, limit in zip(found_gap, limits, strict=True))
            assert inside, (
                f"{self.name}: {course}{name} differs by {found_gap[0]:.3g} and in the median by {found_gap[1]:.3g}"
            )

    @property
    def training(self) -> TrainingSettings:
        """The recipe's share of the optimiser."""
        told = self.settings
        named = {ours: told[theirs] for ours, theirs in SGD.items() if theirs in told and told["optimizer"] == "SGD"}
        return TrainingSettings(epochs=1, **named)

    def check_optimisation(self, settings: MethodSettings) -> None:
        """A method asks by default for what its authors use."""
        asked, told = settings.optimisation, self.settings
        if asked is None:
            usual = TrainingSettings(epochs=1)
            assert (told["optimizer"], usual.momentum, usual.weight_decay) == (
                "SGD", told["momentum"], told["weight_decay"]
            )  # fmt: skip
            return
        assert asked.optimizer == told["optimizer"].lower() and asked.weight_decay == told.get(
            "weight_decay", told.get("wd")
        )
        if asked.optimizer != "sgd":
            assert asked.eps == told.get("eps", 1e-8)
            assert asked.last_rate == told.get("eta_min", 0.0)


SGD = {"momentum": "momentum", "weight_decay": "weight_decay"}
