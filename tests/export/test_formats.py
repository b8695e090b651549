"""Exported runs, loaded without syncclip: their logits equal the run's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from syncclip import jobs, storage
from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.export.formats import FORMATS, Format, export
from syncclip.inference.model import Model, load
from syncclip.interop.exports import export_prompts
from syncclip.interop.imports import import_prompts
from syncclip.methods import METHODS
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import CLASSES as CLASSES_FILE
from syncclip.runs.classes import RunClasses
from syncclip.storage.exports import Export
from syncclip.verify import verify
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.worlds.dataset import CLASSES
from tests.worlds.derived import CHEAP, make_exports

INTERPRETER = """
import sys
sys.modules["syncclip"] = None  # any import of it fails
import contextlib, io, json, os, traceback, numpy, torch
print("ready", flush=True)
for line in sys.stdin:
    program, folder, values = json.loads(line)
    os.chdir(folder)
    output = io.StringIO()
    try:
        with torch.no_grad(), contextlib.redirect_stdout(output):
            exec(program, {"json": json, "numpy": numpy, "torch": torch, **values})
        print(json.dumps(output.getvalue()), flush=True)
    except BaseException:
        traceback.print_exc()
        print("null", flush=True)
"""
"""Executes programs one after another, so that slow imports happen once."""

LOADER = """
classes = json.load(open("classes.json"))
possible = classes["only"] or list(range(len(classes["classnames"])))
images = torch.from_numpy(numpy.load(pixels_file))
logits = torch.full((len(images), len(classes["classnames"])), -torch.inf)
{}
numpy.save(logits_file, logits.numpy())
"""
LOADERS: dict[str, str] = {
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(model_file)
logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
""",
    "torch": """
logits = torch.export.load(model_file).module()(images)
""",
    "open_clip": """
import open_clip, safetensors.torch
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
vectors = safetensors.torch.load_file("class_vectors.safetensors")
features = model.eval().encode_image(images, normalize=True)
logits[:, possible] = (vectors["logit_scale"] * features @ vectors["class_vectors"].T)[:, possible]
assert list(preprocess.transforms[-1].mean) == classes["preprocess"]["mean"]
""",
    "transformers": """
from PIL import Image
from transformers import pipeline
classify = pipeline("zero-shot-image-classification", ".")
zero_shot = json.load(open("zero_shot.json"))
labels, template = zero_shot["candidate_labels"], zero_shot["hypothesis_template"]
texts = classify.tokenizer([template.format(label) for label in labels], padding=True, return_tensors="pt")
logits[:, possible] = classify.model(pixel_values=images, **texts).logits_per_image
image = Image.new("RGB", tuple(images.shape[2:]), (200, 90, 30))
inputs = classify.image_processor(image, return_tensors="pt")["pixel_values"]
expected = classify.model(pixel_values=inputs, **texts).logits_per_image.softmax(1)[0].tolist()
scores = {prediction["label"]: prediction["score"] for prediction in classify(image, **zero_shot)}
assert all(abs(scores[label] - score) < 1e-5 for label, score in zip(labels, expected))
""",
}

ONE_SENTENCE = ("zeroshot", "coop", "kgcoop")
"""Methods with a frozen image tower and one sentence per class."""
CLASS_VECTORS = ("probe", "classmeans", "tcp")
"""Methods with a frozen image tower whose class vectors no vocabulary can represent."""
IMAGE_TOWER = "the image tower has learned prompts or weights, which {} can't represent"
EXTRA_SCORES = "'tip' does not compute its scores from class vectors alone, as {} requires"

Execute = Callable[..., str]


