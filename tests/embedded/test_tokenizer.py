"""The tokenizer of the embedded CLIP, built without transformers."""

from __future__ import annotations

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompt_text import filled
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.embedded import context_length, load_tokenizer


def test_its_tokens_are_those_that_the_embedded_clip_reads() -> None:
    names = load_dataset(DatasetSettings(name="icons/travel")).classnames
    texts = [filled("a photo of a {}.", name) for name in names]
    texts += [
        "MD80",
        "St. (old)",
        "crème brûlée",
        "ÉCLAIR",
        "naïve  café",
        "it's",
        "汉字",
        "🙂",
        "a_b",
        "<|endoftext|>",
        "",
    ]
    length = context_length()
    ids = load_backbone(BackboneSettings()).tokenizer(texts, context_length=length)
    for text, encoding, expected in zip(texts, load_tokenizer().encode_batch(texts), ids.tolist(), strict=True):
        padded = encoding.ids + [0] * (length - len(encoding.ids))
        assert padded == expected, text
