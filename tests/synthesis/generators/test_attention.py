"""xformers runs on NVIDIA GPUs only: here a stand-in tells what is asked of the networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.synthesis.generators import Generator, GeneratorSettings, loading

Family = Callable[..., GeneratorSettings]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "xformers_installed", lambda: True)


def test_xformers_is_refused_where_it_is_not_installed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "xformers_installed", lambda: False)
    with pytest.raises(UserError, match=r"xformers is not installed; pip install 'syncclip\[gpu\]'"):
        Generator(family("sd", attention="xformers"))


@pytest.mark.usefixtures("installed")
def test_xformers_is_refused_without_a_gpu(family: Family) -> None:
    with pytest.raises(UserError, match="xformers runs on NVIDIA GPUs only, and this is cpu; use attention=sdpa"):
        Generator(family("sd", attention="xformers"))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_transformer_is_given_a_backend_and_a_unet_other_processors(
    family: Family, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Generator(family(name)).pipeline
    asked: list[Any] = []
    network = loading.denoiser(pipeline)
    monkeypatch.setattr(type(network), "set_attention_backend", lambda self, backend: asked.append(backend))
    for way in ("enable", "disable"):
        method = f"{way}_xformers_memory_efficient_attention"
        monkeypatch.setattr(type(pipeline), method, lambda self, way=way: asked.append(way))
    loading.set_attention(pipeline, "xformers", "cuda")
    loading.set_attention(pipeline, "sdpa", "cuda")
    assert asked == (["enable", "disable"] if name == "sd" else ["xformers", "native"])


@pytest.mark.usefixtures("installed")
def test_what_xformers_does_not_know_is_told_in_a_sentence(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Generator(family("sd")).pipeline

    def refuse(self: Any) -> None:
        raise ValueError("no such kernel\nmore")

    monkeypatch.setattr(type(pipeline), "enable_xformers_memory_efficient_attention", refuse)
    with pytest.raises(UserError, match=r"xformers doesn't run this StableDiffusionPipeline \(no such kernel\)"):
        loading.set_attention(pipeline, "xformers", "cuda")
