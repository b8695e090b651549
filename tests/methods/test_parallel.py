"""However many processes share the classes and images of a step, losses and gradients are those of one alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.datasets import Dataset
from syncclip.methods import Method, MethodSettings, build_method
from syncclip.methods.cliplora import ClipLora
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.mma import Mma
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.probe import Probe
from syncclip.methods.promptkd import PromptKd
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.tcp import Tcp
from syncclip.methods.tip import Tip
from syncclip.stream.batch import Batch
from syncclip.training import distributed
from tests.worlds.clip import make_clip_folder

NAMES = ["cat", "golden_retriever", "blue car", "red", "old house", "oak", "a very small dog"]
DATASET = Dataset("shapes", NAMES, "a photo of a {}.", {})
IMAGES = 8  # a group
WORLDS = (4, 2)  # 7 classes among 4: shares of 2, the last of which begins earlier
METHODS: dict[str, tuple[str, MethodSettings | None]] = {
    "coop": ("coop", CoOp.Settings(class_specific=True, text_tokens=2)),
    "cocoop": ("cocoop", CoCoOp.Settings(prompts_at_once=10)),
    "kgcoop": ("kgcoop", None),
    "vpt": ("vpt", None),
    "ivlp": ("ivlp", None),
    "maple": ("maple", None),
    "promptsrc": ("promptsrc", PromptSrc.Settings(templates=("a {}.",))),
    "probe": ("probe", None),
    "constrained probe": ("probe", Probe.Settings(constraint=True)),
    "tip": ("tip", Tip.Settings(cache_size=2)),
    "cliplora": ("cliplora", ClipLora.Settings(dropout=0.0)),
    "cliplora by domain": ("cliplora", ClipLora.Settings(dropout=0.0, domain_rank=1, alignment_weight=2.0)),
    "twostage": ("twostage", None),
    "twostage in its second": ("twostage", None),
    "mma": ("mma", Mma.Settings(scale=0.5)),
    "mmrl": ("mmrl", Mmrl.Settings(layers=(2, 3), tokens=2, dim=8)),
    "mmrl by domain": ("mmrl", Mmrl.Settings(layers=(2, 3), tokens=2, dim=8, domain_tokens=1, alignment_weight=2.0)),
    "tcp": ("tcp", Tcp.Settings(block=2)),
    "promptkd": ("promptkd", PromptKd.Settings(teacher_dim=20, distillation_weight=5.0, temperature=2.0)),
    "syncclip": ("syncclip", SyncClip.Settings(alignment_weight=2.0)),
    "syncclip distilled": ("syncclip", SyncClip.Settings(distillation_weight=1.5, temperature=2.0)),
    "syncclip against all": ("syncclip", SyncClip.Settings(negatives="all", alignment_weight=2.0)),
}

pytestmark = pytest.mark.slow

Found = tuple[dict[str, float], list[Tensor]]
Read = Callable[[str, int, int], tuple[Found, list[int]]]


def build(folder: Path, name: str) -> Method:
    """In float64, so that what is left of a difference is the sharing's fault."""
    method, settings = METHODS[name]
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder))))
    built = build_method(method, clip, DATASET, settings, seed=1)
    built.step_begins(6 if "second" in name else 0, 10)
    if built.settings.taught:
        vectors = torch.randn(built.text_features().shape, generator=torch.Generator().manual_seed(5))
        built.meet_teacher(normalize(vectors, dim=-1))
    return built.double().train()


def batch(rank: int = 0, world_size: int = 1) -> Batch:
    """Real, seen and novel images; of each group the rank has those at rank, rank + world size, ..."""
    generator = torch.Generator().manual_seed(7)
    mine = slice(rank, None, world_size)
    images = torch.randn(3, IMAGES, 3, 32, 32, generator=generator, dtype=torch.float64)[:, mine]
    shown = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])[mine]
    novel = torch.tensor([4, 5, 6, 4, 5, 6, 4, 5])[mine]
    each = len(shown)
    domains = torch.tensor([0] * each + [1] * 2 * each)
    teacher = torch.rand(3, IMAGES, len(NAMES), generator=generator, dtype=torch.float64).softmax(dim=2)[:, mine]
    labels = torch.cat([shown, shown, novel])
    return Batch(images.flatten(0, 1), labels, domains, (each, each, each), teacher.flatten(0, 1))


def found(method: Method, rank: int = 0, world_size: int = 1) -> Found:
    """The means of losses and gradients."""
    shown = batch(rank, world_size)
    if method.prepares:
        method.prepare([[shown], [shown]])
    if isinstance(method, Probe):  # away from its start, where a constraint has no gradient
        with torch.no_grad():
            method.vectors *= 2
    losses = method.loss(shown)
    losses["total"].backward()
    parameters = list(method.parameters())
    means, _ = distributed.average(parameters, losses, world_size)
    return means, [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]


