"""Figures in pages are derived from the tables of benchmarks/RESULTS.md and of the chaos run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    """Text of a page with normalised whitespace."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def rows(heading: str) -> list[list[str]]:
    """Cells of the rows of every table under a heading of RESULTS.md."""
    section = RESULTS.partition(heading)[2]
    assert section, heading
    lines = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def numbers(*cells: str) -> list[float]:
    return [float(text.replace(",", "")) for cell in cells for text in re.findall(r"\d[\d,]*(?:\.\d+)?", cell)]


def span(values: list[float], unit: str = "") -> str:
    return f"{min(values):.1f}{unit} to {max(values):.1f}{unit}"


def method(classes: int, name: str) -> tuple[str, str]:
    """Ratios of the time of the plain step to ours, and of its memory to ours, over all measurements."""
    suffix = f": {classes} classes, batch {8 if name == 'syncclip' else 4}, fp32, cpu"
    headings = re.findall(rf"^## .*{suffix}$", RESULTS, re.MULTILINE)
    measured = [row for heading in headings for row in rows(f"{heading}\n") if row[0] == f"{name}¹"]
    memory = {f"{numbers(row[5])[0] / numbers(row[4])[0]:.1f}×" for row in measured}
    assert len(measured) == 2
    return span([numbers(row[3])[0] for row in measured], "×"), " to ".join(sorted(memory, key=numbers))


def quotes() -> Iterator[tuple[str, str]]:
    """(page, text that it must contain)."""
    shares = [share for row in rows("orchestration overhead")[2:5] for share in numbers(row[1])]
    loop = numbers(RESULTS.partition("With one actor, the pool reaches")[2].splitlines()[0])
    yield "README.md", f"Actors spend {100 * min(shares):.0f} % of their time in the generator"
    yield "README.md", f"`synth` is [{span(loop, '×')} faster]"
    yield "docs/synthesis.md", f"(at least {min(shares):.2f})"
    yield "docs/synthesis.md", f"({span(loop, '×')})"

    loader = rows("the loader against a bare decode loop")
    readers = {
        name: [ratio for row in loader if row[1] == name for ratio in numbers(*row[4:6])]
        for name in ("webdataset", "ray")
    }
    yield "README.md", f"The stream is {span(readers['webdataset'], '×')} faster than `webdataset`"
    yield "docs/training.md", f"| relative to `webdataset` | {span(readers['webdataset'], '×')} |"
    yield "docs/training.md", f"| relative to `ray.data.read_webdataset` | {span(readers['ray'], '×')} |"

    (training,) = (
        row for row in rows("# Startup time of a training run on ten million") if row[:2] == ["disk", "a training run"]
    )
    yield "README.md", f"training begins after {numbers(training[2])[0]:.1f} s of CPU time"
    (planned,) = (row for row in rows("Resuming a dataset of 100,000 shards") if row[1] == "1,000,000,000")
    yield "README.md", f"A dataset of a billion images starts after {planned[2]} s, with {planned[4]} MB of memory"
    streaming = [numbers(row[5])[0] for row in rows("streaming from a failing S3 server")[2:]]
    assert all(abs(ratio - 1) < 0.05 for ratio in streaming)
    yield "README.md", "keeps its throughput if an S3 server fails one request in twenty"
    yield "docs/training.md", f"failing, relative to none failing | {min(streaming):.2f}×"

    time, memory = method(1000, "syncclip")
    yield "README.md", f"{time} faster than the published formulation and uses {memory} less memory"
    time, memory = method(100, "cocoop")
    yield "README.md", f"a CoCoOp step is {time} faster and uses {memory} less memory"
    steps = {n: numbers(rows(f": {n} classes, batch 8")[2][1])[0] for n in (100, 1000)}
    yield "docs/studies.md", f"takes {steps[1000]:.0f} s for 1,000 ImageNet classes and {steps[100]:.0f} s for 100 ("

    chaos = page("docs/synthesis.md").partition("killed with -9 |")[2]
    killed = re.match(r" (\d+) actors, (\d+) drivers \(with 4 actors\), (\d+) other workers, (\d+) queues", chaos)
    failed, storm = re.search(r"requests failed \| (\d+)", chaos), re.search(r"with faults \| (\d+) \| (\d+)", chaos)
    assert killed and failed and storm
    yield "README.md", f"{sum(map(int, killed.groups()))} SIGKILLs and {failed[1]} failed S3 requests"
    yield "README.md", f"the estimate was {storm[2]} s and the actual time {storm[1]} s"


@pytest.mark.parametrize(("name", "words"), quotes())
def test_a_page_quotes_the_measurements(name: str, words: str) -> None:
    assert words in page(name)
