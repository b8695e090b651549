from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.core.trust import trust
from syncclip.runtime import tempdirs
from syncclip.synthesis.generators import loading
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from tests.synthesis.generators.conftest import make_lora, settings_of
from tests.worlds.pipelines import FAMILIES, build_pipeline

Family = Callable[..., GeneratorSettings]
PROMPTS = ["a photo of a cat.", "a photo of a dog."]


def generated(settings: GeneratorSettings) -> list[bytes]:
    return [image.tobytes() for image in Generator(settings).generate(PROMPTS, [1, 2])]


def test_an_unknown_scheduler_is_an_error_with_the_nearest(pipeline: Path) -> None:
    with pytest.raises(UserError, match=r"no scheduler 'EulerScheduler'; did you mean '.*Euler"):
        Generator(settings_of(pipeline, scheduler="EulerScheduler"))


def test_a_damaged_pipeline_is_a_one_line_error(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be loaded from"):
        Generator(settings_of(tmp_path))


def test_the_parts_can_be_loaded_into_another_class(family: Family) -> None:
    generator = Generator(family("sd", pipeline_class="StableDiffusionPAGPipeline"))
    assert type(generator.pipeline).__name__ == "StableDiffusionPAGPipeline"
    trust("tests.worlds.pipelines:Inverted")
    own = Generator(family("sd", pipeline_class="tests.worlds.pipelines:Inverted"))
    plain, inverted = Generator(family("sd")).generate(PROMPTS, [1, 2]), own.generate(PROMPTS, [1, 2])
    assert [255 - byte for byte in plain[0].tobytes()] == list(inverted[0].tobytes())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StableDiffusionPipelin", "no pipeline 'StableDiffusionPipelin'; did you mean 'StableDiffusionPipeline'"),
        ("UNet2DConditionModel", "no pipeline 'UNet2DConditionModel'"),
        ("no.such.module:Own", r"no.such.module can't be imported"),
        ("tests.worlds.pipelines:Missing", "tests.worlds.pipelines has no pipeline 'Missing'"),
    ],
)
def test_a_class_that_is_no_pipeline_is_an_error(family: Family, name: str, message: str) -> None:
    trust(name)
    with pytest.raises(UserError, match=message):
        Generator(family("sd", pipeline_class=name))


