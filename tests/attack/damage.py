"""Damage to every file of sets, runs, studies, packed datasets, exports, predictions and captions, and its detection.

Damage is a flipped bit, truncation, zeros, extension, removal, or exchange with the same file of a sibling (another
seed, configuration, shard or study). `python -m tests.attack.damage` prints the table of
docs/reliability.md.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncclip import storage
from syncclip.cli.status import progress
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings
from syncclip.datasets.loading import read_dataset
from syncclip.datasets.packed import pack
from syncclip.recipe.recipe import Recipe
from syncclip.reports.images import reject_strips
from syncclip.reports.inputs import read_inputs
from syncclip.reports.page import write_report
from syncclip.reports.table import quality_table
from syncclip.runs import evaluate
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import finished_run, resolve_run
from syncclip.shards.cache import ShardCache
from syncclip.shards.index import index_set
from syncclip.shards.reader import ShardSet
from syncclip.storage.exports import require_export
from syncclip.storage.status_file import keep_status_file
from syncclip.stream.teacher import Teacher
from syncclip.studies import findings, predictions
from syncclip.studies.analysis import gather
from syncclip.studies.cells import prepare, run_cell
from syncclip.studies.grid import cells
from syncclip.studies.status import PROGRESS, StudyStatus
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.prompts.files import check_writer, read_captions
from syncclip.synthesis.rejects import Reject, write_rejects
from syncclip.synthesis.status import STATUS_NAME, SynthesisStatus
from syncclip.synthesis.summary import summarise
from syncclip.synthetic_sets.imported import SET_RECIPE, read_set, read_whole_set
from syncclip.synthetic_sets.quality import measure_quality
from syncclip.training import checkpoints
from syncclip.training.loop import read_prompts
from syncclip.training.run_folder import RunFolder, digest_of, lines_until
from syncclip.verify import verify
from tests.worlds.dataset import encoded, make_image
from tests.worlds.derived import make_captions, make_exports, make_predictions, make_set_exports, make_teacher
from tests.worlds.language import asked
from tests.worlds.study import make_set, study_recipe, study_world

FLIP = "flipped bit"
CUTS = ("empty", "half", "1 byte less", "100 bytes less", "4,096 bytes less")
FILLS = ("all zeros", "last 512 bytes zeros", "1 byte more", "512 bytes more")
REMOVED, EXCHANGED = "removed", "exchanged"
KINDS = (FLIP, *CUTS, *FILLS, REMOVED, EXCHANGED)


@dataclass
class Victim:
    """A folder to damage.

    Attributes:
        siblings: folders of another seed, configuration, shard or study, whose files replace those of this folder.
        commands: name -> a function that reads the folder as a command does and returns its result; omissions are
            texts that begin with "note:".
    """

    folder: Path
    siblings: Sequence[Path]
    commands: dict[str, Callable[[], object]] = field(default_factory=dict)


def make_folders(root: Path) -> dict[str, Victim]:
    """A set, a run, a study with its runs, a packed dataset, and folders derived from them, without Ray."""
    world = study_world(root / "world")
    recipe = study_recipe(world, "study.images_per_class=[2,4]", "study.seeds=[1]", "training.checkpoint_every=1")
    recipe = recipe.with_values({"training.trackers": ["tensorboard"]})
    sets = {seed: _set(recipe.with_values({"synthesis.seed": seed}), root / f"set{seed}") for seed in (0, 1)}
    study = _study(recipe, sets[0], root / "study")
    other = _study(recipe.with_values({"study.seeds": [2], "study.images_per_class": [2]}), sets[0], root / "study2")
    run = root / "study" / "cells" / "syncclip-both-4-seed1"
    runs = [root / "study" / "cells" / "syncclip-both-2-seed1", other / "cells" / "syncclip-both-2-seed2"]
    dataset = read_dataset(recipe.dataset)
    packed = [root / "packed", root / "packed2"]
    for folder, seeds in zip(packed, ((1,), (2,)), strict=True):
        pack(dataset, str(folder), shots=(1, 2), seeds=seeds)
    return {
        **_derived(root, *[str(study / "cells" / f"ivlp-both-{amount}-seed1") for amount in (4, 2)], sets),
        "set": Victim(sets[0], [sets[1]], _of_set(recipe, sets[0])),
        "run": Victim(run, runs, _of_run(run)),
        "study": Victim(study, [other], _of_study(recipe, study, sets[0])),
        "packed": Victim(packed[0], [packed[1]], _of_packed(packed[0])),
    }


def _derived(root: Path, run: str, other: str, sets: dict[int, Path]) -> dict[str, Victim]:
    """Exports, predictions, soft labels and captions, each with a sibling of another run, set or seed."""
    derived = root / "derived"
    exports = [make_exports(x, derived / f"export{n}", ("vectors",))["vectors"] for n, x in enumerate((run, other))]
    layouts = [make_set_exports(str(x), derived / f"layout{n}")["huggingface"] for n, x in sets.items()]
    predictions = [make_predictions(x, derived / f"predictions{n}") for n, x in enumerate((run, other))]
    teachers = [make_teacher(x, str(sets[0]), derived / f"teacher{n}") for n, x in enumerate((run, other))]
    captions = [derived / f"captions{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(captions):
        written = make_captions(derived / f"model{seed}", seed=seed)
        folder.mkdir()
        (written / "captions.json").rename(folder / "captions.json")
    writer = asked(str(derived / "model0" / "model"), seed=0)
    images = ShardSet(str(sets[0]))
    rows = range(len(images))

    def distil() -> object:
        teacher = Teacher(str(teachers[0]), ShardCache())
        return teacher.files, teacher.class_vectors().tolist(), teacher.of_batch(images, rows, 0).tolist()

    def caption() -> object:
        url = f"{captions[0]}/captions.json"
        content = read_captions(url)
        check_writer(content, writer, url)
        return content

    return {
        "export": Victim(exports[0], exports[1:], {"load": lambda: require_export(str(exports[0]))}),
        "set export": Victim(layouts[0], layouts[1:], {"import": lambda: require_export(str(layouts[0]))}),
        "predictions": Victim(predictions[0], predictions[1:]),
        "teacher": Victim(teachers[0], teachers[1:], {"train": distil}),
        "captions": Victim(captions[0], captions[1:], {"synth": caption}),
    }


def _set(recipe: Recipe, folder: Path) -> Path:
    url = make_set(recipe, str(folder))
    plan = read_set(url)
    assert isinstance(plan, Plan)
    storage.write_with_checksum(f"{url}/{SET_RECIPE}", recipe.to_yaml().encode(), owner=plan.owner)
    summarise(plan, url)
    measure_quality(recipe, url)
    index_set(url, plan.owner)
    for shard in (0, 1):
        write_rejects(url, shard, [Reject("blank", shard, shard, 0, 0.5, encoded(make_image(0, 0)))], plan.owner)
    with keep_status_file(f"{url}/{STATUS_NAME}", SynthesisStatus.begin(images=1, planned=2), plan.owner):
        pass
    storage.write_contents(url, plan.owner)
    return folder


def _study(recipe: Recipe, synthetic: Path, folder: Path) -> Path:
    study, url = str(folder), str(synthetic)
    recipe = recipe.with_values({"training.synthetic": url})
    for run in prepare(recipe, cells(recipe.study), study, url):
        assert run_cell(run.spec)["error"] is None
    runs = prepare(recipe, cells(recipe.study), study, url)
    state = findings.state_of(recipe, runs, [])
    with keep_status_file(
        f"{study}/{PROGRESS}", StudyStatus.begin(cells=len(runs), done=len(runs)), state.owner, clock=lambda: 1.0
    ):
        pass
    work = StudyStatus.begin(cells=len(runs), done=0)
    findings.write(recipe, study, runs, findings.SyntheticSet(url, 4), work, state)
    write_report(study)
    return folder


def _of_set(recipe: Recipe, folder: Path) -> dict[str, Callable[[], object]]:
    url = str(folder)
    training = recipe.with_values({"training.synthetic": url, "training.images_per_class": 4})

    def train() -> object:
        resolve_run(training, url + "-run")
        images = ShardSet(url)
        lost = [f"note: {name}" for name in images.corruption.names]
        rows = range(len(images))
        return lost, [images.image(row).tobytes() for row in rows], images.labels.tolist(), [*map(images.text, rows)]

    def report() -> object:
        inputs = read_inputs(url)
        tables = repr(quality_table(inputs)), repr(reject_strips(inputs))
        return [f"note: {note}" for note in inputs.notes], inputs.plan, inputs.images, inputs.rejects, tables

    return {
        "train": train,
        "report": report,
        "merge": lambda: read_whole_set(url).classnames,
        "status": lambda: _without_times(progress(url)),
    }


def _without_times(lines: Sequence[str]) -> list[str]:
    lines = [line for line in lines if "last heartbeat" not in line]
    return [
        f"note: {line}" if "status of the synthesis is unknown" in line or "was replaced" in line else line
        for line in lines
    ]


def _of_run(path: Path) -> dict[str, Callable[[], object]]:
    url = str(path)

    def classify() -> object:
        recipe, folder = finished_run(url)
        prompts = sorted((name, value.tolist()) for name, value in read_prompts(folder).items())
        return recipe.hash, prompts, read_classes(folder)

    def evaluated() -> object:
        recipe, folder = finished_run(url)
        results = evaluate.results_of(recipe, folder)
        return results or "note: not evaluated", gather([(_cell(), folder)], [_cell().configuration], 2).cells

    def report() -> object:
        inputs = read_inputs(url)
        return [f"note: {note}" for note in inputs.notes], inputs.results, inputs.record, inputs.history, inputs.recipe

    def resume() -> object:
        notes: list[str] = []
        if (record := RunFolder(url, "", "").record()) is None:
            raise UserError("no run found")
        metrics, folder = f"{url}/metrics.jsonl", f"{url}/checkpoints"
        state = checkpoints.newest(
            folder, record.recipe_hash, notes.append, lambda step: digest_of(lines_until(metrics, step))
        )
        assert state is not None
        parameters = sorted((name, value.tolist()) for name, value in state.parameters.items())
        return [f"note: {note}" for note in (*notes, f"from step {state.step}")], parameters

    return {
        "classify": classify,
        "evaluate": evaluated,
        "report": report,
        "resume": resume,
        "status": lambda: _without_times(progress(url)),
    }


def _cell() -> Any:
    from syncclip.recipe.study import Configuration
    from syncclip.studies.grid import Cell

    return Cell(Configuration(method="syncclip", data="both", name="any"), 4, 1)


def _of_study(recipe: Recipe, folder: Path, synthetic: Path) -> dict[str, Callable[[], object]]:
    url = str(folder)
    recipe = recipe.with_values({"training.synthetic": str(synthetic)})

    def report() -> object:
        inputs = read_inputs(url)
        parts = inputs.state, inputs.fits, inputs.data_efficiency, inputs.comparisons, inputs.shift, inputs.results
        tables = [None if table is None else table.to_csv() for table in (inputs.table, inputs.features)]
        return [f"note: {note}" for note in inputs.notes], parts, inputs.cost, tables, inputs.recipe

    def resume() -> object:
        runs = prepare(recipe, cells(recipe.study), url, str(synthetic))
        repeated = [f"note: {run.cell.name} runs again" for run in runs if run.status != "done"]
        done = [run for run in runs if run.status == "done"]
        lost = [f"note: no cost of {run.cell.name}" for run in done if run.seconds is None]
        return repeated, lost, [(run.cell.name, run.results, run.seconds) for run in done]

    def recompute() -> object:
        recomputed = predictions.recompute(url)
        return [f"note: {sentence}" for sentence in recomputed.differ], recomputed.means.to_csv()

    return {
        "report": report,
        "recompute": recompute,
        "study": resume,
        "status": lambda: _without_times(progress(url)),
    }


def _of_packed(folder: Path) -> dict[str, Callable[[], object]]:
    def train() -> object:
        dataset = read_dataset(DatasetSettings(name=str(folder)))
        splits = {name: dataset.split(name) for name in ("train", "val", "test")}
        lost = [f"note: {name}" for images in splits.values() for name in images.corruption.names]
        images = {
            name: [(images.image(row).tobytes(), int(images.labels[row])) for row in range(len(images))]
            for name, images in splits.items()
        }
        return lost, images, dataset.classnames, dataset.template, dataset.few_shot(1, 1).tolist()

    return {"train": train}


@dataclass
class Tally:
    """Detection of damage to files of one kind.

    Attributes:
        tried, verified: number of damages, and of those that `verify` reported.
        reported, harmless: number of command runs that reported the damage, and whose result did not change.
        silent: other runs, as (command, file, damage).
    """

    files: int = 0
    tried: int = 0
    verified: int = 0
    reported: int = 0
    harmless: int = 0
    silent: list[tuple[str, Path, str]] = field(default_factory=list)


def files_of(folder: Path) -> list[Path]:
    """All non-empty, visible files in a folder and its subfolders."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in paths if path.stat().st_size)