@pytest.fixture(scope="module")
def execute() -> Iterator[Execute]:
    """Execute a program in a folder, in a process that cannot import syncclip; returns its output."""
    command = [sys.executable, "-I", "-c", INTERPRETER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def run(program: str, folder: Path, **values: str) -> str:
            print(json.dumps([program, str(folder), values]), file=process.stdin, flush=True)
            output: str | None = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            assert output is not None, "see its traceback in stderr"
            return output

        yield run
        process.stdin.close()  # ends the process


@pytest.fixture
def check_logits(execute: Execute, images: Path, tmp_path: Path) -> Callable[..., None]:
    """Compare the logits of an exported model with those of its run."""

    def check(model: Model, file: str, kind: str, pixels: np.ndarray | None = None) -> None:
        if pixels is None:
            pixels = noisy_pixels(model, images, 200)
        np.save(tmp_path / "pixels.npy", pixels)
        files = {"pixels_file": str(tmp_path / "pixels.npy"), "logits_file": str(tmp_path / "logits.npy")}
        execute(LOADER.format(LOADERS[kind]), Path(file).parent, model_file=file, **files)
        actual, clip = np.load(tmp_path / "logits.npy"), model.method.clip
        clip.backbone = replace(clip.backbone, precision="fp32")
        with torch.no_grad():
            expected = model.method.logits(torch.from_numpy(pixels)).masked_fill(model.others, -torch.inf).numpy()
        assert np.array_equal(np.isinf(actual), np.isinf(expected))
        actual, expected = (logits[:, ~model.others.numpy()] for logits in (actual, expected))
        assert np.abs(expected - expected.mean(axis=1, keepdims=True)).max() > 0.1, "equal logits would prove nothing"
        assert np.abs(actual - expected).max() <= 1e-4

    return check


def noisy_pixels(model: Model, images: Path, count: int) -> np.ndarray:
    """(count, 3, S, S) of the images in turn, with noise."""
    pixels = torch.stack([model.preprocess(path) for path in sorted(images.iterdir())])
    pixels = pixels[torch.arange(count) % len(pixels)]
    array: np.ndarray = (pixels + 0.1 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(3))).numpy()
    return array


@pytest.mark.nightly
@pytest.mark.parametrize("kind", LOADERS)
def test_logits_of_the_embedded_clip(tmp_path: Path, kind: Format, check_logits: Callable[..., None]) -> None:
    training = "{method: coop, data: real, epochs: 1, batch_size: 8}"
    (tmp_path / "recipe.yaml").write_text(f"dataset: {{name: icons/travel, shots: 1}}\ntraining: {training}")
    model = load(jobs.run_here(Recipe.load(str(tmp_path / "recipe.yaml")), str(tmp_path / "run")).url)
    split = load_dataset(DatasetSettings(name="icons/travel")).split("test")
    pixels = torch.stack([model.preprocess(split.image(row)) for row in range(len(split))]).numpy()
    check_logits(model, export(model, kind, str(tmp_path / "out")), kind, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_logits_with_impossible_classes(
    train: Train, tmp_path: Path, kind: Format, check_logits: Callable[..., None]
) -> None:
    run = train("training.method=coop")
    url = storage.join(run.url, CLASSES_FILE)
    classes = storage.read_document(url, RunClasses, "")
    assert classes is not None
    storage.write_document(url, classes.model_copy(update={"only": [0, 2, 3, 5]}), storage.read_owner(url))
    model = load(run.url)
    check_logits(model, export(model, kind, str(tmp_path / "out")), kind)
    exported = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert exported["classnames"] == CLASSES and exported["preprocess"]["mean"] == [0.5, 0.5, 0.5]


BF16 = "backbone.precision=bf16"
DOMAIN_RANK, DOMAIN_TOKENS = "methods.cliplora.domain_rank=1", "methods.mmrl.domain_tokens=2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "overrides"),
    [
        ("onnx", "syncclip", []),
        ("onnx", "syncclip", ["methods.syncclip.class_vectors=true"]),
        ("torch", "syncclip", ["methods.syncclip.test_domain=both"]),
        ("onnx", "cliplora", [DOMAIN_RANK]),
        ("torch", "mmrl", [DOMAIN_TOKENS]),
        ("torch", "tip", []),
        ("open_clip", "coop", [BF16]),
        pytest.param("torch", "syncclip", [], marks=pytest.mark.nightly),
        pytest.param("torch", "cliplora", [DOMAIN_RANK], marks=pytest.mark.nightly),
        pytest.param("onnx", "mmrl", [DOMAIN_TOKENS], marks=pytest.mark.nightly),
        pytest.param("onnx", "tip", [], marks=pytest.mark.nightly),
        pytest.param("onnx", "coop", [BF16], marks=pytest.mark.nightly),
    ],
)
def test_logits_of_programs_with_learned_towers_caches_and_precisions(
    train: Train, tmp_path: Path, kind: Format, method: str, overrides: list[str], check_logits: Callable[..., None]
) -> None:
    model = load(train(f"training.method={method}", *overrides).url)
    precision = model.method.clip.backbone.precision
    file = export(model, kind, str(tmp_path / "out"))
    assert model.method.clip.backbone.precision == precision
    check_logits(model, file, kind)