@pytest.fixture(scope="module")
def lora(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA weights for the denoiser of "sd"."""
    return make_lora(family("sd"), tmp_path_factory.mktemp("lora"))


def test_lora_weights_change_the_images_by_their_scale(family: Family, lora: Path) -> None:
    plain = generated(family("sd"))
    none, half, whole = (
        generated(family("sd", loras=[{"weights": str(lora), "scale": scale}])) for scale in (0.0, 0.5, 1.0)
    )
    assert none == plain
    assert len({plain[0], half[0], whole[0]}) == 3
    twice = generated(family("sd", loras=[{"weights": str(lora), "scale": 0.25}] * 2))
    difference = max(abs(one - other) for one, other in zip(twice[0], half[0], strict=True))
    assert difference <= 2


def test_fused_weights_leave_plain_layers_behind(family: Family, lora: Path) -> None:
    pipeline = Generator(family("sd", loras=[{"weights": str(lora)}])).pipeline
    assert not [name for name, _ in pipeline.unet.named_modules() if "lora" in name]


def test_lora_weights_of_another_pipeline_are_errors(family: Family, lora: Path) -> None:
    with pytest.raises(UserError, match="don't fit the StableDiffusionXLPipeline"):
        Generator(family("sdxl", loras=[{"weights": str(lora)}]))
    with pytest.raises(UserError, match="a SanaPipeline|don't fit the SanaPipeline"):
        Generator(family("sana", loras=[{"weights": str(lora)}]))


def test_lora_weights_that_name_no_layer_are_errors(family: Family, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"text.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="don't fit the StableDiffusionPipeline"):
        Generator(family("sd", loras=[{"weights": str(tmp_path)}]))


def test_lora_weights_without_peft_are_errors_with_the_cure(
    family: Family, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need peft; run `pip install -e .*\[lora\]'?`"):
        Generator(family("sd", loras=[{"weights": str(lora)}]))


def test_a_compiled_denoiser_generates_the_same_images(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(loading, "BACKEND", backend)
    compiled = Generator(family("pixart", compile=True)).generate(PROMPTS, [1, 2])
    torch._dynamo.reset()
    plain = Generator(family("pixart")).generate(PROMPTS, [1, 2])
    assert seen
    pairs = zip(compiled, plain, strict=True)
    assert all(abs(a - b) <= 2 for one, other in pairs for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


def test_what_is_compiled_is_kept_where_no_other_user_can_put_anything(
    family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(tempdirs.MACHINE, str(tmp_path))
    monkeypatch.setattr(loading, "BACKEND", "eager")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torchinductor_someone"))  # as torch names it
    Generator(family("pixart", compile=True))
    (folder,) = tmp_path.iterdir()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to("/tmp")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    with pytest.raises(UserError, match="is a link"):
        Generator(family("pixart", compile=True))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "named"))
    Generator(family("pixart", compile=True))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "named")


def test_what_is_compiled_follows_from_the_size_of_a_batch_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    compiled: list[list[Any]] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(list(inputs))
        return graph.forward

    monkeypatch.setattr(loading, "BACKEND", backend)
    generator = Generator(family("pixart", compile=True))
    for images in (2, 3, 1, 2):
        generator.generate(["a cat"] * images, range(images))
    torch._dynamo.reset()
    assert len(compiled) == 3
    told = [value for inputs in compiled for one in inputs for value in (one, *getattr(one, "shape", ()))]
    assert not any(isinstance(value, torch.SymInt) for value in told)


def test_a_failing_compiler_is_a_one_line_error(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(loading, "BACKEND", broken)
    with pytest.raises(UserError, match="torch.compile fails here .*; set it to false"):
        Generator(family("pixart", compile=True)).generate(PROMPTS, [1, 2])
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("part", "place", "name"),
    [
        ("_class_name", ["pipeline", "Mine"], "pipeline:Mine"),
        ("unet", ["somewhere.else", "Mine"], "somewhere.else:Mine"),
        ("unet", ["diffusers", "UNet2DConditionModel"], "diffusers:UNet2DConditionModel"),
    ],
)
def test_a_pipeline_whose_index_names_code_is_an_error(
    pipeline: Path, tmp_path: Path, part: str, place: list[str], name: str
) -> None:
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {part: place}))
    (folder / part).mkdir(exist_ok=True)
    (folder / part / "diffusers.py").write_text("raise SystemExit")
    with pytest.raises(UserError, match=rf"model_index\.json: {part}: '{name}' is custom code"):
        Generator(settings_of(folder))


def test_another_autoencoder_takes_the_place_of_the_pipelines_own(family: Family, tmp_path: Path) -> None:
    other = build_pipeline("sdxl", tmp_path, seed=1) / "vae"
    plain, own = (Generator(family("sdxl", **more)) for more in ({}, {"vae": f"{family('sdxl').pipeline}/vae"}))
    changed = Generator(family("sdxl", vae=str(other)))
    first = [image.tobytes() for image in plain.generate(PROMPTS, [1, 2])]
    assert [image.tobytes() for image in own.generate(PROMPTS, [1, 2])] == first
    assert [image.tobytes() for image in changed.generate(PROMPTS, [1, 2])] != first


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("unet", "is no autoencoder of a StableDiffusionXLPipeline; use another"),
        ("scheduler", "can't be loaded from"),
    ],
)
def test_an_invalid_autoencoder_is_an_error(family: Family, part: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Generator(family("sdxl", vae=f"{family('sdxl').pipeline}/{part}"))


@pytest.mark.parametrize(
    ("offload", "method", "given"),
    [
        ("none", "to", ("cuda",)),
        ("model", "enable_model_cpu_offload", {"device": "cuda"}),
        ("group", "enable_group_offload", ("cuda", {"offload_type": "leaf_level", "use_stream": True})),
        ("sequential", "enable_sequential_cpu_offload", {"device": "cuda"}),
    ],
)
def test_a_model_larger_than_a_gpu_is_left_in_main_memory_as_named(
    family: Family, monkeypatch: pytest.MonkeyPatch, offload: str, method: str, given: Any
) -> None:
    from diffusers import DiffusionPipeline

    asked: list[Any] = []
    for name in ("to", "enable_model_cpu_offload", "enable_group_offload", "enable_sequential_cpu_offload"):
        monkeypatch.setattr(
            DiffusionPipeline, name, lambda self, *args, name=name, **more: asked.append((name, args, more))
        )
    settings = family("sd", offload=offload)
    loading.load(settings, locate(settings), "cuda")
    positional, named = (given[:1], dict(*given[1:])) if isinstance(given, tuple) else ((), given)
    assert [call for call in asked if call[1:] != ((), {})] == [(method, positional, named)]


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("name", FAMILIES)
def test_images_are_the_same_with_parts_in_main_memory(family: Family, name: str, offload: str) -> None:
    whole, parted = Generator(family(name), "cuda"), Generator(family(name, offload=offload), "cuda")
    found, expected = ([one.tobytes() for one in each.generate(["a cat"] * 2, [1, 2])] for each in (parted, whole))
    assert found == expected


def test_a_model_that_does_not_fit_is_reported_with_remedies(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from diffusers import DiffusionPipeline

    def full(self: Any, device: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(DiffusionPipeline, "to", full)
    with pytest.raises(UserError, match="doesn't fit into the memory of cpu; try synthesis.generator.offload=model"):
        Generator(family("sd"))
