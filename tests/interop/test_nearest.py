from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.interop.nearest import Neighbour, learned_words, nearest_words
from tests.interop.published import Case, import_case
from tests.methods import parity
from tests.worlds.clip import make_clip_folder
from tests.worlds.rewritten import rewrite


@pytest.fixture(scope="module", params=["open_clip", "Hugging Face"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptedClip:
    """A CLIP with either kind of tokenizer."""
    if request.param == "open_clip":
        return parity.tiny_clip()
    folder = make_clip_folder(tmp_path_factory.mktemp("clip"))
    return PromptedClip(load_backbone(BackboneSettings(name=str(folder))))


def nearest_to(clip: PromptedClip, text: str) -> list[Neighbour]:
    """The nearest word to each token embedding of a text."""
    ids = clip.texts([text]).ids[0, 1:-1]
    return [words[0] for words in nearest_words(clip, clip.text.token_embedding(ids).detach(), 1)]


def test_a_word_is_nearest_to_its_own_embedding(clip: PromptedClip) -> None:
    assert nearest_to(clip, "a photo of a") == [(word, 0.0) for word in ("a", "photo", "of", "a")]


def test_distances_are_euclidean_and_ascending(clip: PromptedClip) -> None:
    embeddings = clip.text.token_embedding.weight.detach()
    vector = torch.randn(1, embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    expected = (embeddings - vector).square().sum(dim=1).sqrt().sort().values[:5]
    (actual,) = nearest_words(clip, vector, 5)
    torch.testing.assert_close(torch.tensor([distance for _, distance in actual]), expected)


def test_a_subword_that_does_not_end_a_word_has_a_hyphen(clip: PromptedClip) -> None:
    pieces = [neighbour.word for neighbour in nearest_to(clip, "zzqq")]
    assert "".join(piece.removesuffix("-") for piece in pieces) == "zzqq"
    assert [piece.endswith("-") for piece in pieces] == [True] * (len(pieces) - 1) + [False]


def test_letters_of_several_bytes_are_decoded() -> None:
    assert nearest_to(parity.tiny_clip(), "é")[0].word == "é"


def test_every_prompted_block_and_vector_has_a_row(tmp_path: Path, worlds: Path) -> None:
    case = Case("ivlp")
    run = import_case(case, tmp_path, worlds).url
    prompts = safetensors.torch.load_file(Path(run, "prompts.safetensors"))
    prompts["text_prompts.1"][0] = parity.tiny_clip().text.token_embedding.weight[1125].detach()
    rewrite(Path(run, "prompts.safetensors"), safetensors.torch.save(prompts))
    headings, rows = learned_words(run, 1)
    depth, n = int(case.config["PROMPT_DEPTH_TEXT"]), int(case.config["N_CTX_TEXT"])
    assert list(headings)[:2] == ["block", "vector"]
    assert [tuple(row[:2]) for row in rows] == [(block, i) for block in range(1, depth + 1) for i in range(1, n + 1)]
    assert rows[n][2] == "photo 0.0000"


def test_rows_of_class_specific_vectors_contain_the_class(tmp_path: Path, worlds: Path) -> None:
    case = Case("coop", "csc.")
    headings, rows = learned_words(import_case(case, tmp_path, worlds).url, 2)
    assert list(headings)[:3] == ["block", "class", "vector"]
    assert [row[1] for row in rows[:: int(case.config["N_CTX"])]] == case.fixture.classnames


def test_a_run_without_text_vectors_is_an_error(tmp_path: Path, worlds: Path) -> None:
    run = import_case(Case("vpt"), tmp_path, worlds).url
    with pytest.raises(UserError, match="'vpt' has no learned text vectors"):
        learned_words(run)