@contextmanager
def exact() -> Iterator[None]:
    """The towers' features stay in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncclip.clip.prompted.float32", lambda features, _: features)
        yield


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many texts each call of the text tower encodes; groups of like length are part of a call."""
    texts: list[int] = []
    encode, inside = PromptedClip.encode_text, []

    def encode_text(clip: PromptedClip, tokens, *others, **named) -> Tensor:  # type: ignore[no-untyped-def]
        if not inside:
            texts.append(len(tokens.embeddings))
        inside.append(True)
        try:
            return encode(clip, tokens, *others, **named)
        finally:
            inside.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptedClip, "encode_text", encode_text)
        yield texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip_folder(tmp_path_factory.mktemp("clip"))


def _share(rank: int, folder: Path, place: Path) -> None:
    """Four processes, of which two go on as a smaller world."""
    torch.set_num_threads(1)
    for world_size in WORLDS:
        if rank < world_size:
            meeting = f"file://{place / f'meeting{world_size}'}"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
            for name in METHODS:
                method = build(folder, name)
                with exact(), counted() as texts:
                    if hasattr(method, "frozen_texts"):  # encoded once and for all
                        method.frozen_texts()
                    texts.clear()
                    method.work = WorkSplit(rank, world_size)
                    means, gradients = found(method, rank, world_size)
                torch.save((means, gradients, texts), place / f"{name}.{rank}.{world_size}")
            dist.destroy_process_group()
    # On a busy machine gloo's threads may outlive the interpreter, which aborts the process: leave without waiting.
    os._exit(0)


@pytest.fixture(scope="module")
def shared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Read:
    """What a rank of a world found about a method, and how many texts it encoded."""
    place = tmp_path_factory.mktemp("shared")
    mp.spawn(_share, args=(folder, place), nprocs=max(WORLDS))

    def read(name: str, rank: int, world_size: int) -> tuple[Found, list[int]]:
        means, gradients, texts = torch.load(place / f"{name}.{rank}.{world_size}")
        return (means, gradients), texts

    return read


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_several_processes_are_those_of_one(
    shared: Read, folder: Path, name: str, world_size: int
) -> None:
    with exact():
        means, gradients = found(build(folder, name))
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients)
    for rank in range(world_size):
        (theirs, shared_gradients), _ = shared(name, rank, world_size)
        assert theirs == pytest.approx(means, rel=1e-6)
        for one, other in zip(gradients, shared_gradients, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["coop", "kgcoop", "ivlp", "maple", "promptsrc", "syncclip", "cliplora", "twostage", "mma", "mmrl", "tcp"]
)
def test_each_process_encodes_its_share_of_the_texts(shared: Read, name: str) -> None:
    for world_size, share in ((4, 2), (2, 4)):  # of 7, rounded up
        assert [shared(name, rank, world_size)[1] for rank in range(world_size)] == [[share]] * world_size


def test_one_process_alone_encodes_all_texts(folder: Path) -> None:
    with exact(), counted() as texts:
        found(build(folder, "ivlp"))
    assert texts == [len(NAMES)]


@pytest.mark.parametrize("pieces", [2, 3, 50])
@pytest.mark.parametrize(
    "name", ["syncclip", "cocoop", "maple", "mmrl", "cliplora by domain", "twostage", "mma", "tcp"]
)
def test_images_in_pieces_give_the_gradients_of_the_whole(folder: Path, name: str, pieces: int) -> None:
    with exact():
        whole, piecewise = build(folder, name), build(folder, name)
        piecewise.work = WorkSplit(pieces=pieces)
        (means, gradients), (others, accumulated) = found(whole), found(piecewise)
    assert others == pytest.approx(means, rel=1e-12)
    for one, other in zip(gradients, accumulated, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)


def test_no_more_images_than_a_piece_pass_the_tower_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = PromptedClip.encode_images
    monkeypatch.setattr(PromptedClip, "encode_images", lambda *a: sizes.append(len(a[1])) or encode(*a))
    with exact():
        method = build(folder, "syncclip")
        method.work = WorkSplit(pieces=4)
        found(method)
    assert sizes == [6] * 8  # each piece of the 24 once, and once more for the gradient


@pytest.mark.parametrize(
    "name", ["vpt", "ivlp", "syncclip", "cliplora", "cliplora by domain", "mma", "mmrl", "twostage"]
)
def test_images_in_pieces_whose_activations_are_computed_again_give_the_same(folder: Path, name: str) -> None:
    with exact():
        whole, piecewise = build(folder, name), build(folder, name)
        piecewise.work = WorkSplit(pieces=2)
        piecewise.clip.backbone = replace(piecewise.clip.backbone, checkpoint_activations=True)
        (means, gradients), (others, accumulated) = found(whole), found(piecewise)
    assert others == pytest.approx(means, rel=1e-12)
    for one, other in zip(gradients, accumulated, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)
