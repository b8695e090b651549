"""TCP: CoOp whose words become, inside the text tower, vectors made from each class's hand-written sentence."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill, spoken
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.core.text import ARTICLE
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.kgcoop import knowledge_terms
from syncclip.methods.prompts import deep_prompts
from syncclip.methods.settings import TcpSettings

BLOCK = 9  # of the published settings, on towers of 12 blocks


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), which the published network has whatever the CLIP's own activation is."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class Tcp(Method):
    """Textual-based class-aware prompt tuning (arXiv 2311.18231).

    A class's sentence is [V1]...[Vn][name] and what follows, with learned vectors V that all classes share. Before one
    of the tower's later blocks, what has become of them is replaced by the class's own vectors: a small network maps
    the feature of its hand-written sentence, of length 1 and frozen, to all of them at once. So novel classes have
    theirs too. The loss is that of KgCoOp: the cross entropy, plus the weighted mean distance 1 - cosine of each
    candidate's text feature from that of its hand-written sentence.

    Source: the paper and its published code, which mixes both kinds of vectors with a weight, a constant 1, so that
    nothing of the shared ones is left.
    """

    Settings = TcpSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: TcpSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.weights = {"knowledge": settings.knowledge_weight}
        self.frozen_texts = FrozenTexts(clip, classnames, [settings.template or template])
        self.block = checked_block(settings.block, clip.text.layers)
        learned, own = settings.text_tokens, settings.class_tokens
        words = settings.initial_words.split()
        before = [*words, *["X"] * (max(learned, own) - len(words))]
        sentence = " ".join([*before, settings.suffix or behind_of(template)])
        self.tokens = clip.text_places(fill(sentence, [*map(spoken, classnames)]), max(learned, own))
        start, dim, width = self.tokens.initial, clip.text.dim, clip.text.width
        self.text_prompts = deep_prompts(1, learned, width, start[:learned] if words and start is not None else None)
        hidden = max(dim // 4, 1)
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(dim, hidden), gelu=QuickGelu(), linear2=nn.Linear(hidden, own * width))
        )

    def class_prompts(self, classes: slice = slice(None)) -> Tensor:
        """(C, m, width) the vectors of each class's own."""
        made: Tensor = self.meta_net(self.frozen_texts()[classes])
        return made.view(len(made), -1, self.clip.text.width)

    def prompts(self, classes: slice = slice(None)) -> list[Tensor | None]:
        """What stands at the places, by block; see `PromptedClip.encode_text`."""
        return [self.text_prompts[0], *[None] * (self.block - 2), self.class_prompts(classes)]

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.tokens[classes], self.prompts(classes)), dim=-1)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return knowledge_terms(self, batch, self.frozen_texts())


def behind_of(template: str) -> str:
    """The place of a class name in a template and what follows it, as the published sentences have it: `{}, a type of
    pet.`."""
    place = "{}" if "{}" in template else ARTICLE
    return "{}" + template.partition(place)[2]


def checked_block(block: int | None, layers: int) -> int:
    """The block before which a class's own vectors take their places, the first one being 1.

    Args:
        block: None: the published one, or the last of a tower that has fewer.
        layers: of the text tower.

    Raises:
        UserError: the tower has no such block, or only one.
    """
    found = min(BLOCK, layers) if block is None else block
    if not 2 <= found <= layers:
        raise UserError(
            f"methods.tcp.block: vectors of each class are to enter block {max(found, 2)}, but the text tower has "
            f"{layers}; give one of its blocks from the second on, or use a method that learns at the input"
        )
    return found
