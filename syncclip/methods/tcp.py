"""TCP: CoOp with class-specific vectors inside the text tower, generated from hand-written prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.core.text import ARTICLE, counted, readable_name
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.kgcoop import knowledge_terms
from syncclip.methods.prompts import deep_prompts
from syncclip.methods.settings import TcpSettings

BLOCK = 9  # published setting for towers with 12 blocks


class QuickGelu(nn.Module):
    """QuickGELU activation x * sigmoid(1.702 x) of the published network; the CLIP model's activation may differ."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class Tcp(Method):
    """Textual-based class-aware prompt tuning (arXiv 2311.18231).

    A class prompt is [V1]...[Vn][name][suffix] with learned vectors V shared by all classes. Before one of the later
    blocks, class-specific vectors replace the hidden states of the learned vectors. A small network generates the
    class-specific vectors, including those for novel classes, from the unit-length frozen features of hand-written
    prompts. The loss is the KgCoOp loss.

    Source: the paper and its published code, where class-specific vectors have a constant mixing weight of 1 and thus
    replace the shared vectors.
    """

    Settings = TcpSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: TcpSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.weights = {"knowledge": settings.knowledge_weight}
        self.frozen_texts = FrozenTexts(clip, classnames, [settings.template or template])
        self.block = checked_block(settings.block, clip.text.layers)
        shared, specific = settings.text_tokens, settings.class_tokens
        words, slots = settings.initial_words.split(), max(shared, specific)
        context = [*words, *["X"] * (slots - len(words))]
        sentence = " ".join([*context, settings.suffix or suffix_of(template)])
        self.tokens = clip.text_places(fill(sentence, [*map(readable_name, classnames)]), slots)
        start, dim, width = self.tokens.initial, clip.text.dim, clip.text.width
        self.text_prompts = deep_prompts(1, shared, width, start[:shared] if words and start is not None else None)
        hidden = max(dim // 4, 1)
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(dim, hidden), gelu=QuickGelu(), linear2=nn.Linear(hidden, specific * width))
        )

    def class_prompts(self, classes: slice = slice(None)) -> Tensor:
        """Return the class-specific vectors (C, m, width)."""
        vectors: Tensor = self.meta_net(self.frozen_texts()[classes])
        return vectors.view(len(vectors), -1, self.clip.text.width)

    def prompts(self, classes: slice = slice(None)) -> list[Tensor | None]:
        """Return each block's prompts (see `PromptedClip.encode_text`)."""
        return [self.text_prompts[0], *[None] * (self.block - 2), self.class_prompts(classes)]

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.tokens[classes], self.prompts(classes)), dim=-1)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return knowledge_terms(self, batch, self.frozen_texts())


def suffix_of(template: str) -> str:
    """Return the part of a template from the class name onwards (`{}, a type of pet.` in the published prompts)."""
    return "{}" + template.partition("{}" if "{}" in template else ARTICLE)[2]


def checked_block(block: int | None, layers: int) -> int:
    """Return the 1-based index of the block before which class-specific vectors are inserted (`TcpSettings.block`).

    Raises:
        UserError: the tower lacks this block or has only one block.
    """
    resolved = min(BLOCK, layers) if block is None else block
    if not 2 <= resolved <= layers:
        raise UserError(
            f"methods.tcp.block: block {max(resolved, 2)} does not exist, because the text tower has "
            f"{counted(layers, 'block')}; use a block from 2 to {layers}, or a different method"
        )
    return resolved
