"""The NOTICE, with the attribution of every set of drawings."""

from __future__ import annotations

import json
from pathlib import Path

from .drawings import FAMILIES

HEAD = """\
The embedded benchmark `icons` of syncclip is derived from open icon sets in the npm package {source}.

Changes to the drawings: they were rasterised at 64x64 pixels, recoloured if they had a single colour, placed on
generated backgrounds, rotated, blurred and given noise (dataset), or used as shapes to train the small CLIP model and
the generator (pretraining).
Every set is licensed under MIT, Apache-2.0, ISC, CC0-1.0, CC-BY-3.0, CC-BY-4.0, Unlicense or BSD-3-Clause. The `.txt`
file of each image in the dataset's shards contains the name of its set.
"""
PARTS = {
    "benchmark_colour": "Dataset, coloured sets",
    "benchmark_single_colour": "Dataset, single-colour sets",
    "pretraining": "Pretraining of the CLIP model and the generator (no images from these sets are shipped)",
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
