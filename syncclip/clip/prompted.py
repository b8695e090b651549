"""A frozen CLIP model with prompts in both towers: learned vectors inserted among the tokens of the first blocks.

Conventions, as in the published code of CoOp, VPT and MaPLe:

* Text: [start][n vectors][name][.][end]. Each prompted block replaces the n vectors with its own vectors.
* Vision: [class][patches][N vectors]. The N vectors have no positional embedding, are appended before the
  first norm, and are replaced before deeper blocks.
* A list of prompts has one entry per prompted block. For text, a None entry leaves all slots unchanged; an
  entry with fewer vectors than slots leaves the last slots unchanged.

Optimisations: in a causal text tower (not SigLIP's), texts are grouped by length, and padding is trimmed to the longest
text of each group. Tokens shared by all texts are computed once. The last block computes only the pooled tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from syncclip.clip.backbone import Backbone
from syncclip.clip.blocks import Prompts, attend, autocast, check_prompts, float32, place, spread
from syncclip.clip.inserted import Inserted
from syncclip.clip.length_buckets import in_groups, of_like_length
from syncclip.clip.parts import Parts, for_blocks, learned
from syncclip.clip.prompt_text import prompt_texts
from syncclip.clip.text_tower import TextTower, no_text_prompts, text_tower
from syncclip.clip.tokens import (
    WORD_TOKENS,
    PromptTokens,
    arrange,
    check_words,
    frame,
    shared_length,
    tokenize,
)
from syncclip.clip.vision_tower import VisionTower, no_vision_prompts, vision_tower
from syncclip.core.settings import Position
from syncclip.core.text import readable_name


class PromptedClip(nn.Module):
    """Frozen text and vision towers of a `Backbone`, with prompt support. Features are float32 and not normalised.

    A tower that does not support prompts can still encode texts or images without prompts.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.model: Any = backbone.model.eval().requires_grad_(False)
        self._text, self._vision = text_tower(self.model), vision_tower(self.model)
        self.text_cache: dict[tuple[str | int, ...], Tensor] = {}
        """Cached features of hand-written prompts (see `methods.frozen`)."""

    @property
    def text(self) -> TextTower:
        """Return the text tower, or raise a `UserError` if it does not support prompts."""
        if self._text is None:
            raise no_text_prompts(self.backbone.name)
        return self._text

    @property
    def vision(self) -> VisionTower:
        """Return the vision tower, or raise a `UserError` if it does not support prompts."""
        if self._vision is None:
            raise no_vision_prompts(self.model, self.backbone.name)
        return self._vision

    @property
    def context(self) -> int:
        """Maximum number of tokens of a text, including the start and end tokens."""
        if self._text is None:
            tokenizer: Any = self.backbone.tokenizer
            return int(tokenizer.context_length)
        return self._text.context

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def logit_scale(self) -> Tensor:
        """Scale of the cosine similarities before the softmax, as a scalar tensor."""
        scale: Tensor = self.model.logit_scale
        return scale.exp().reshape(())

    @property
    def logit_bias(self) -> Tensor | None:
        """Scalar added to the scaled cosine similarities in SigLIP and similar models; None for other models."""
        bias: Tensor | None = self.model.logit_bias
        return bias if bias is None else bias.reshape(())

    def lengths(self, sentences: Sequence[str]) -> Tensor:
        """Return the number of tokens (C,) of each text, including the start and end tokens."""
        return self._tokenize(sentences)[1] + 1

    def texts(self, sentences: Sequence[str]) -> PromptTokens:
        """Embed texts without slots for learned vectors."""
        return self._embed(self._tokenize(sentences)[0], torch.empty(len(sentences), 0, dtype=torch.long), None)

    def text_places(self, sentences: Sequence[str], n: int) -> PromptTokens:
        """Embed texts whose first n tokens become slots; the learned vectors are initialised from the first text.

        Raises:
            UserError: a text exceeds the context length.
        """
        (ids, _), (start, _) = self._tokenize(sentences), self._frame
        initial = self.text.token_embedding(ids[0, start : start + n].to(self.device)).clone()
        return self._embed(ids, torch.arange(start, start + n).repeat(len(ids), 1), initial)

    def text_context(
        self, classnames: Sequence[str], initial_words: str, n: int | None, position: Position = "end"
    ) -> PromptTokens:
        """Embed the prompts "<initial words> <name>." with n slots for learned vectors.

        The first n tokens of the initial words become the slots; the remaining tokens stay in the text. If n exceeds
        `WORD_TOKENS`, the initial words are ignored.

        Args:
            n: number of slots; None: one slot per initial word.
            position: position of the class name relative to the slots.

        Raises:
            UserError: the initial words have fewer than n tokens, or a text exceeds the context length.
        """
        if n is None:
            n = len(initial_words.split())
        elif n > WORD_TOKENS:
            initial_words = ""
        embedding, (start, _) = self.text.token_embedding, self._frame
        ids, _ = self._tokenize(prompt_texts(classnames, initial_words, n))
        count, initial = n, None
        if initial_words and n:
            count = int(self._tokenize([initial_words])[1]) - start
            check_words(initial_words, count, n)
            initial = embedding(ids[0, start : start + n].to(self.device)).clone()
        # Names are tokenised alone, since a name's last token and the full stop may be merged in the prompt.
        names = self._tokenize([readable_name(name) for name in classnames])[1] - start
        ids, slots = arrange(ids, start, start + count + names, n, position)
        return self._embed(ids, slots, initial)

    def encode_text(
        self, tokens: PromptTokens, prompts: Prompts = (), parts: Parts = (), inserted: Inserted | None = None
    ) -> Tensor:
        """Compute text features.

        Args:
            tokens: C texts with n slots for learned vectors.
            prompts: one entry per prompted block: (n, width) shared by all classes, (C, n, width) per class, or
                (B, C, n, width) or (B, 1, n, width) per image; a None entry leaves the slots unchanged.
            parts: trainable modules, one per block.
            inserted: vectors to insert after the start token of a causal tower, as an alternative to prompts.

        Returns:
            Features (C, D), or (B, C, D) with per-image prompts.
        """
        if not prompts and not len(parts) and inserted is None and self._text is None:
            return self._by_open_clip(self.model.encode_text, tokens.ids)
        tower = self.text
        check_prompts("text", prompts, tower.layers, tokens.slots.shape[1])
        blocks = [*zip(tower.blocks, for_blocks("text", parts, tower.layers), strict=True)]
        if tower.causal and len(groups := of_like_length(tokens.lengths)) > 1:
            return in_groups(lambda rows, own: self.encode_text(rows, own, parts, inserted), tokens, prompts, groups)
        classes, length, width = tokens.embeddings.shape
        lead, apart = spread(prompts, classes)
        shared = 0 if apart == 0 else tokens.shared
        assert inserted is None or (shared and not prompts)
        run = partial(self._run, random=len(parts) > 0)

        with self._autocast(prompts, parts, inserted):
            x = tokens.embeddings.expand(*lead, length, width)
            if prompts and prompts[0] is not None:
                x = place(x, prompts[0], tokens.slots)
            x = x + tower.positions(length)
            # Because of the causal mask, shared tokens attend only to each other.
            head = x[..., :1, :shared, :] if shared else None
            x = x[..., shared:, :]
            for i, (block, part) in enumerate(blocks):
                if i == apart and head is not None:  # this block and later ones share no tokens
                    x, head, shared = torch.cat([head.expand(*lead, -1, -1), x], dim=-2), None, 0
                if 0 < i < len(prompts) and (vectors := prompts[i]) is not None:
                    if head is None:
                        x = place(x, vectors, tokens.slots)
                    else:
                        head = place(head, vectors, tokens.slots[:1])
                if inserted is not None and head is not None:
                    head = inserted.enter(head, i)
                first = 0 if head is None else head.shape[-2]
                length = first + x.shape[-2]
                if i + 1 < len(blocks):
                    deeper = run(attend, block, None, x, head, tower.mask(slice(first, length), length), part)
                    if head is not None:
                        head = run(attend, block, None, head, None, tower.mask(slice(0, first), first), part)
                    x = deeper
                else:
                    read = tokens.read - shared
                    at = read[:, None, None].expand(*lead, 1, width)
                    x = run(attend, block, x.gather(-2, at), x, head, tower.mask(first + read, length), part)
            x = tower.project(x.squeeze(-2))
        return float32(x, self.backbone.precision)

    def encode_images(
        self, images: Tensor, prompts: Sequence[Tensor] = (), parts: Parts = (), inserted: Inserted | None = None
    ) -> Tensor:
        """Compute image features.

        Args:
            images: normalised images (B, 3, H, W).
            prompts: one entry per prompted block: (N, width) shared by all images, or (B, N, width) per image, which
                allows images of several domains in one batch.
            parts: trainable modules, one per block.
            inserted: vectors to insert after the class token, as an alternative to prompts; the tower must pool only
                this token.

        Returns:
            Features (B, D). With inserted vectors, the mean of their normalised outputs is appended: (B, D + width).
        """
        if not prompts and not len(parts) and inserted is None and self._vision is None:
            return self._by_open_clip(self.model.encode_image, images)
        tower = self.vision
        added = prompts[0].shape[-2] if prompts else 0
        check_prompts("vision", prompts, tower.layers, added)
        assert inserted is None or not prompts

        with self._autocast(prompts, parts, inserted):
            x = tower.embed(images)
            tokens = x.shape[1]  # class and patches, followed by the prompts
            for i, block in enumerate(tower.blocks(added, parts)):
                if i < len(prompts):
                    x = torch.cat([x[:, :tokens], prompts[i].expand(x.shape[0], -1, -1).to(x.dtype)], dim=1)
                if i == 0:
                    x = tower.norm(x)
                if inserted is not None:
                    x = inserted.enter(x, i)
                query = None
                if i + 1 == tower.layers:
                    query = tower.read(x[:, :tokens]) if inserted is None else x[:, : 1 + inserted.count]
                x = self._run(block, query, x, random=len(parts) > 0)
            if inserted is None:
                x = tower.pool(x)
            else:
                x = torch.cat([tower.pool(x[:, :1]), tower.last_norm(x[:, 1:]).mean(dim=1)], dim=-1)
        return float32(x, self.backbone.precision)

    def _by_open_clip(self, encode: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        """Compute features of texts or images with open_clip's own forward pass."""
        with self._autocast():
            features = encode(inputs, normalize=False)
        return float32(features, self.backbone.precision)

    def _run(self, block: Callable[..., Tensor], *arguments: Any, random: bool = False) -> Tensor:
        """Run a block; set `random` if the block draws random numbers, which checkpointing must reproduce."""
        if self.backbone.checkpoint_activations and torch.is_grad_enabled():
            output: Tensor = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=random)
            return output
        return block(*arguments)

    @cached_property
    def _frame(self) -> tuple[int, int]:
        return frame(self.backbone.tokenizer, self.context)

    def _tokenize(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        return tokenize(self.backbone.tokenizer, sentences, self.context, self._frame[1])

    def _embed(self, ids: Tensor, slots: Tensor, initial: Tensor | None) -> PromptTokens:
        """Embed tokenised texts; for a causal tower, trim the padding after the last pooled token."""
        tower, shared = self._text, 0
        if tower is None:  # open_clip embeds the texts
            return PromptTokens(ids, ids.new_empty(*ids.shape, 0), ids[:, 0], slots, 0, None).to(self.device)
        read = tower.read(ids)
        if tower.causal:
            ids = ids[:, : int(read.max()) + 1]
            shared = shared_length(ids, read, slots)
        embeddings = tower.token_embedding(ids.to(self.device)).detach()
        return PromptTokens(ids, embeddings, read, slots, shared, initial).to(self.device)

    def _autocast(self, prompts: Prompts = (), parts: Parts = (), inserted: Inserted | None = None) -> torch.autocast:
        vectors = () if inserted is None else inserted.vectors.values()
        return autocast(self.backbone.precision, self.device, [*prompts, *learned(parts), *vectors])
