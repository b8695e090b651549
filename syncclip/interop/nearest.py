"""Find the words in CLIP's vocabulary that are nearest to a run's learned text vectors."""

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
    """A word in the vocabulary and its distance from a vector."""

    word: str  # ends with a hyphen if it is a subword that does not end a word
    distance: float  # Euclidean, between vector and token embedding


def nearest_words(clip: PromptedClip, vectors: Tensor, count: int) -> list[list[Neighbour]]:
    """Return the words whose token embeddings are nearest to each vector, in ascending order of distance.

    Distances are computed as in CoOp's and MaPLe's `interpret_prompt.py`, which also compares vectors of deeper blocks
    with token embeddings, although only the first block receives token embeddings. `vectors` has shape (n, width).
    """
    embeddings = clip.text.token_embedding.weight.detach().float()
    exact = "donot_use_mm_for_euclid_dist"  # cancellation in matrix products would make zero distances positive
    distances = torch.cdist(vectors.to(embeddings), embeddings, compute_mode=exact)
    nearest = distances.topk(min(count, len(embeddings)), largest=False)
    return [
        [Neighbour(_word(clip.backbone.tokenizer, token), distance) for token, distance in zip(*row, strict=True)]
        for row in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    ]


def _word(tokenizer: Any, token: int) -> str:
    """Return the text of a token of an open_clip or Hugging Face tokenizer."""
    from open_clip.tokenizer import bytes_to_unicode

    if hasattr(tokenizer, "decoder"):
        entry = str(tokenizer.decoder.get(token, f"#{token}"))
    else:
        entry = str(tokenizer.tokenizer.convert_ids_to_tokens(token))
    # CLIP's vocabulary encodes each byte as a letter.
    letters, bytes_of = entry.removesuffix(END_OF_WORD), {letter: byte for byte, letter in bytes_to_unicode().items()}
    if letters.startswith("<|") or not all(letter in bytes_of for letter in letters):
        return entry  # start and end tokens, other vocabularies
    text = bytes(bytes_of[letter] for letter in letters).decode(errors="replace")
    return text if entry.endswith(END_OF_WORD) else f"{text}-"


def learned_words(run: str, count: int = 3) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return the headings and rows of a table with the `count` words nearest to each of a run's learned text vectors.

    Blocks and vectors are numbered from 1. Rows for class-specific vectors contain the class name.

    Raises:
        UserError: the run is not finished, or its method has no learned text vectors.
    """
    recipe, folder = finished_run(run)
    learned = read_prompts(folder)
    blocks = sorted((int(name.removeprefix(TEXT_PROMPTS)), name) for name in learned if name.startswith(TEXT_PROMPTS))
    if not blocks:
        raise UserError(f"{run}: method {recipe.training.method!r} has no learned text vectors; use a different run")
    storage.configure(recipe.storage.options)
    clip = PromptedClip(load_backbone(recipe.backbone))
    width = clip.text.token_embedding.weight.shape[1]
    if wrong := [name for _, name in blocks if learned[name].dim() not in (2, 3) or learned[name].shape[-1] != width]:
        raise UserError(
            f"{folder.path(PROMPTS)}: {wrong[0]} does not match backbone {recipe.backbone.name!r} in the run's "
            "recipe; restore the original recipe.yaml"
        )
    class_specific = learned[blocks[0][1]].dim() == 3
    names = load_dataset(recipe.dataset).classnames if class_specific else [""]
    rows: list[Sequence[object]] = []
    for block, prompts in blocks:
        for name, vectors in zip(names, learned[prompts] if class_specific else learned[prompts][None], strict=True):
            for vector, words in enumerate(nearest_words(clip, vectors, count), start=1):
                neighbours = ", ".join(f"{word} {distance:.4f}" for word, distance in words)
                rows.append([block + 1, *([name] if class_specific else []), vector, neighbours])
    return ["block", *(["class"] if class_specific else []), "vector", "nearest words, Euclidean distance"], rows
