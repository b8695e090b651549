"""A frozen CLIP whose two towers take prompts: learned vectors among the tokens, at the input and before deeper blocks.

Conventions, as in the published code of CoOp, VPT and MaPLe:

* text: [start][n vectors][name][.][end]; each prompted block sees vectors of its own at these places.
* vision: [class][patches][N vectors]; appended without position before `ln_pre`, replaced before each deeper block.
* A list of prompts has one entry per prompted block, counted from the input.

What it saves: texts are cut to the longest one, first tokens that all classes share are computed once instead of once a
class, the last block computes only the token that is read, and frozen weights keep nothing for gradients of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from syncclip.clip.backbone import Backbone
from syncclip.clip.tokens import (
    PHRASE_TOKENS,
    Position,
    PromptTokens,
    arrange,
    prompt_texts,
    shared_length,
    spoken,
    tokenize,
)
from syncclip.clip.towers import attend, causal_rows, output, place, promptable_towers
from syncclip.settings import UserError


class PromptedClip(nn.Module):
    """Both towers of a `Backbone`, frozen. Features come out raw (not normalised) and in float32."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.model: Any = backbone.model.eval().requires_grad_(False)
        self._towers = promptable_towers(self.model)  # a tuple, so that nothing is registered twice

    @property
    def context(self) -> int:
        """Tokens that a text may have, start and end included."""
        return int(self.text.context_length)

    @property
    def text(self) -> Any:
        """The text tower, if prompts can enter it.

        Raises:
            UserError: they cannot.
        """
        tower = self._towers[0]
        if tower is None:
            raise UserError(
                f"backbone.name: the text tower of '{self.backbone.name}' is not a plain CLIP transformer, "
                "so prompts cannot enter it; use a ViT model such as 'ViT-B-16'"
            )
        return tower

    @property
    def vision(self) -> Any:
        """The vision tower, if prompts can enter it.

        Raises:
            UserError: they cannot.
        """
        tower = self._towers[1]
        if tower is None:
            raise UserError(
                f"backbone.name: the vision tower of '{self.backbone.name}' is not a plain vision transformer "
                "(it is a ResNet or a timm model), so prompts cannot enter it; use a ViT model such as 'ViT-B-16'"
            )
        return tower

    @property
    def dim(self) -> int:
        """Length of the features."""
        projection = self.text.text_projection
        if isinstance(projection, nn.Linear):
            return projection.out_features
        return self.text_width if projection is None else int(projection.shape[1])

    @property
    def text_width(self) -> int:
        return int(self.text.token_embedding.embedding_dim)

    @property
    def text_layers(self) -> int:
        return len(self.text.transformer.resblocks)

    @property
    def vision_width(self) -> int:
        return int(self.vision.conv1.out_channels)

    @property
    def vision_layers(self) -> int:
        return len(self.vision.transformer.resblocks)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def logit_scale(self) -> Tensor:
        """A scalar: what cosines are multiplied with before the softmax."""
        scale: Tensor = self.model.logit_scale
        return scale.exp().reshape(())

    def texts(self, sentences: Sequence[str]) -> PromptTokens:
        """Whole texts, without free places."""
        return self._embed(*self._tokenize(sentences), torch.empty(len(sentences), 0, dtype=torch.long), None)

    def text_context(
        self, classnames: Sequence[str], phrase: str, n: int | None, position: Position = "end"
    ) -> PromptTokens:
        """The sentences "<phrase> <name>." with n free places for learned vectors.

        The phrase is written out and its first n tokens become the places; what is left of it stays as words. With n
        above `PHRASE_TOKENS`, or an empty phrase, there are n places and the name.

        Args:
            n: None: as many as the phrase has words, however many these are.
            position: of the class name: after, between or before the places.

        Raises:
            ValueError: the phrase has fewer than n tokens, or a text does not fit the context.
        """
        if n is None:
            n = len(phrase.split())
        elif n > PHRASE_TOKENS:
            phrase = ""
        ids, ends = self._tokenize(prompt_texts(classnames, phrase, n))
        held, initial = n, None
        if phrase and n:
            held = int(self._tokenize([phrase])[1]) - 1
            if held < n:
                raise ValueError(
                    f"the phrase '{phrase}' has {held} tokens, but {n} text tokens shall start from it; "
                    f"use a longer phrase, an empty one, or {held} text tokens"
                )
            initial = self.text.token_embedding(ids[0, 1 : 1 + n].to(self.device)).clone()
        # Names are counted alone: the last token of "St. (old)" and the full stop behind it may be one in the sentence.
        names = self._tokenize([spoken(name) for name in classnames])[1] - 1
        ids, slots = arrange(ids, 1 + held + names, n, position)
        return self._embed(ids, ends, slots, initial)

    def encode_text(self, tokens: PromptTokens, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Text features.

        Args:
            tokens: C texts with n free places.
            prompts: one entry per prompted block: (n, width) for all classes alike, (C, n, width) for each its own,
                (B, C, n, width) or (B, 1, n, width) for each of B pictures.

        Returns:
            (C, D), or (B, C, D) where prompts are per picture.
        """
        tower = self.text
        blocks = tower.transformer.resblocks
        _check("text", prompts, len(blocks), tokens.slots.shape[1])
        classes, length, width = tokens.embeddings.shape
        lead: torch.Size = torch.broadcast_shapes((classes,), *(vectors.shape[:-2] for vectors in prompts))  # type: ignore[no-untyped-call]
        per_class = any(vectors.dim() > 2 and vectors.shape[-3] > 1 for vectors in prompts)
        shared = 0 if per_class else tokens.shared

        with self._autocast():
            x = tokens.embeddings.expand(*lead, length, width)
            if prompts:
                x = place(x, prompts[0], tokens.slots)
            x = x + tower.positional_embedding[:length]
            # First tokens that are the same for all classes see, by the causal mask, nothing but each other.
            head = x[..., :1, :shared, :] if shared else None
            x = x[..., shared:, :]
            for i, block in enumerate(blocks):
                if 0 < i < len(prompts):
                    if head is None:
                        x = place(x, prompts[i], tokens.slots)
                    else:
                        head = place(head, prompts[i], tokens.slots[:1])
                if i + 1 < len(blocks):
                    deeper = self._attend(block, x, x, head, causal_rows(tower, slice(shared, length), length))
                    if head is not None:
                        head = self._attend(block, head, head, None, causal_rows(tower, slice(0, shared), shared))
                    x = deeper
                else:
                    at = (tokens.read - shared)[:, None, None].expand(*lead, 1, width)
                    x = self._attend(block, x.gather(-2, at), x, head, causal_rows(tower, tokens.read, length))
            x = tower.ln_final(x.squeeze(-2))
            if isinstance(tower.text_projection, nn.Linear):
                x = tower.text_projection(x)
            elif tower.text_projection is not None:
                x = x @ tower.text_projection
        features: Tensor = x.float()
        return features

    def encode_images(self, images: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Image features.

        Args:
            images: (B, 3, H, W), normalised.
            prompts: one entry per prompted block: (N, width) for all pictures alike, or (B, N, width) for each its own,
                which is how pictures of several domains share one pass.

        Returns:
            (B, D).
        """
        if not prompts and self._towers[1] is None:
            with self._autocast():
                whole: Tensor = self.model.encode_image(images).float()
            return whole
        tower = self.vision
        blocks = tower.transformer.resblocks
        _check("vision", prompts, len(blocks), prompts[0].shape[-2] if prompts else 0)
        batch = len(images)

        with self._autocast():
            patches = tower.conv1(images).flatten(2).transpose(1, 2)
            x = torch.cat([tower.class_embedding.expand(batch, 1, -1), patches], dim=1) + tower.positional_embedding
            seen = x.shape[1]  # class and patches; behind them stand the prompts
            if prompts:
                x = torch.cat([x, prompts[0].expand(batch, -1, -1).to(x.dtype)], dim=1)
            x = tower.ln_pre(x)
            for i, block in enumerate(blocks):
                if 0 < i < len(prompts):
                    x = torch.cat([x[:, :seen], prompts[i].expand(batch, -1, -1).to(x.dtype)], dim=1)
                if i + 1 < len(blocks):
                    x = self._attend(block, x, x, None, None)
                else:
                    x = self._attend(block, x[:, 1:seen] if tower.pool_type == "avg" else x[:, :1], x, None, None)
            x = tower.ln_post(x.mean(dim=1)) if tower.final_ln_after_pool else tower.ln_post(x).mean(dim=1)
            if tower.proj is not None:
                x = x @ tower.proj
        features: Tensor = x.float()
        return features

    def _attend(self, block: Any, query: Tensor, tokens: Tensor, head: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.backbone.checkpoint_activations and torch.is_grad_enabled():
            arguments = (block, query, tokens, head, mask)
            again: Tensor = checkpoint(attend, *arguments, use_reentrant=False, preserve_rng_state=False)
            return again
        return attend(block, query, tokens, head, mask)

    def _tokenize(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        pool, end_id = output(self.text)
        end = end_id if pool == "eos" else None
        return tokenize(self.backbone.tokenizer, sentences, self.context, end)

    def _embed(self, ids: Tensor, ends: Tensor, slots: Tensor, initial: Tensor | None) -> PromptTokens:
        """Keep the tokens up to the last end token: behind it, the causal mask hides all from what is read."""
        ids = ids[:, : int(ends.max()) + 1]
        embeddings = self.text.token_embedding(ids.to(self.device)).detach()
        tokens = PromptTokens(ids, embeddings, ends, slots, shared_length(ids, ends, slots), initial)
        return tokens.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.backbone.precision == "bf16")


def _check(tower: str, prompts: Sequence[Tensor], layers: int, tokens: int) -> None:
    if len(prompts) > layers:
        raise ValueError(f"{len(prompts)} {tower} blocks shall have prompts, but there are {layers}; lower the depth")
    assert all(vectors.shape[-2] == tokens for vectors in prompts), [tuple(vectors.shape) for vectors in prompts]