def kind_of(name: str) -> str:
    """File name with numbers of shards and checkpoints replaced by `*`."""
    return re.sub(
        r"events\.out\..*", "events.out.*", re.sub(r"^\d{5,}|^[ab](?=\.tar|_)|(?<=step-|rain-)\d+", "*", name)
    )


def flipped(data: bytes, bit: int) -> bytes:
    """The data with one bit flipped."""
    copy = bytearray(data)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


def damages(victim: Victim, file: Path, flips: int, seed: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield (kind, content) of each damage that changes a file; None: the file is removed."""
    data = file.read_bytes()
    draw = random.Random(seed)
    yield from ((FLIP, flipped(data, draw.randrange(8 * len(data)))) for _ in range(flips))
    cut = dict(zip(CUTS, (b"", data[: len(data) // 2], data[:-1], data[:-100], data[:-4096]), strict=True))
    tail = min(512, len(data))
    fill = bytes(len(data)), data[:-tail] + bytes(tail), data + b"x", data + bytes(512)
    yield from (
        (kind, content) for kind, content in {**cut, **dict(zip(FILLS, fill, strict=True))}.items() if content != data
    )
    yield REMOVED, None
    contents = {data}
    for other in _alike(victim, file):
        if (content := other.read_bytes()) not in contents:
            contents.add(content)
            yield EXCHANGED, content


def _alike(victim: Victim, file: Path) -> Iterator[Path]:
    """Files of the same kind in sibling folders and in the folder itself."""
    inside = file.relative_to(victim.folder)
    for sibling in victim.siblings:
        if (sibling / inside).is_file():
            if not _same_run((sibling / inside).parent, file.parent):
                yield sibling / inside
        elif len(inside.parts) > 2:  # the sibling has no such run: use another one
            yield from sorted(sibling.glob(f"{inside.parts[0]}/*/{Path(*inside.parts[2:])}"))[:1]
    name = re.sub(r"\d+", "*", file.name)
    yield from [path for path in sorted(file.parent.glob(name)) if path != file][:2]
    if len(inside.parts) > 2:
        yield from [path for path in sorted(file.parent.parent.glob(f"*/{file.name}")) if path != file][:2]


def _same_run(folder: Path, other: Path) -> bool:
    """Whether two studies contain the same run, such as zero-shot CLIP."""
    records = [parent / "run.json" for parent in (folder, other)]
    return all(map(Path.is_file, records)) and len({storage.read_owner(str(record)) for record in records}) == 1


def attack(
    victim: Victim, flips: int, thorough: bool = True, only: Callable[[Path], bool] = lambda _: True
) -> dict[str, Tally]:
    """Damage each file of a folder, one at a time, and count detections by kind of file.

    Args:
        flips: number of bits of a file to flip, one after the other.
        thorough: run every command, not only `verify`.
        only: filter of files.
    """
    tallies: dict[str, Tally] = {}
    expected = {name: command() for name, command in victim.commands.items()}
    assert repr(expected) == repr({name: command() for name, command in victim.commands.items()})
    for number, file in enumerate(filter(only, files_of(victim.folder))):
        data, tally = file.read_bytes(), tallies.setdefault(kind_of(file.name), Tally())
        tally.files += 1
        for kind, content in damages(victim, file, flips, number):
            try:
                if content is None:
                    file.unlink()
                else:
                    file.write_bytes(content)
                tally.tried += 1
                if _verify_reports(victim.folder):
                    tally.verified += 1
                else:
                    tally.silent.append(("verify", file, kind))
                for name, command in victim.commands.items() if thorough else ():
                    _count((name, file, kind), command, expected[name], tally)
            finally:
                file.write_bytes(data)
    return tallies


def _verify_reports(folder: Path) -> bool:
    try:
        return bool(verify(str(folder), lambda _: None).problems)
    except UserError:  # the folder is empty
        return True


def _count(case: tuple[str, Path, str], command: Callable[[], object], expected: object, tally: Tally) -> None:
    try:
        result = command()
    except UserError:
        tally.reported += 1
        return
    if repr(result) == repr(expected):
        tally.harmless += 1
    elif _notes(result) - _notes(expected):
        tally.reported += 1
    else:
        tally.silent.append(case)


def _notes(result: object) -> set[str]:
    """The omissions in a result."""
    return {*re.findall(r"note: [^']*", repr(result))}


def first_of_each_kind(victim: Victim, count: int) -> Callable[[Path], bool]:
    """Filter that selects `count` files of each kind and depth."""
    counts: dict[tuple[int, str], int] = {}

    def is_selected(file: Path) -> bool:
        key = len(file.relative_to(victim.folder).parts), kind_of(file.name)
        counts[key] = counts.get(key, 0) + 1
        return counts[key] <= count

    return is_selected


def table(victims: dict[str, Victim], flips: int) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| of a | files | damages | found by `verify` | met by a command: reported | same result | unnoticed |"
    yield "|---|---|---|---|---|---|---|"
    for name, victim in victims.items():
        for kind, tally in sorted(attack(victim, flips, only=first_of_each_kind(victim, 2)).items()):
            numbers = tally.tried, tally.verified, tally.reported, tally.harmless, len(tally.silent)
            yield f"| {name}: `{kind}` | {tally.files} | " + " | ".join(f"{n:,}" for n in numbers) + " |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as root:
        for line in table(make_folders(Path(root)), flips=20):
            print(line, flush=True)
