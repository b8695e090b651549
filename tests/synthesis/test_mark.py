"""Provenance marks, read by Pillow and exiftool."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.shards.writer import write_shard
from syncclip.synthesis.mark import generator_name, mark_of
from syncclip.synthesis.plan import Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.shard import begin_shard
from syncclip.synthesis.status import mark_complete
from syncclip.synthetic_sets.export import export_set
from tests.worlds.endpoint import MODEL, Server

MakePlan = Callable[..., Plan]
TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
RDF, XMP = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://ns.adobe.com/xap/1.0/"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


class Grey:
    """Paints grey squares, with or without guides."""

    computed = 0.0

    def start(self, prompts: Sequence[str], *_: object) -> Callable[[], list[Image.Image]]:
        return lambda: [Image.new("RGB", (8, 8), "grey") for _ in prompts]


def xmp_of(data: bytes) -> tuple[str, str]:
    """Return the generator's name and the source type in an image file, read by Pillow."""
    (values,) = ElementTree.fromstring(Image.open(io.BytesIO(data)).info["xmp"]).iter(f"{{{RDF}}}Description")
    return values.attrib[f"{{{XMP}}}CreatorTool"], values.attrib[f"{{{IPTC}}}DigitalSourceType"]


def images_of(plan: Plan) -> list[bytes]:
    return [sample.image_bytes for sample in begin_shard(plan, 0, Grey(), [])().samples]


@pytest.fixture
def exported(make_plan: MakePlan, tmp_path: Path) -> list[tuple[str, bytes]]:
    """The images in the dataset and in each export, with their layouts."""
    plan, url = make_plan(1), str(tmp_path / "set")
    write_plan(plan, url)
    write_shard(url, 0, begin_shard(plan, 0, Grey(), [])().samples, owner=plan.owner)
    mark_complete(url, plan.total, plan.total, plan.owner)
    for layout in ("folder", "split-zhou", "huggingface"):
        export_set(url, str(tmp_path / layout), layout)
    images = [(file.relative_to(tmp_path).parts[0], file.read_bytes()) for file in tmp_path.rglob("*.jpg")]
    for tar in tmp_path.rglob("*.tar"):
        with tarfile.open(tar) as archive:
            data = [archive.extractfile(member) for member in archive if member.name.endswith(".jpg")]
            images += [(tar.relative_to(tmp_path).parts[0], file.read()) for file in data if file]
    return images


def test_pillow_reads_the_mark_in_shards_and_exports(exported: list[tuple[str, bytes]], pipeline: Path) -> None:
    assert sorted(layout for layout, _ in exported) == sorted(["set", "folder", "split-zhou", "huggingface"] * 3)
    assert {xmp_of(data) for _, data in exported} == {(pipeline.name, f"{TERMS}trainedAlgorithmicMedia")}


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_the_mark_in_shards_and_exports(
    exported: list[tuple[str, bytes]], pipeline: Path, tmp_path: Path
) -> None:
    tags = ["-j", "-n", "-validate", "-XMP-xmp:CreatorTool", "-XMP-iptcExt:DigitalSourceType"]
    for number, (layout, data) in enumerate(exported):
        file = tmp_path / f"{layout}-{number}.jpg"
        file.write_bytes(data)
        (read,) = json.loads(subprocess.check_output(["exiftool", *tags, file]))
        assert read["CreatorTool"] == pipeline.name
        assert read["DigitalSourceType"] == f"{TERMS}trainedAlgorithmicMedia"
        assert str(read["Validate"]) == "0 0 0"


def test_images_guided_by_a_real_image_are_composites(make_plan: MakePlan, pipeline: Path) -> None:
    generator = {"pipeline": str(pipeline), "steps": 2, "guide": {}}
    plan = make_plan(1, generator=generator, guides=(("a",), (), ("b",)))
    composite, generated = f"{TERMS}compositeWithTrainedAlgorithmicMedia", f"{TERMS}trainedAlgorithmicMedia"
    assert [xmp_of(image)[1] for image in images_of(plan)] == [composite, generated, composite]


def test_images_without_a_mark_have_the_same_pixels_and_no_xmp(make_plan: MakePlan) -> None:
    marked, plain = images_of(make_plan(1)), images_of(make_plan(1, mark="none"))
    assert all(b"ns.adobe.com" in image for image in marked)
    assert not any(b"ns.adobe.com" in image for image in plain)
    decoded = [[Image.open(io.BytesIO(image)).tobytes() for image in images] for images in (marked, plain)]
    assert decoded[0] == decoded[1]


def test_a_local_path_is_not_in_the_mark_and_markup_is_escaped(make_plan: MakePlan, pipeline: Path) -> None:
    odd = pipeline.with_name("a \"b\" <c> & 'd'\n")
    plan = make_plan(1, generator={"pipeline": f"{odd}/"})
    assert pipeline.parent.name not in mark_of(plan, plan.entry(0)).decode()
    assert xmp_of(images_of(plan)[0])[0] == "a \"b\" <c> & 'd'?"


@pytest.mark.parametrize(
    ("pipeline", "weights", "name"),
    [
        ("someone/model", "c0ffee" * 6 + "c0ff", "someone/model"),
        ("someone/model", "c0ffee" * 6 + "c0ff+0123456789abcdef", "someone/model"),
        ("clients/secret", "0123456789abcdef", "secret"),
        ("icons", "0123456789abcdef", "icons"),
    ],
)
def test_only_hub_names_are_complete(make_plan: MakePlan, pipeline: str, weights: str, name: str) -> None:
    plan = make_plan(1, generator={"pipeline": pipeline}).model_copy(update={"weights": weights})
    assert generator_name(plan) == name


def test_the_mark_of_an_endpoint_is_its_model_without_its_address(make_plan: MakePlan) -> None:
    plan = make_plan(1, generator=Server(url="http://host:8000/v1").settings())
    assert generator_name(plan) == MODEL
    assert b"host" not in mark_of(plan, plan.entry(0))


def test_a_dataset_is_extended_with_its_own_mark(make_plan: MakePlan, tmp_path: Path) -> None:
    url = str(tmp_path)
    write_plan(make_plan(1, mark="none"), url)
    assert '"mark"' not in (tmp_path / "plan.json").read_text()
    stored = read_plan(url)
    assert stored is not None
    assert agreed_plan(make_plan(2), stored, url) == stored.extended(2)


def test_a_dataset_with_marks_is_not_extended_without(make_plan: MakePlan, tmp_path: Path) -> None:
    stored = make_plan(1)
    with pytest.raises(UserError, match="mark: 'iptc' -> None"):
        agreed_plan(make_plan(2, mark="none"), stored, str(tmp_path))


def test_the_licence_does_not_affect_the_owner_of_the_files(make_plan: MakePlan, tmp_path: Path) -> None:
    requested, url = make_plan(1), str(tmp_path)
    stored = requested.model_copy(update={"licence": "mit"})
    assert stored.owner == requested.owner
    assert agreed_plan(requested, stored, url) == stored
