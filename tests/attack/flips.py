"""Bits flipped in every file of a set, a run, a study and a packed dataset: what is detected, harmless, or silent.

`python -m tests.attack.flips` makes the folders, flips thoroughly and prints the table of docs/reliability.md.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets.loading import read_dataset
from syncclip.datasets.packed import load_packed, pack
from syncclip.evaluation.predict import Predictions
from syncclip.recipe.recipe import Recipe
from syncclip.reports.page import write_report
from syncclip.sets.imported import SET_RECIPE, read_set
from syncclip.sets.quality import measure_quality
from syncclip.shards.index import COLUMNS, INDEX, index_set
from syncclip.shards.reader import ShardSet
from syncclip.shards.tables import parse_table
from syncclip.shards.verify import problems
from syncclip.storage.status_file import keep_status_file
from syncclip.studies import findings
from syncclip.studies.cells import prepare, run_cell
from syncclip.studies.grid import cells
from syncclip.studies.status import PROGRESS, StudyStatus, read_study_status
from syncclip.studies.verify import has_digest
from syncclip.synthesis.rejects import Reject, read_rejects, write_rejects
from syncclip.synthesis.status import STATUS_NAME, SynthesisStatus, read_status
from syncclip.synthesis.summary import summarise
from syncclip.training import checkpoints
from syncclip.training.loop import read_prompts
from syncclip.training.metrics_file import digest_of, lines_until
from syncclip.training.run_folder import RunFolder
from tests.worlds.study import make_set, study_recipe, study_world

SMALL = 8 << 10
"""Bytes up to which each bit of a file is flipped, where flips are thorough."""


def make_folders(root: Path) -> dict[str, Path]:
    """A set, a study with the runs of its cells, and a packed dataset, each with every kind of file; without Ray."""
    world = study_world(root / "world")
    overrides = ("study.images_per_class=[2,4]", "study.seeds=[1]", "training.checkpoint_every=1")
    overrides += ("training.trackers=[tensorboard]",)
    recipe = study_recipe(world, *overrides)
    folders = {name: root / name for name in ("set", "study", "packed")}
    url = make_set(recipe, str(folders["set"]))
    plan = read_set(url)
    storage.write_sealed(f"{url}/{SET_RECIPE}", recipe.to_yaml().encode())
    summarise(plan, url)  # type: ignore[arg-type]
    measure_quality(recipe, url)
    index_set(url)
    write_rejects(url, 0, [Reject("blank", 1, 1, 0, 0.5, b"a thumbnail")])
    with keep_status_file(f"{url}/{STATUS_NAME}", SynthesisStatus.begin(images=1, planned=2)):
        pass

    study = str(folders["study"])
    recipe = recipe.with_values({"training.synthetic": url})
    for run in prepare(recipe, cells(recipe.study), study, url):
        assert run_cell(run.spec)["error"] is None
    runs = prepare(recipe, cells(recipe.study), study, url)
    findings.write_state(recipe, study, runs, [])
    findings.write(recipe, study, runs, findings.SyntheticSet(url, 4), StudyStatus.begin(cells=len(runs), done=0))
    with keep_status_file(f"{study}/{PROGRESS}", StudyStatus.begin(cells=len(runs), done=len(runs))):
        pass
    write_report(study)
    pack(read_dataset(recipe.dataset), str(folders["packed"]), shots=(1, 2), seeds=(1,))
    return folders


@dataclass
class Tally:
    """What became of the flips in files of one kind."""

    files: int = 0
    flips: int = 0
    verified: int = 0
    """Found by `verify`."""
    refused: int = 0
    """Of the flips that a command met: refused by the file's name, or counted and told as lost."""
    harmless: int = 0
    """The command's result was the same."""
    silent: int = 0
    """Neither found by `verify`, or not by the command whose result changed."""


