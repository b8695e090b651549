from __future__ import annotations

import pytest

from syncclip.synthesis.prompts.captions import caption


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A cat sleeps on a sofa.", "A cat sleeps on a sofa."),
        ("Two Cats play.", "Two Cats play."),
        ("It sleeps on a sofa.", "cat, It sleeps on a sofa."),
        ("A caterpillar on a leaf", "cat, A caterpillar on a leaf"),
        ('\n\n1. "A cat in the snow"\n2. A cat', "A cat in the snow"),
        ("**A cat at dawn.** ", "A cat at dawn."),
        ("A cat at dawn. It looks at the", "A cat at dawn."),
        ("A cat of 3.5 kg sits\tthere", "A cat of 3.5 kg sits there"),
        ("A cat\u200b sits", "A cat sits"),
        ("...", None),
        ("", None),
    ],
)
def test_an_answer_becomes_one_line_with_the_class_name(answer: str, expected: str | None) -> None:
    assert caption(answer, "cat") == expected
