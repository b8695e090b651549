from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.core.trust import trust
from syncclip.runtime import tempdirs
from syncclip.synthesis.generators import loading
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from tests.synthesis.generators.conftest import Family, make_lora, pixels, settings_of
from tests.worlds.pipelines import FAMILIES, build_pipeline

PROMPTS = ["a photo of a cat.", "a photo of a dog."]


def generated(settings: GeneratorSettings) -> list[bytes]:
    return pixels(Generator(settings).generate(PROMPTS, [1, 2]))


def test_an_unknown_scheduler_is_an_error_with_a_suggestion(pipeline: Path) -> None:
    with pytest.raises(UserError, match=r"no scheduler 'EulerScheduler'; did you mean '.*Euler"):
        Generator(settings_of(pipeline, scheduler="EulerScheduler"))


def test_a_damaged_pipeline_is_reported(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be loaded from"):
        Generator(settings_of(tmp_path))


def test_a_pipeline_class_replaces_that_of_the_index(family: Family) -> None:
    generator = Generator(family("sd", pipeline_class="StableDiffusionPAGPipeline"))
    assert type(generator.pipeline).__name__ == "StableDiffusionPAGPipeline"
    trust("tests.worlds.pipelines:Inverted")
    plain, inverted = generated(family("sd")), generated(family("sd", pipeline_class="tests.worlds.pipelines:Inverted"))
    assert [255 - byte for byte in plain[0]] == list(inverted[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StableDiffusionPipelin", "no pipeline 'StableDiffusionPipelin'; did you mean 'StableDiffusionPipeline'"),
        ("UNet2DConditionModel", "no pipeline 'UNet2DConditionModel'"),
        ("no.such.module:Own", r"no.such.module can't be imported"),
        ("tests.worlds.pipelines:Missing", "tests.worlds.pipelines has no pipeline 'Missing'"),
    ],
)
def test_an_invalid_pipeline_class_is_an_error(family: Family, name: str, message: str) -> None:
    trust(name)
    with pytest.raises(UserError, match=message):
        Generator(family("sd", pipeline_class=name))


@pytest.fixture(scope="module")
def lora(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA weights for the denoiser of "sd"."""
    return make_lora(family("sd"), tmp_path_factory.mktemp("lora"))


def test_lora_weights_are_scaled_and_fused(family: Family, lora: Path) -> None:
    def with_scales(*scales: float) -> list[bytes]:
        return generated(family("sd", loras=[{"weights": str(lora), "scale": scale} for scale in scales]))

    plain, half, full = with_scales(0.0), with_scales(0.5), with_scales(1.0)
    assert plain == generated(family("sd"))
    assert len({plain[0], half[0], full[0]}) == 3
    assert max(abs(a - b) for a, b in zip(with_scales(0.25, 0.25)[0], half[0], strict=True)) <= 2
    pipeline = Generator(family("sd", loras=[{"weights": str(lora)}])).pipeline
    assert not [name for name, _ in pipeline.unet.named_modules() if "lora" in name]


def test_lora_weights_of_another_pipeline_are_errors(family: Family, lora: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(UserError, match="are not compatible with the StableDiffusionXLPipeline"):
        Generator(family("sdxl", loras=[{"weights": str(lora)}]))
    with pytest.raises(UserError, match="SanaPipeline"):
        Generator(family("sana", loras=[{"weights": str(lora)}]))
    save_file({"text.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="are not compatible with the StableDiffusionPipeline"):
        Generator(family("sd", loras=[{"weights": str(tmp_path)}]))


def test_lora_weights_without_peft_are_an_error_with_a_remedy(
    family: Family, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need peft; run `pip install -e .*\[lora\]'?`"):
        Generator(family("sd", loras=[{"weights": str(lora)}]))


@pytest.fixture
def graphs(eager_backend: None, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The inputs of each compiled graph."""
    inputs_of_graphs: list[list[Any]] = []

    def backend(graph: Any, inputs: Any) -> Any:
        inputs_of_graphs.append(list(inputs))
        return graph.forward

    monkeypatch.setattr(loading, "BACKEND", backend)
    return inputs_of_graphs


def test_a_compiled_denoiser_generates_the_same_images(family: Family, graphs: list[list[Any]]) -> None:
    compiled = generated(family("pixart", compile=True))
    torch._dynamo.reset()
    plain = generated(family("pixart"))
    assert graphs
    pairs = zip(compiled, plain, strict=True)
    assert all(abs(a - b) <= 2 for image, other in pairs for a, b in zip(image, other, strict=True))


def test_each_batch_size_is_compiled_once_with_static_shapes(family: Family, graphs: list[list[Any]]) -> None:
    generator = Generator(family("pixart", compile=True))
    for size in (2, 3, 1, 2):
        generator.generate(["a cat"] * size, range(size))
    assert len(graphs) == 3
    values = [value for inputs in graphs for entry in inputs for value in (entry, *getattr(entry, "shape", ()))]
    assert not any(isinstance(value, torch.SymInt) for value in values)


def test_a_failing_compiler_is_reported(
    family: Family, graphs: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(loading, "BACKEND", broken)
    with pytest.raises(UserError, match="torch.compile failed .*; use compile=false"):
        generated(family("pixart", compile=True))


@pytest.mark.usefixtures("eager_backend")
def test_compiled_code_is_kept_in_a_private_folder(
    family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(tempdirs.MACHINE, str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torchinductor_someone"))  # torch's default
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


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("_class_name", ["pipeline", "Mine"]),
        ("unet", ["somewhere.else", "Mine"]),
        ("unet", ["diffusers", "UNet2DConditionModel"]),
    ],
)
def test_an_index_with_untrusted_code_is_an_error(pipeline: Path, tmp_path: Path, part: str, entry: list[str]) -> None:
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {part: entry}))
    (folder / part).mkdir(exist_ok=True)
    (folder / part / "diffusers.py").write_text("raise SystemExit")
    with pytest.raises(UserError, match=rf"model_index\.json: {part}: '{':'.join(entry)}' is custom code"):
        Generator(settings_of(folder))


def test_an_autoencoder_is_replaced(family: Family, tmp_path: Path) -> None:
    vae = build_pipeline("sdxl", tmp_path, seed=1) / "vae"
    plain = generated(family("sdxl"))
    assert generated(family("sdxl", vae=f"{family('sdxl').pipeline}/vae")) == plain
    assert generated(family("sdxl", vae=str(vae))) != plain
    for part, message in (("unet", "not compatible with a StableDiffusion"), ("scheduler", "can't be loaded from")):
        with pytest.raises(UserError, match=message):
            Generator(family("sdxl", vae=f"{family('sdxl').pipeline}/{part}"))


@pytest.mark.parametrize(
    ("offload", "method", "args", "kwargs"),
    [
        ("none", "to", ("cuda",), {}),
        ("model", "enable_model_cpu_offload", (), {"device": "cuda"}),
        ("group", "enable_group_offload", ("cuda",), {"offload_type": "leaf_level", "use_stream": True}),
        ("sequential", "enable_sequential_cpu_offload", (), {"device": "cuda"}),
    ],
)
def test_offload_calls_the_method_of_diffusers(
    family: Family, monkeypatch: pytest.MonkeyPatch, offload: str, method: str, args: Any, kwargs: Any
) -> None:
    from diffusers import DiffusionPipeline

    def record(name: str) -> Callable[..., None]:
        return lambda self, *args, **kwargs: calls.append((name, args, kwargs))

    calls: list[Any] = []
    for name in ("to", "enable_model_cpu_offload", "enable_group_offload", "enable_sequential_cpu_offload"):
        monkeypatch.setattr(DiffusionPipeline, name, record(name))
    settings = family("sd", offload=offload)
    loading.load(settings, locate(settings), "cuda")
    assert [call for call in calls if call[1:] != ((), {})] == [(method, args, kwargs)]


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("name", FAMILIES)
def test_images_do_not_depend_on_offload(family: Family, name: str, offload: str) -> None:
    plain, offloaded = Generator(family(name), "cuda"), Generator(family(name, offload=offload), "cuda")
    assert pixels(offloaded.generate(PROMPTS, [1, 2])) == pixels(plain.generate(PROMPTS, [1, 2]))


def test_a_model_that_does_not_fit_into_memory_is_reported(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    def out_of_memory(self: Any, device: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(DiffusionPipeline, "to", out_of_memory)
    with pytest.raises(UserError, match="doesn't fit in the memory of cpu; try synthesis.generator.offload=model"):
        Generator(family("sd"))