@pytest.mark.slow
def test_an_exported_program_applies_the_temperature(train: Train, images: Path, tmp_path: Path) -> None:
    model = load(train("training.method=coop", "evaluation.calibrate=true").url)
    program = torch.export.load(export(model, "torch", str(tmp_path / "out"))).module()
    pixels = torch.stack([model.preprocess(file) for file in sorted(images.iterdir())])
    assert model.metadata.temperature != 1.0
    assert program(pixels).softmax(1).numpy() == pytest.approx(model.probabilities(pixels), abs=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            name, marks=() if name in ("kgcoop", "probe", "classmeans", "tip", "mmrl") else pytest.mark.nightly
        )
        for name in METHODS
        if name not in ("cocoop", "promptkd")
    ],
)
def test_each_method_is_exported_exactly_or_rejected(
    train: Train, tmp_path: Path, method: str, check_logits: Callable[..., None]
) -> None:
    model = load(train(f"training.method={method}").url)
    for kind in ("open_clip", "transformers"):
        out = tmp_path / kind
        if method in ONE_SENTENCE or (method in CLASS_VECTORS and kind == "open_clip"):
            check_logits(model, export(model, kind, str(out)), kind)
            continue
        reason = {"tip": EXTRA_SCORES, **dict.fromkeys(CLASS_VECTORS, "must have one prompt per class")}
        with pytest.raises(UserError, match=reason.get(method, IMAGE_TOWER).format(kind)):
            export(model, kind, str(out))
        assert not out.exists()


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_the_examples_in_the_docs_run(
    train: Train, images: Path, tmp_path: Path, kind: Format, execute: Execute
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    scripts = dict(zip(("open_clip", "transformers"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True))
    model = load(train("training.method=coop").url)
    export(model, kind, str(tmp_path / "released"))
    Image.open(images / "03.png").convert("RGB").save(tmp_path / "bus.jpg")
    print_probability = "print(logits.softmax(1).max().item())" if kind == "open_clip" else ""
    probability = re.search(r"0\.\d+", execute(scripts[kind] + print_probability, tmp_path))
    assert probability is not None
    assert float(probability[0]) == pytest.approx(model.classify(tmp_path / "bus.jpg")[0].probability, abs=0.01)


@pytest.mark.parametrize(
    "overrides", [["training.method=kgcoop"], ["training.method=syncclip", "methods.syncclip.class_vectors=true"]]
)
def test_exported_vectors_classify_image_features(
    train: Train, images: Path, tmp_path: Path, overrides: list[str]
) -> None:
    model, files = load(train(*overrides).url), sorted(images.iterdir())
    vectors = load_file(export(model, "vectors", str(tmp_path / "out")))
    scores = np.exp(vectors["logit_scale"] * model.image_features(files) @ vectors["class_vectors"].T)
    np.testing.assert_allclose(scores / scores.sum(axis=1, keepdims=True), model.probabilities(files), rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "formats", "reason"),
    [
        ("cocoop", FORMATS, "the class vectors of 'cocoop' depend on the image"),
        ("mmrl", ["vectors"], "'mmrl' uses more than one feature"),
        ("tip", ["vectors"], EXTRA_SCORES.format("vectors")),
        ("zeroshot", ["tflite"], "unknown format .tflite.; choose one of onnx, torch, open_clip, trans"),
    ],
)
def test_unsupported_formats_are_errors(
    train: Train, tmp_path: Path, method: str, formats: list[Format], reason: str
) -> None:
    model = load(train(f"training.method={method}").url)
    for to in formats:
        with pytest.raises(UserError, match=reason):
            export(model, to, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_an_error(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(train("training.method=zeroshot").url)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"--to onnx: .*onnxscript.*run `pip install .*\[export\]"):
        export(model, "onnx", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def exported(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> export of a CoOp run; keys `other/<format>`: of a run with another seed."""
    root = tmp_path_factory.mktemp("exported")
    folders: dict[str, Path] = {}
    for prefix, seed in (("", 1), ("other/", 2)):
        values = ["training.method=coop", "training.data=real", "training.epochs=1", f"training.seed={seed}"]
        run = jobs.run_here(Recipe.load(tiny.recipe, values), str(root / f"run{seed}")).url
        folders |= {prefix + to: folder for to, folder in make_exports(run, root / f"exports{seed}").items()}
        folders[f"{prefix}prompts"] = root / f"exports{seed}" / "prompts"
        export_prompts(run, str(folders[f"{prefix}prompts"]))
    return folders


def flip(data: bytes) -> bytes:
    """Flip a bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.fault
@pytest.mark.parametrize("to", [*CHEAP, "prompts"])
def test_verify_reports_damage_to_each_file(exported: dict[str, Path], tmp_path: Path, to: str) -> None:
    folder = Path(shutil.copytree(exported[to], tmp_path / "out"))
    result = verify(str(folder), print)
    assert result.problems == [] and not result.foreign
    below = folder / "prompt_learner" if to == "prompts" else folder  # the other files belong to a run
    for file in sorted(path for path in below.rglob("*") if path.is_file()):
        content, other = file.read_bytes(), exported[f"other/{to}"] / file.relative_to(folder)
        damages = [content[: len(content) // 2], b"", flip(content), None]
        if other.exists() and other.read_bytes() != content:
            damages.append(other.read_bytes())
        for damaged in damages:
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert verify(str(folder), lambda _: None).problems, (file, damaged)
            file.write_bytes(content)


@pytest.mark.fault
def test_commands_reject_a_damaged_export(exported: dict[str, Path], tiny: TinyWorld, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(exported["open_clip"], tmp_path / "clip"))
    load_backbone(BackboneSettings(name=str(clip)))
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        content = (clip / name).read_bytes()
        (clip / name).write_bytes(flip(content))
        with pytest.raises(UserError, match=f"{name} is missing or does not match its checksum"):
            load_backbone(BackboneSettings(name=str(clip)))
        (clip / name).write_bytes(content)
    prompts = Path(shutil.copytree(exported["prompts"], tmp_path / "prompts"))
    checkpoint = next((prompts / "prompt_learner").glob("model.pth.tar-*"))
    checkpoint.write_bytes(flip(checkpoint.read_bytes()))
    recipe = Recipe.load(tiny.recipe, ["training.method=coop"])
    with pytest.raises(UserError, match=r"model\.pth\.tar-\d+ does not match its checksum"):
        import_prompts(str(prompts), recipe, str(tmp_path / "imported"))


def test_a_folder_contains_the_export_of_one_run_in_one_format(
    exported: dict[str, Path], train: Train, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported["vectors"], tmp_path / "out"))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    model = load(train("training.method=coop").url)
    for to, url, reason in (
        ("vectors", str(out), "already contains an export of a different run"),
        ("torch", str(out), "already contains an export to 'vectors'"),
        ("torch", model.url, "run already contains checkpoints, classes.json"),
    ):
        with pytest.raises(UserError, match=reason):
            export(model, to, url)  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.fault
@pytest.mark.parametrize("published", [0, 1, 2])
def test_a_killed_export_is_unfinished_and_completed_by_the_same_call(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: int
) -> None:
    model, out, calls = load(train("training.method=coop").url), str(tmp_path / "out"), []
    publish = Export.publish

    def interrupt(*arguments: Any) -> None:
        if len(calls) == published:
            raise KeyboardInterrupt
        calls.append(arguments)
        publish(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Export, "publish", interrupt)
        export(model, "open_clip", out)
    (problem,) = verify(out, print).problems
    assert problem == f"{out}: this export to 'open_clip' is unfinished; rerun the command that wrote it"
    with pytest.raises(UserError, match="unfinished"):
        load_backbone(BackboneSettings(name=out))
    export(model, "open_clip", out)
    assert verify(out, print).problems == []
