"""Exported runs, loaded by the public loaders alone: their logits are the run's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from tests.worlds.derived import CHEAP, make_exports, make_prompts_export

WITHOUT_US = """
import sys
sys.modules["syncclip"] = None  # whatever imports it fails
"""
LOADERS: dict[str, str] = {
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(place)
found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
""",
    "torch": """
found = torch.export.load(place).module()(images)
""",
    "open_clip": """
import open_clip, safetensors.torch
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
held = safetensors.torch.load_file(folder / "class_vectors.safetensors")
every = held["logit_scale"] * model.eval().encode_image(images, normalize=True) @ held["class_vectors"].T
found[:, possible] = every[:, possible]
assert list(preprocess.transforms[-1].mean) == told["preprocess"]["mean"]
""",
    "transformers": """
from PIL import Image
from transformers import pipeline
classify = pipeline("zero-shot-image-classification", str(folder))
zero_shot = json.loads((folder / "zero_shot.json").read_text())
labels, template = zero_shot["candidate_labels"], zero_shot["hypothesis_template"]
texts = classify.tokenizer([template.format(label) for label in labels], padding=True, return_tensors="pt")
found[:, possible] = classify.model(pixel_values=images, **texts).logits_per_image
picture = Image.new("RGB", tuple(images.shape[2:]), (200, 90, 30))
inputs = classify.image_processor(picture, return_tensors="pt")["pixel_values"]
scores = classify.model(pixel_values=inputs, **texts).logits_per_image.softmax(1)[0]
answers = {answer["label"]: answer["score"] for answer in classify(picture, **zero_shot)}
assert all(abs(answers[label] - score) < 1e-5 for label, score in zip(labels, scores.tolist()))
""",
}

STRANGER = """
import json, pathlib, traceback, numpy, torch
print("ready", flush=True)
for line in sys.stdin:
    program, place, images, logits = json.loads(line)
    folder = pathlib.Path(place).parent
    told = json.loads((folder / "classes.json").read_text())
    possible = told["only"] or list(range(len(told["classnames"])))
    images = torch.from_numpy(numpy.load(images))
    held = {**globals(), "found": torch.full((len(images), len(told["classnames"])), -torch.inf)}
    try:
        with torch.no_grad():
            exec(program, held)
        numpy.save(logits, held["found"].numpy())
        print("done", flush=True)
    except BaseException:
        traceback.print_exc()
        print("failed", flush=True)
"""
"""A process without us that loads what it is told to: importing other libraries takes it longer than all else."""

PLAIN = ("zeroshot", "coop", "kgcoop")
"""Methods that leave the image tower as it is, and whose class vectors are of one sentence each."""
VECTORS = ("probe", "tcp")
"""Methods that leave it as it is too, but whose class vectors no vocabulary of sentences can give."""
HIDDEN = "the image tower has learned prompts or weights, which {} can't represent"
BEYOND = "'tip' has scores beyond those of its class vectors, which {} can't represent"
OTHERS = {
    ("tip", "open_clip"): BEYOND,
    ("tip", "transformers"): BEYOND,
    **{(name, "transformers"): "class vectors are not of one sentence each .*; use --to open_clip" for name in VECTORS},
}
"""Why a method is refused, where it is not for its image tower."""


def pixels_of(model: Model, images: Path, count: int) -> np.ndarray:
    """(count, 3, S, S) of the images again and again, each a little different."""
    prepared = torch.stack([model.preprocess(path) for path in sorted(images.iterdir())])
    actual = prepared[torch.arange(count) % len(prepared)]
    noise = torch.randn(actual.shape, generator=torch.Generator().manual_seed(3))
    array: np.ndarray = (actual + 0.1 * noise).numpy()
    return array