def files_of(folder: Path) -> list[Path]:
    """Every file in a folder and below that has a bit to be flipped, leases aside."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in found if path.stat().st_size)


def kind_of(name: str) -> str:
    """What files are counted together: those of shards and checkpoints by their ending, the rest by name."""
    return re.sub(r"events\.out\..*", "events.out.*", re.sub(r"^\d{5,}|(?<=step-)\d+", "*", name))


def flipped(data: bytes, place: int) -> bytes:
    """The data with one bit flipped."""
    copy = bytearray(data)
    copy[place // 8] ^= 1 << place % 8
    return bytes(copy)


def places(data: bytes, most: int, thorough: bool, seed: int) -> Iterator[int]:
    """Which bits of a file are flipped: all of a small one where it is thorough, else `most` at random."""
    if thorough and len(data) <= SMALL:
        yield from range(8 * len(data))
    else:
        draw = random.Random(seed)
        yield from (draw.randrange(8 * len(data)) for _ in range(most))


def found_by_verify(file: Path, thorough: bool) -> bool:
    """Whether `verify` finds what is wrong with a file; where it is tried thoroughly, only that check is made."""
    if file.suffix == ".tar" or (not thorough and re.fullmatch(r"\d{5,}(\.parquet|_stats\.json)", file.name)):
        return any(problems(str(file.parent)))
    if re.fullmatch(r"\d{5,}\.parquet", file.name):
        digest = json.loads(storage.read_bytes(str(file.with_name(f"{file.stem}_stats.json"))))["table_sha256"]
        try:
            return parse_table(file.read_bytes(), digest) is None
        except ValueError:
            return True
    try:
        return not has_digest(str(file.parent), file.name)
    except UserError as error:
        return str(file) in str(error)


def use(file: Path) -> object:
    """What the commands that use a file read in it.

    Raises:
        UserError: it is refused.
    """
    folder, name = str(file.parent), kind_of(file.name)
    if name in ("*.tar", "*.parquet", "*_stats.json", INDEX, COLUMNS):
        return _images(folder)
    readers: dict[str, Callable[[], object]] = {
        "plan.json": lambda: read_set(folder),
        "status.json": lambda: read_status(folder),
        "progress.json": lambda: read_study_status(folder),
        "run.json": RunFolder(folder, "", "").record,
        "prompts.safetensors": lambda: {name: value.tolist() for name, value in read_prompts(folder).items()},
        "predictions.parquet": lambda: {
            name: column.tolist() for name, column in vars(Predictions.read(str(file))).items()
        },
        "*_rejects.parquet": lambda: read_rejects(folder, 9),
        "dataset.json": lambda: load_packed(str(file)).classnames,
        "step-*.json": lambda: _checkpoint(file),
        "step-*.safetensors": lambda: _checkpoint(file),
    }
    if name in ("recipe.yaml", "synthesis.yaml"):
        return Recipe.load(str(file)).to_yaml()
    return readers.get(name, lambda: storage.read_bytes(str(file)))()


def _images(folder: str) -> object:
    """All that a training reads of a set; what it lost is told by name in its notes."""
    images = ShardSet(folder, corrupt_limit=1000)
    if images.corruption.names:
        raise UserError(f"lost: {images.corruption.names}")
    seen: list[Image.Image] = [images.image(row) for row in range(len(images))]
    rows = range(len(images))
    return [one.tobytes() for one in seen], images.labels.tolist(), [images.text(row) for row in rows]


def _checkpoint(file: Path) -> object:
    """The checkpoint that a training would go on from."""
    told: list[str] = []
    metrics = str(file.parent.parent / "metrics.jsonl")
    recipe_hash = checkpoints.Marker.model_validate_json(storage.read_bytes(str(file.with_suffix(".json")))).recipe_hash
    found = checkpoints.newest(
        str(file.parent), recipe_hash, told.append, lambda step: digest_of(lines_until(metrics, step))
    )
    if told:
        raise UserError(told[0])
    assert found is not None
    return found.step, {name: value.tolist() for name, value in found.parameters.items()}


NO_READER = ("metrics.jsonl", "events.out.*")
"""Kinds that no command reads of a cell's finished run; `verify` checks them."""


def attack(folder: Path, verified: int, used: int, thorough: bool = False) -> dict[str, Tally]:
    """Flip bits in each file of a folder, one at a time, and count by kind of file what becomes of them.

    Args:
        verified: flips of a file that `verify` is tried with.
        used: flips of a file that the commands which use it are tried with.
        thorough: each bit of a small file, for `verify`.
    """
    tallies: dict[str, Tally] = {}
    for number, file in enumerate(files_of(folder)):
        data, tally = file.read_bytes(), tallies.setdefault(kind_of(file.name), Tally())
        tally.files += 1
        try:
            for place in places(data, verified, thorough, number):
                file.write_bytes(flipped(data, place))
                tally.flips += 1
                if found_by_verify(file, thorough):
                    tally.verified += 1
                else:
                    tally.silent += 1
            file.write_bytes(data)
            whole = None if kind_of(file.name) in NO_READER else use(file)
            for place in places(data, used, False, number) if whole is not None else ():
                file.write_bytes(flipped(data, place))
                _count_use(file, whole, tally)
        finally:
            file.write_bytes(data)
    return tallies


def _count_use(file: Path, whole: object, tally: Tally) -> None:
    try:
        same = use(file) == whole
    except UserError:
        tally.refused += 1
    else:
        tally.harmless += same
        tally.silent += not same


def table(folders: dict[str, Path], verified: int, used: int, thorough: bool) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| of a | files | flips | found by `verify` | met by a command: refused | same result | silent |"
    yield "|---|---|---|---|---|---|---|"
    for place, folder in folders.items():
        for kind, one in sorted(attack(folder, verified, used, thorough).items()):
            numbers = one.flips, one.verified, one.refused, one.harmless, one.silent
            yield f"| {place}: {one.files} `{kind}` | {one.files} | " + " | ".join(f"{n:,}" for n in numbers) + " |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as root:
        for line in table(make_folders(Path(root)), verified=500, used=100, thorough=True):
            print(line, flush=True)
