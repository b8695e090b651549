"""From the learned text vectors of a run to the nearest words of CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from syncclip import storage
from syncclip.clip.backbone import load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset
from syncclip.runs.resolve import finished_run
from syncclip.training.loop import read_prompts
from syncclip.training.run_folder import PROMPTS

TEXT_PROMPTS = "text_prompts."
END_OF_WORD = "</w>"


class Neighbour(NamedTuple):
    """A word of the vocabulary; a piece that is not the end of a word is written with a hyphen after it."""

    word: str
    distance: float  # Euclidean, between vector and token embedding


def nearest_words(clip: PromptedClip, vectors: Tensor, count: int) -> list[list[Neighbour]]:
    """The words whose token embeddings are nearest to each vector, nearest first.

    Distances are those of the scripts `interpret_prompt.py` of CoOp and MaPLe. As there, vectors of deeper blocks are
    also compared with token embeddings, though no token embedding ever occurs in those blocks.

    Args:
        vectors: (n, width).
    """
    embeddings = clip.text.token_embedding.weight.detach().float()
    # Not by inner products, whose cancellation would give a word a distance from itself.
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(vectors.to(embeddings), embeddings, compute_mode=exact)
    nearest = distances.topk(min(count, len(embeddings)), largest=False)
    return [
        [Neighbour(_word(clip.backbone.tokenizer, token), distance) for token, distance in zip(*row, strict=True)]
        for row in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    ]


def _word(tokenizer: Any, token: int) -> str:
    """A token as text, by open_clip's own tokenizer or one of Hugging Face's."""
    from open_clip.tokenizer import bytes_to_unicode

    if hasattr(tokenizer, "decoder"):
        written = str(tokenizer.decoder.get(token, f"#{token}"))
    else:
        written = str(tokenizer.tokenizer.convert_ids_to_tokens(token))
    # CLIP's vocabulary writes each byte as a letter.
    letters, bytes_of = written.removesuffix(END_OF_WORD), {letter: byte for byte, letter in bytes_to_unicode().items()}
    if letters.startswith("<|") or not all(letter in bytes_of for letter in letters):
        return written  # start and end, and vocabularies of another kind
    text = bytes(bytes_of[letter] for letter in letters).decode(errors="replace")
    return text if written.endswith(END_OF_WORD) else f"{text}-"


def learned_words(run: str, count: int = 3) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Headings and one row for each learned text vector of a run: block, vector, and the `count` nearest words.

    Blocks and vectors count from 1. Class-specific vectors have the class's name.

    Args:
        run: a finished run's folder or URL.

    Raises:
        UserError: there is no finished run, or it learns no text vectors.
    """
    recipe, folder = finished_run(run)
    learned = read_prompts(folder)
    blocks = sorted((int(name.removeprefix(TEXT_PROMPTS)), name) for name in learned if name.startswith(TEXT_PROMPTS))
    if not blocks:
        raise UserError(f"{run}: method {recipe.training.method!r} learns no text vectors; there is nothing to show")
    storage.configure(recipe.storage.options)
    clip = PromptedClip(load_backbone(recipe.backbone))
    width = clip.text.token_embedding.weight.shape[1]
    if wrong := [name for _, name in blocks if learned[name].dim() not in (2, 3) or learned[name].shape[-1] != width]:
        raise UserError(
            f"{folder.path(PROMPTS)}: {wrong[0]} doesn't fit backbone {recipe.backbone.name!r} of the run's recipe; "
            "get the run's folder whole, with the recipe.yaml that belongs to it"
        )
    own = learned[blocks[0][1]].dim() == 3
    names = load_dataset(recipe.dataset).classnames if own else [""]
    rows: list[Sequence[object]] = []
    for block, prompts in blocks:
        for name, vectors in zip(names, learned[prompts] if own else learned[prompts][None], strict=True):
            for vector, words in enumerate(nearest_words(clip, vectors, count), start=1):
                listed = ", ".join(f"{word} {distance:.4f}" for word, distance in words)
                rows.append([block + 1, *([name] if own else []), vector, listed])
    return ["block", *(["class"] if own else []), "vector", "nearest words, Euclidean distance"], rows
