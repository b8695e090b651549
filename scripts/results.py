"""Publish the files of a finished study, with paths made relative to the working directory.

A study with `study.pretrained` is published with the studies of all levels, in a subfolder for each tag.

With a single folder, rewrite the files that are derived from the predictions of a published study.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from syncclip import report, storage
from syncclip.recipe.recipe import Recipe
from syncclip.studies import levels, outputs, predictions, summary
from syncclip.studies.levels_state import read_state
from syncclip.studies.status import PROGRESS

TEXTS = (".json", ".yaml", ".html")


def publish(study: Path, target: Path) -> None:
    """Replace the previously published study with this study's own files, except its progress.

    With several pretrained tags, also publish the study of each tag.
    """
    working_folder = f"{Path.cwd()}/".encode()
    target.mkdir(parents=True, exist_ok=True)
    optional = (outputs.DATASETS, outputs.PREDICTIONS, outputs.SHIFT, outputs.FEATURES, outputs.TUNED)
    for name in (*outputs.ALWAYS, *optional, *levels.FILES):
        (target / name).unlink(missing_ok=True)
    files = [file for file in study.iterdir() if file.is_file() and file.name != PROGRESS]
    for file in sorted(file for file in files if not file.name.startswith(".")):
        path = str(target / file.name)
        if file.suffix in TEXTS:
            text, owner = storage.read_verified(str(file)), storage.read_owner(str(file))
            storage.write_with_checksum(path, text.replace(working_folder, b""), owner=owner)
        else:
            storage.copy(str(file), path)
    state = read_state(str(study))
    for tag in state.pretrained if state is not None else ():
        publish(study / tag, target / tag)
    owner = storage.read_owner(str(target / outputs.STATE)) if state is None else state.owner
    storage.write_contents(str(target), owner)


def rewrite(study: Path) -> None:
    """Rewrite a published study's comparisons, curves, data efficiency, tables and report from its predictions.

    For a study with several pretrained tags, only the map and its report are rewritten.
    """
    url = str(study)
    if (state := read_state(url)) is not None:
        levels.write_map(url, state)
        report(url)
        return
    owner = storage.read_owner(str(study / outputs.STATE))
    recomputed = predictions.recompute(url)
    assert recomputed.fits and recomputed.data_efficiency, "studies of single models have curves and a data efficiency"
    table = _read_table(study / outputs.TABLE, owner)
    datasets = None
    if (study / outputs.DATASETS).exists():
        rows = _read_table(study / outputs.DATASETS, owner)
        datasets = {str(name): part for name, part in rows.groupby("dataset", sort=False)}
    recipe = Recipe.load(str(study / outputs.RECIPE), own=False)
    text = summary.markdown(recipe, table, recomputed.fits.curves, recomputed.comparisons, datasets)
    outputs.write_json(str(study / outputs.COMPARISONS), recomputed.comparisons, owner)
    outputs.write_json(str(study / outputs.FIT), recomputed.fits, owner)
    outputs.write_json(str(study / outputs.DATA_EFFICIENCY), recomputed.data_efficiency, owner)
    storage.write_with_checksum(str(study / outputs.TABLES), text.encode(), owner=owner)
    if (study / "report.html").exists():
        report(url)
    storage.write_contents(url, owner)


def _read_table(path: Path, owner: str) -> pd.DataFrame:
    table: pd.DataFrame = storage.read_parquet(storage.read_verified(str(path), owner)).to_pandas()
    return table


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:]]
    publish(*folders) if len(folders) == 2 else rewrite(*folders)
