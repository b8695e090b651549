"""Mistakes in SYNC-CLIP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip import prompted
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import syncclip
from syncclip.methods.base import Method
from syncclip.methods.syncclip import SyncClip
from tests.methods import parity
from tests.methods.mistakes import weigh


def loss_weight(patch: pytest.MonkeyPatch) -> None:
    """Synthetic cross entropies as a mean over 2B images instead of a sum of two means."""
    right = SyncClip.terms
    halved = {"synthetic": 0.5}
    patch.setattr(SyncClip, "terms", lambda s, b: {n: halved.get(n, 1.0) * t for n, t in right(s, b).items()})


def swapped_weights(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, SyncClip, lambda weights: dict(zip(("alignment", "synthetic"), weights.values(), strict=True)))


def token_position(patch: pytest.MonkeyPatch) -> None:
    """Learned text tokens land one place too early, the first on the start token."""
    right = prompted.place
    patch.setattr(prompted, "place", lambda x, vectors, slots: right(x, vectors, slots - 1))


def read_position(patch: pytest.MonkeyPatch) -> None:
    """The text feature is read one token before the end."""
    right = PromptedClip.encode_text

    def wrong(clip: PromptedClip, tokens: prompted.PromptTokens, prompts: list[Tensor]) -> Tensor:
        patch.setattr(tokens, "read", tokens.read - 1)
        patch.setattr(tokens, "shared", 0)
        return right(clip, tokens, prompts)

    patch.setattr(PromptedClip, "encode_text", wrong)


def domain_position(patch: pytest.MonkeyPatch) -> None:
    """The synthetic prompt takes the place of the last tokens instead of the first."""

    def wrong(method: SyncClip, domains: Tensor) -> list[Tensor]:
        synthetic = domains.bool()[:, None, None]
        pairs = zip(method.vision_prompts, method.synthetic_prompts, strict=True)
        return [torch.where(synthetic, torch.cat([real[: len(real) - len(own)], own]), real) for real, own in pairs]

    patch.setattr(SyncClip, "domain_prompts", wrong)


def missing_normalisation(patch: pytest.MonkeyPatch) -> None:
    """Image features enter the scores at their own length."""
    patch.setattr(Method, "scores", lambda s, images, text: s.clip.logit_scale * images @ text.T)


def normalised_alignment(patch: pytest.MonkeyPatch) -> None:
    right = syncclip.alignment
    patch.setattr(syncclip, "alignment", lambda r, s, *by: right(normalize(r, dim=-1), normalize(s, dim=-1), *by))


def detached_target(patch: pytest.MonkeyPatch) -> None:
    """Real features as a fixed target: the loss is the same, only gradients tell."""
    right = syncclip.alignment
    patch.setattr(syncclip, "alignment", lambda r, s, *by: right(r.detach(), s, *by))


def prompts_after_first_norm(patch: pytest.MonkeyPatch) -> None:
    """Visual prompts of the input layer skip the tower's first layer norm."""
    tower = parity.tiny_clip().model.visual
    right, seen = tower.ln_pre.forward, len(tower.positional_embedding)
    patch.setattr(tower.ln_pre, "forward", lambda x: torch.cat([right(x[:, :seen]), x[:, seen:]], dim=1))


def check(_: pytest.MonkeyPatch) -> None:
    parity.check_syncclip(parity.load("synclip"))
