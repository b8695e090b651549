"""Write NOTICE, with the attribution of every icon set."""

from __future__ import annotations

import json
from pathlib import Path

from .drawings import FAMILIES

HEAD = """\
The bundled benchmark `icons` of syncclip is made from open icon sets, taken from the npm package {source}.

Changes to the drawings: for the datasets, they were rasterised to 64x64 pixels, recoloured if they had a single colour,
placed on generated backgrounds, rotated, blurred and given noise; for pretraining, their shapes were used to train the
tiny CLIP model and the generator. Every icon set is licensed under MIT, Apache-2.0, ISC, CC0-1.0, CC-BY-3.0,
CC-BY-4.0, Unlicense or BSD-3-Clause. Each image of the datasets names its icon set in its shard's table.
"""
PARTS = {
    "benchmark_colour": "Dataset, coloured sets",
    "benchmark_single_colour": "Dataset, single-colour sets",
    "pretraining": "Pretraining of the CLIP model and the generator (no image from these sets is shipped)",
}


def make_notice(package: Path, out: Path) -> None:
    collections = json.loads((package / "collections.json").read_text())
    lines = [HEAD.format(source=FAMILIES["source"])]
    for part, title in PARTS.items():
        lines.append(f"{title}\n")
        for family, facts in FAMILIES[part].items():
            author, licence = collections[family]["author"], collections[family]["license"]
            links = ", ".join(link for link in (author.get("url"), licence.get("url")) if link)
            lines.append(
                f"* {facts['name']} ({family}), {author['name']}, {licence['spdx']}{f', {links}' if links else ''}"
            )
        lines.append("")
    out.write_text("\n".join(lines))