@pytest.fixture(scope="module")
def stranger() -> Iterator[subprocess.Popen[str]]:
    """A process in which whatever imports this package fails."""
    command = [sys.executable, "-I", "-c", WITHOUT_US + STRANGER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()  # type: ignore[union-attr]  # so it ends


@dataclass(frozen=True)
class Difference:
    """How far an exported model is from the run, for the process that loads it."""

    process: subprocess.Popen[str]
    folder: Path

    def __call__(self, model: Model, place: str, kind: str, pixels: np.ndarray) -> float:
        """The largest difference of logits."""
        images, logits = str(self.folder / "pixels.npy"), str(self.folder / "logits.npy")
        np.save(images, pixels)
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([LOADERS[kind], place, images, logits]), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"
        actual = np.load(logits)
        with torch.no_grad():
            expected = model.method.logits(torch.from_numpy(pixels)).masked_fill(model.others, -torch.inf).numpy()
        assert np.array_equal(np.isinf(actual), np.isinf(expected))
        expected = expected[:, ~model.others.numpy()]
        assert np.abs(expected - expected.mean(axis=1, keepdims=True)).max() > 0.1, "logits that are alike show nothing"
        return float(np.abs(actual[:, ~model.others.numpy()] - expected).max())


@pytest.fixture
def differs(stranger: subprocess.Popen[str], tmp_path: Path) -> Difference:
    """The difference of a model of this test."""
    return Difference(stranger, tmp_path)


def only(url: str, labels: list[int]) -> None:
    """Have a run name some of its classes alone, as on a test set that shows no others."""
    place = storage.join(url, CLASSES_FILE)
    held = storage.read_document(place, RunClasses, "")
    assert held is not None
    storage.write_document(place, held.model_copy(update={"only": labels}), storage.read_owner(place))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, np.ndarray]:
    """CoOp on the embedded world, and all of its test images."""
    folder, told = tmp_path_factory.mktemp("embedded"), "{method: coop, data: real, epochs: 1, batch_size: 8}"
    (folder / "recipe.yaml").write_text(f"dataset: {{name: icons/travel, shots: 1}}\ntraining: {told}")
    model = load(jobs.run_here(Recipe.load(str(folder / "recipe.yaml")), str(folder / "run")).url)
    split = load_dataset(DatasetSettings(name="icons/travel")).split("test")
    pixels: np.ndarray = torch.stack([model.preprocess(split.image(row)) for row in range(len(split))]).numpy()
    assert len(pixels) >= 200
    return model, pixels


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_logits_are_the_runs_on_the_test_images_of_the_embedded_world(
    embedded: tuple[Model, np.ndarray], tmp_path: Path, kind: Format, differs: Difference
) -> None:
    model, pixels = embedded
    assert differs(model, export(model, kind, str(tmp_path / "out")), kind, pixels) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("method", ["coop", "syncclip", "mmrl"])
def test_logits_are_the_runs_on_200_images(
    train: Train, images: Path, tmp_path: Path, method: str, kind: Format, differs: Difference
) -> None:
    run = train(f"training.method={method}")
    if method == "coop":
        only(run.url, [0, 2, 3, 5])
    model = load(run.url)
    if method != "coop" and kind in ("open_clip", "transformers"):
        with pytest.raises(UserError, match=HIDDEN.format(kind)):
            export(model, kind, str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        return
    place = export(model, kind, str(tmp_path / "out"))
    assert differs(model, place, kind, pixels_of(model, images, 200)) <= 1e-4
    told = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert told["classnames"] == CLASSES and told["preprocess"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.slow
def test_logits_of_a_calibrated_run_give_its_probabilities(train: Train, images: Path, tmp_path: Path) -> None:
    model = load(train("training.method=coop", "evaluation.calibrate=true").url)
    program = torch.export.load(export(model, "torch", str(tmp_path / "out"))).module()
    pixels = torch.stack([model.preprocess(file) for file in sorted(images.iterdir())])
    assert model.metadata.temperature != 1.0
    assert program(pixels).softmax(1).numpy() == pytest.approx(model.probabilities(pixels), abs=1e-6)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("cocoop", "promptkd")])
