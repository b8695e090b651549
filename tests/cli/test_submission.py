"""What a job is, before any cluster sees it; `tests/cluster/test_jobs.py` submits them to a real one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncclip import jobs
from syncclip.cli import app, submission
from syncclip.cli.submission import Submission
from syncclip.core.settings import UserError
from syncclip.protocols.run import Request
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld

BUCKET = "storage.root=s3://bucket/runs"


def of(*overrides: str, out: str | None = None, shared: bool = False) -> Submission:
    return submission.submission("synth", Recipe.load("icons", overrides), out, shared=shared)


def test_the_same_recipe_has_the_same_name() -> None:
    assert of(BUCKET) == of(BUCKET)
    assert of(BUCKET).name.startswith("syncclip-synth-icons-")


@pytest.mark.parametrize("other", [("synthesis.seed=1", {}), (BUCKET, {"out": "s3://bucket/elsewhere"})])
def test_another_recipe_or_place_has_another_name(other: tuple[str, dict[str, str]]) -> None:
    override, where = other

    assert of(BUCKET, override, **where).name != of(BUCKET).name


def test_the_command_on_the_cluster_reads_the_recipe_beside_it() -> None:
    one = of(out="s3://bucket/a set")

    assert one.entrypoint == "python -m syncclip synth icons.yaml --out 's3://bucket/a set'"


def test_a_studys_configurations_are_checked_before_it_is_submitted() -> None:
    recipe = Recipe.load("icons", [BUCKET, "study.configurations=[{method: ivp}]"])
    with pytest.raises(
        UserError, match=r"^recipe 'icons': study\.configurations\[0\] 'ivp-both': training\.method: there is no method"
    ):
        submission.submission("study", recipe, None, shared=False)


def test_only_a_study_imports_what_its_cells_run() -> None:
    code = (
        "import sys\nimport syncclip.cli.submission\nassert not {'syncclip.jobs', 'syncclip.studies'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("overrides", "out", "key"),
    [
        ((), None, "storage.root: runs is a path"),
        ((), "results", "--out: results is a path"),
        ((BUCKET, "dataset.root=/data"), None, "dataset.root: /data is a path"),
        ((BUCKET, "training.synthetic=./set"), None, "training.synthetic: ./set is a path"),
        ((BUCKET, "training.teacher=said"), None, "training.teacher: said is a path"),
        ((BUCKET, "dataset.name=birds"), None, "dataset.name: .*/birds is a path"),
    ],
)
def test_paths_of_this_machine_are_refused_where_the_cluster_is_elsewhere(
    overrides: tuple[str, ...], out: str | None, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()

    with pytest.raises(UserError, match=key):
        of(*overrides, out=out)


def test_names_that_are_no_paths_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("icons", "syncclip", "ivlp"):  # folders that happen to be called like a dataset or a method
        (tmp_path / folder).mkdir()

    assert of(BUCKET, "synthesis.generator.pipeline=stabilityai/sdxl-turbo").recipe.training.method == "syncclip"


def reproduction(*overrides: str, root: str = "s3://bucket/data", shared: bool = False, **more: Any) -> Submission:
    return submission.reproduction(Request("base-to-novel", root, overrides=overrides, **more), shared=shared)


def test_a_reproduction_travels_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed: list[Request] = []

    def reproduce(asked: Request) -> SimpleNamespace:
        typed.append(asked)
        return SimpleNamespace(page="page.html")

    monkeypatch.setattr("syncclip.protocols.run.reproduce", reproduce)
    one = reproduction("study.seeds=[1, 2]", datasets=["dtd", "eurosat"], methods=["coop"], out="s3://bucket/out")

    assert one.name.startswith("syncclip-reproduce-base-to-novel-")
    assert app.run(shlex.split(one.entrypoint)[3:]) == 0
    where = "s3://bucket/data", ["dtd", "eurosat"], ["coop"], "s3://bucket/out"
    assert typed == [Request("base-to-novel", *where, overrides=["study.seeds=[1, 2]"])]


@pytest.mark.parametrize(
    ("overrides", "places", "key"),
    [
        ((), {"root": "/data", "out": "s3://bucket/out"}, "--root: /data is a path"),
        ((), {"synthetic": "sets", "out": "s3://bucket/out"}, "--synthetic: sets is a path"),
        ((), {}, "storage.root: runs is a path"),
        (("backbone.name=./clip",), {"out": "s3://bucket/out"}, "backbone.name: ./clip is a path"),
    ],
)
def test_a_reproductions_paths_of_this_machine_are_refused_elsewhere_and_made_absolute_here(
    overrides: tuple[str, ...], places: dict[str, str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=key):
        reproduction(*overrides, **places)
    words = shlex.split(reproduction(*overrides, shared=True, **places).entrypoint)
    option, _, path = key.removesuffix(" is a path").partition(": ")
    absolute = str(tmp_path / path)
    if option.startswith("--"):
        assert words[words.index(option) + 1] == absolute
    else:
        assert words[-1] == f"{option}={absolute}"


def test_a_reproduction_of_something_else_has_another_name() -> None:
    some = [reproduction(out="s3://b/o"), reproduction(out="s3://b/o", datasets=["dtd"]), reproduction(out="s3://b/p")]
    assert len({one.name for one in some}) == 3
    assert reproduction(out="s3://b/o") == some[0]


def test_a_reproductions_mistakes_are_told_before_it_is_submitted() -> None:
    with pytest.raises(UserError, match="is not trained on 'dtdd'; did you mean 'dtd'"):
        reproduction(datasets=["dtdd"])
    with pytest.raises(UserError, match="a key or a password"):
        reproduction("storage.options.secret=abc")


def test_a_classification_travels_as_it_was_typed(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot"]), str(tmp_path / "run")).url

    def classification(*places: str | None, shared: bool = True, actors: int = 2) -> Submission:
        return submission.classification(trained, *places, actors, 0.5, shared=shared)

    words = shlex.split(classification("s3://bucket/set", "s3://bucket/out").entrypoint)[3:]
    assert words == [
        *("classify", trained, "s3://bucket/set", "--actors", "2", "--num-gpus", "0.5", "--out", "s3://bucket/out")
    ]
    monkeypatch.chdir(Path(trained).parent)
    assert shlex.split(classification("set", None).entrypoint)[5] == str(Path(trained).parent / "set")
    assert classification("set", None).name.startswith("syncclip-classify-")
    assert classification("set", None).name != classification("set", None, actors=3).name
    with pytest.raises(UserError, match="RUN: .* is a path of this machine"):
        classification("s3://bucket/set", None, shared=False)
    with pytest.raises(UserError, match="SHARDS: the URL holds a password"):
        classification("https://me:secret@host/set", None)


def test_on_this_machine_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert of(shared=True).recipe.storage.root == str(tmp_path / "runs")
    assert of(shared=True, out="set").arguments[-1] == str(tmp_path / "set")
    assert of("dataset.root=/data", shared=True).recipe.dataset.root == "/data"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("storage.options.secret=abc", r"storage\.options\.secret: the option"),
        (
            "storage.options.client_kwargs={headers: {Authorization: abc}}",
            r"storage\.options\.client_kwargs: the option",
        ),
        ("storage.options.endpoint_url=http://me:abc@there", r"storage\.options\.endpoint_url: the option"),
        ("training.mlflow_uri=http://me:abc@there", r"training\.mlflow_uri: the URL"),
        ("dataset.root=https://there/data?X-Amz-Signature=abc", r"dataset\.root: the URL"),
    ],
)
def test_keys_are_not_sent(override: str, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key} holds a .*password") as refused:
        of(BUCKET, override)
    assert "abc" not in str(refused.value)


def test_a_secret_in_the_place_of_the_results_is_not_sent() -> None:
    with pytest.raises(UserError, match=r"^--out: the URL holds a password"):
        of(BUCKET, out="sftp://me:abc@there/results")


def laid_out(one: Submission, folder: Path) -> set[str]:
    folder.mkdir()
    one.write_upload(folder)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_package_and_the_recipe_travel_and_nothing_else(tmp_path: Path) -> None:
    files = laid_out(of(BUCKET), tmp_path / "job")

    assert {"icons.yaml", "syncclip/__main__.py", "syncclip/recipe/shipped/icons.yaml"} <= files
    assert "syncclip/embedded/icons/clip/open_clip_model.safetensors" in files
    assert {name.split("/")[0] for name in files} == {"icons.yaml", "syncclip"}
    assert not any("__pycache__" in name or "scripts" in name for name in files)
    assert Recipe.load(str(tmp_path / "job" / "icons.yaml")) == of(BUCKET).recipe


def test_the_embedded_world_stays_here_where_nothing_uses_it(tmp_path: Path) -> None:
    other = ("dataset.name=s3://bucket/birds", "backbone.name=ViT-B-16", "synthesis.generator.pipeline=a/b")

    assert not any("embedded/icons" in name for name in laid_out(of(BUCKET, *other), tmp_path / "job"))


def test_a_method_of_ones_own_travels_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = Path(__file__).parents[2] / "examples"
    (tmp_path / "ownway.py").write_text((examples / "taskres.py").read_text())

    files = laid_out(of(BUCKET, "training.method=ownway:TaskRes"), tmp_path / "job")

    assert "ownway.py" in files


def test_nothing_but_the_methods_own_python_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package, outside = tmp_path / "ownpackage", tmp_path / "outside"
    for folder in (package / "inner", package / ".git", package / "not-python", outside):
        folder.mkdir(parents=True)
    (package / "way.py").write_text((Path(__file__).parents[2] / "examples" / "taskres.py").read_text())
    for name in (
        "inner/more.py",
        ".env",
        "id_rsa",
        "key.pem",
        "data.csv",
        ".git/config",
        ".hidden.py",
        "not-python/a.py",
    ):
        (package / name).write_text("planted = 1\n")
    (outside / "elsewhere.py").write_text("planted = 1\n")
    (package / "link.py").symlink_to(outside / "elsewhere.py")
    (package / "linked").symlink_to(outside, target_is_directory=True)
    (tmp_path / "beside.py").write_text("planted = 1\n")

    files = laid_out(of(BUCKET, "training.method=ownpackage.way:TaskRes"), tmp_path / "job")

    own = {name for name in files if not name.startswith("syncclip/")}
    assert own == {"icons.yaml", "ownpackage/way.py", "ownpackage/inner/more.py"}
    assert not any(Path(name).name.startswith((".", "id_")) or name.endswith(".pem") for name in files)


def test_a_method_that_lies_elsewhere_is_not_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "taskres.py").write_text("planted = 1\n")

    files = laid_out(of(BUCKET, "training.method=examples.taskres:TaskRes"), tmp_path / "job")

    assert not any(name.startswith("examples/") for name in files)
