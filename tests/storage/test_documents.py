from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import Settings, UserError


class Note(Settings):
    images: int


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = str(tmp_path / "note.json")
    assert storage.read_document(place, Note, "write it anew") is None
    storage.write_document(place, Note(images=3))
    assert (tmp_path / "note.json").read_text() == '{\n "images": 3\n}\n'
    assert storage.read_document(place, Note, "write it anew") == Note(images=3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "Invalid JSON"), ('{"images": "many"}', "images: Input should be"), ('{"shots": 1}', "images: Field")],
)
def test_a_damaged_one_is_named_with_the_reason_and_the_remedy(text: str, complaint: str, tmp_path: Path) -> None:
    place = tmp_path / "note.json"
    place.write_text(text)
    with pytest.raises(UserError, match=rf"note.json can't be read .*{complaint}.*; write it anew$"):
        storage.read_document(str(place), Note, "write it anew")