def test_every_method_is_exact_for_other_libraries_or_refused(
    train: Train, images: Path, tmp_path: Path, method: str, differs: Difference
) -> None:
    model = load(train(f"training.method={method}").url)
    for kind in ("open_clip", "transformers"):
        out = str(tmp_path / kind)
        if method in PLAIN or (method in VECTORS and kind == "open_clip"):
            place = export(model, kind, out)
            assert differs(model, place, kind, pixels_of(model, images, 200)) <= 1e-4
        else:
            with pytest.raises(UserError, match=OTHERS.get((method, kind), HIDDEN).format(kind)):
                export(model, kind, out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_cache_of_image_features_is_part_of_an_exported_program(
    train: Train, images: Path, tmp_path: Path, kind: Format, differs: Difference
) -> None:
    model = load(train("training.method=tip").url)
    assert differs(model, export(model, kind, str(tmp_path / "out")), kind, pixels_of(model, images, 200)) <= 1e-4
    with pytest.raises(UserError, match=BEYOND.format("vectors")):
        export(model, "vectors", str(tmp_path / "vectors"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cliplora", "mmrl"])
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_what_real_images_have_of_their_own_is_part_of_an_exported_program(
    train: Train, images: Path, tmp_path: Path, kind: Format, method: str, differs: Difference
) -> None:
    own = {"cliplora": "methods.cliplora.domain_rank=1", "mmrl": "methods.mmrl.domain_tokens=2"}[method]
    model = load(train(f"training.method={method}", own).url)
    assert differs(model, export(model, kind, str(tmp_path / "out")), kind, pixels_of(model, images, 200)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "open_clip"])
def test_a_run_in_bf16_is_exported_in_float32(
    train: Train, images: Path, tmp_path: Path, kind: Format, differs: Difference
) -> None:
    model = load(train("training.method=coop", "backbone.precision=bf16").url)
    place, clip = export(model, kind, str(tmp_path / "out")), model.method.clip
    assert clip.backbone.precision == "bf16"
    clip.backbone = replace(clip.backbone, precision="fp32")
    assert differs(model, place, kind, pixels_of(model, images, 200)) <= 1e-4


@pytest.mark.slow
def test_the_scripts_in_the_docs_run_as_they_stand(train: Train, images: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    scripts = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    model = load(train("training.method=coop").url)
    picture = Image.open(images / "03.png").convert("RGB")
    for kind, script in zip(("open_clip", "transformers"), scripts, strict=True):
        export(model, kind, str(tmp_path / kind / "released"))
        picture.save(tmp_path / kind / "bus.jpg")
        print_logits = "print(logits.softmax(1).max().item())" if kind == "open_clip" else ""
        program = WITHOUT_US + script + print_logits
        told = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, check=True, cwd=tmp_path / kind
        )
        likeliest = model.classify(tmp_path / kind / "bus.jpg")[0]
        actual = re.search(rb"0\.\d+", told.stdout)
        assert actual is not None and float(actual[0]) == pytest.approx(likeliest.probability, abs=0.01)


def test_vectors_are_for_features_that_one_has_already(train: Train, images: Path, tmp_path: Path) -> None:
    model = load(train("training.method=kgcoop").url)
    held = load_file(export(model, "vectors", str(tmp_path / "out")))
    features = model.image_features(sorted(images.iterdir()))
    scores = np.exp(held["logit_scale"] * features @ held["class_vectors"].T)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, model.probabilities(sorted(images.iterdir())), rtol=1e-4)


def test_a_method_whose_texts_depend_on_the_image_is_refused(train: Train, tmp_path: Path) -> None:
    model = load(train("training.method=cocoop").url)
    for kind in FORMATS:
        with pytest.raises(UserError, match="the class vectors of 'cocoop' depend on the image"):
            export(model, kind, str(tmp_path / kind))
    assert not (tmp_path / "onnx").exists()


def test_vectors_are_refused_of_a_method_that_asks_more_of_an_image(train: Train, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--to vectors: 'mmrl' classifies by more than one feature .* --to onnx or torch"
    ):
        export(load(train("training.method=mmrl").url), "vectors", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_and_a_missing_library_are_one_sentence(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(train("training.method=zeroshot").url)
    with pytest.raises(UserError, match="no format .tflite.; choose one of onnx, torch, open_clip, trans"):
        export(model, "tflite", str(tmp_path / "out"))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"--to onnx: .*onnxscript.*run `pip install -e .*\[export\]'?`"):
        export(model, "onnx", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def exported(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of a run of CoOp, and below `other` those of a run of another seed."""
    root, actual = tmp_path_factory.mktemp("exported"), {}
    for name, seed in (("", 1), ("other/", 2)):
        values = ["training.method=coop", "training.data=real", "training.epochs=1", f"training.seed={seed}"]
        run = jobs.run_here(Recipe.load(tiny.recipe, values), str(root / f"run{seed}")).url
        actual |= {name + to: folder for to, folder in make_exports(run, root / f"exports{seed}").items()}
        actual[f"{name}prompts"] = make_prompts_export(run, root / f"exports{seed}" / "prompts")
    return actual


def halve(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path, _: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path, _: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def remove(file: Path, _: Path) -> None:
    file.unlink()


def exchange(file: Path, other: Path) -> None:
    """By the same file of the other run's export."""
    file.write_bytes(other.read_bytes())


@pytest.mark.fault
@pytest.mark.parametrize("damage", [halve, empty, flip, remove, exchange])
@pytest.mark.parametrize("to", [*CHEAP, "prompts"])
def test_verify_reports_damage_of_any_file_of_an_export(
    exported: dict[str, Path], tmp_path: Path, to: str, damage: Callable[[Path, Path], None]
) -> None:
    folder = Path(shutil.copytree(exported[to], tmp_path / "out"))
    assert verify(str(folder), print).problems == [] and not verify(str(folder), print).foreign
    below = folder / "prompt_learner" if to == "prompts" else folder  # beside it lie the files of a run
    for file in sorted(path for path in below.rglob("*") if path.is_file()):
        whole, path = file.read_bytes(), file.relative_to(tmp_path / "out")
        other = exported[f"other/{to}"] / path
        if damage is exchange and (not other.exists() or other.read_bytes() == whole):
            continue
        damage(file, other)
        assert verify(str(folder), lambda _: None).problems, path
        file.write_bytes(whole)


@pytest.mark.fault
def test_a_damaged_export_is_refused_by_the_commands_that_read_it(
    exported: dict[str, Path], tiny: TinyWorld, tmp_path: Path
) -> None:
    clip = Path(shutil.copytree(exported["open_clip"], tmp_path / "clip"))
    load_backbone(BackboneSettings(name=str(clip)))
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        whole = (clip / name).read_bytes()
        flip(clip / name, clip)
        with pytest.raises(UserError, match=rf"{name} is missing or does not match its checksum"):
            load_backbone(BackboneSettings(name=str(clip)))
        (clip / name).write_bytes(whole)
    prompts = Path(shutil.copytree(exported["prompts"], tmp_path / "prompts"))
    recipe = Recipe.load(tiny.recipe, ["training.method=coop"])
    checkpoint = next((prompts / "prompt_learner").glob("model.pth.tar-*"))
    flip(checkpoint, checkpoint)
    with pytest.raises(UserError, match=r"model\.pth\.tar-\d+ does not match its checksum"):
        import_prompts(str(prompts), recipe, str(tmp_path / "imported"))


def test_a_folder_holds_the_export_of_one_run_in_one_format(
    exported: dict[str, Path], train: Train, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported["vectors"], tmp_path / "out"))
    model = load(train("training.method=coop").url)
    with pytest.raises(UserError, match=r"out already contains the export of another run; choose another --out"):
        export(model, "vectors", str(out))
    with pytest.raises(UserError, match=r"out already contains an export to 'vectors'; choose another --out"):
        export(model, "torch", str(out))
    with pytest.raises(UserError, match=r"run already contains checkpoints, classes.json"):
        export(model, "torch", model.url)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in exported["vectors"].iterdir()
    }


@pytest.mark.fault
@pytest.mark.parametrize("written", [0, 1, 2])
def test_an_export_that_is_killed_is_unfinished_and_completed_by_the_same_command(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    model, out, calls = load(train("training.method=coop").url), str(tmp_path / "out"), []
    publish = Export.publish

    def killed(*given: Any) -> None:
        if len(calls) == written:
            raise KeyboardInterrupt
        calls.append(given)
        publish(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Export, "publish", killed)
        export(model, "open_clip", out)
    (problem,) = verify(out, print).problems
    assert problem == f"{out}: this export to 'open_clip' is unfinished; run the command that wrote it again"
    with pytest.raises(UserError, match="unfinished"):
        load_backbone(BackboneSettings(name=out))
    export(model, "open_clip", out)
    assert verify(out, print).problems == []
