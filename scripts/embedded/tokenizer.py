"""CLIP's byte-pair tokenizer with fewer merges: 8,192 entries instead of 49,408."""

from __future__ import annotations

import json
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

VOCABULARY = 8192
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, context: int) -> None:
    """Write the files that `transformers.CLIPTokenizer` and open_clip's HF tokenizer load.

    Entries keep CLIP's order: 256 bytes, 256 bytes that end a word, then merges. The start and end tokens have the two
    largest IDs; the padding token is `!` (ID 0).
    """
    full = SimpleTokenizer()
    merges = [pair for pair, rank in sorted(full.bpe_ranks.items(), key=lambda item: item[1])][: VOCABULARY - 512 - 2]
    words = list(full.byte_encoder.values())
    words += [word + "</w>" for word in words] + ["".join(pair) for pair in merges] + [START, END]
    assert len(words) == VOCABULARY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({word: number for number, word in enumerate(words)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    settings = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": context, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
