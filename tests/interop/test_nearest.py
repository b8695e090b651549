from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.interop.imports import import_prompts
from syncclip.interop.nearest import learned_words, nearest_words
from tests.interop import published
from tests.interop.published import Case
from tests.methods import parity
from tests.worlds.clip import make_clip_folder
from tests.worlds.rewritten import rewrite

SENTENCE = "a photo of a"


@pytest.fixture(scope="module", params=["open_clip", "Hugging Face"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptedClip:
    """A CLIP with a tokenizer of either kind."""
    if request.param == "open_clip":
        return parity.tiny_clip()
    folder = make_clip_folder(tmp_path_factory.mktemp("clip"))
    return PromptedClip(load_backbone(BackboneSettings(name=str(folder))))


def test_a_word_is_nearest_to_its_own_embedding(clip: PromptedClip) -> None:
    ids = clip.texts([SENTENCE]).ids[0, 1:-1]
    vectors = clip.text.token_embedding(ids).detach()
    actual = nearest_words(clip, vectors, 2)
    assert [words[0] for words in actual] == [(word, 0.0) for word in SENTENCE.split()]


def test_distances_are_euclidean_and_ascend(clip: PromptedClip) -> None:
    embeddings = clip.text.token_embedding.weight.detach()
    vector = torch.randn(1, embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    expected = (embeddings - vector).square().sum(dim=1).sqrt().sort().values[:5]
    (actual,) = nearest_words(clip, vector, 5)
    torch.testing.assert_close(torch.tensor([distance for _, distance in actual]), expected)


def test_a_piece_that_goes_on_is_told_from_a_word(clip: PromptedClip) -> None:
    ids = clip.texts(["zzqq"]).ids[0, 1:-1]
    pieces = [words[0].word for words in nearest_words(clip, clip.text.token_embedding(ids).detach(), 1)]
    assert "".join(piece.removesuffix("-") for piece in pieces) == "zzqq"
    assert [piece.endswith("-") for piece in pieces] == [True] * (len(pieces) - 1) + [False]


def test_letters_of_several_bytes_are_written_as_such() -> None:
    clip = parity.tiny_clip()
    ids = clip.texts(["é"]).ids[0, 1:-1]
    (actual,) = nearest_words(clip, clip.text.token_embedding(ids).detach(), 1)
    assert actual[0].word == "é"


def run_of(case: Case, folder: Path, worlds: Path) -> str:
    published.save(folder, case.method, published.state_dict(case))
    return import_prompts(str(folder), published.recipe(worlds, case), str(folder / "run")).url


def test_every_prompted_block_and_vector_has_a_row(tmp_path: Path, worlds: Path) -> None:
    case = Case("ivlp")
    run = run_of(case, tmp_path, worlds)
    prompts = safetensors.torch.load_file(Path(run, "prompts.safetensors"))
    prompts["text_prompts.1"][0] = parity.tiny_clip().text.token_embedding.weight[1125].detach()
    rewrite(Path(run, "prompts.safetensors"), safetensors.torch.save(prompts))
    headings, rows = learned_words(run, 1)
    depth, n = int(case.config["PROMPT_DEPTH_TEXT"]), int(case.config["N_CTX_TEXT"])
    assert list(headings)[:2] == ["block", "vector"]
    assert [tuple(row[:2]) for row in rows] == [(block, i) for block in range(1, depth + 1) for i in range(1, n + 1)]
    assert rows[n][2] == "photo 0.0000"


def test_vectors_of_each_class_stand_with_its_name(tmp_path: Path, worlds: Path) -> None:
    case = Case("coop", "csc.")
    headings, rows = learned_words(run_of(case, tmp_path, worlds), 2)
    assert list(headings)[:3] == ["block", "class", "vector"]
    assert [row[1] for row in rows[:: int(case.config["N_CTX"])]] == case.fixture.classnames


def test_prompts_of_the_vision_tower_alone_have_no_words(tmp_path: Path, worlds: Path) -> None:
    with pytest.raises(UserError, match="'vpt' learns no text vectors"):
        learned_words(run_of(Case("vpt"), tmp_path, worlds))
