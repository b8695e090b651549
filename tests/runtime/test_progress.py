"""Progress in logs and on terminals."""

from __future__ import annotations

import io
import re
import time

import pytest

from syncclip.runtime import progress as progress_module
from syncclip.runtime.progress import Progress


class Clock:
    """Seconds that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_first_line_one_per_minute_and_a_last_line() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(300, "images", "synth", log, clock=clock) as progress:
        for _ in range(300):
            clock.now += 1.0
            progress.update()
    lines = log.getvalue().splitlines()
    counts = [int(line.split()[1].split("/")[0]) for line in lines]
    assert counts == [0, 1, 61, 121, 181, 241, 300]


def test_a_log_shows_that_a_job_without_updates_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LOG_INTERVAL", 0.05)
    log = io.StringIO()
    deadline = time.monotonic() + 60
    with Progress(300, "images", "synth", log, clock=iter(range(0, 10_000, 60)).__next__):
        while log.getvalue().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    first, *others = log.getvalue().splitlines()
    assert first.startswith("synth: 0/300 images")
    assert all(re.fullmatch(r"synth: 0/300 images · \d+ (h|min)( \d+ min)? so far", line) for line in others), others


def test_a_line_shows_count_throughput_time_left_and_facts() -> None:
    clock, log = Clock(), io.StringIO()
    progress = Progress(96, "images", "synth", log, clock=clock)
    clock.now += 4.0
    progress.update(12, busy=0.93, rejected=2)
    assert log.getvalue() == "synth: 12/96 images · 3 images/s · 28 s left · busy 93 % · rejected 2\n"
    clock.now += 60.0
    progress.update(0, busy=None, rejected=3)
    assert log.getvalue().splitlines()[1].endswith(" left · rejected 3")


def test_items_of_an_earlier_run_do_not_count_towards_the_throughput() -> None:
    clock, log = Clock(), io.StringIO()
    known = Progress(20, "shards", "synth", log, done=10, clock=clock)
    unknown = Progress(None, "images", "verify", log, clock=clock)
    clock.now += 5.0
    known.update(5)
    unknown.update(10)
    lines = "synth: 15/20 shards · 1 shards/s · 5 s left\n", "verify: 10 images · 2 images/s · 5 s taken\n"
    assert log.getvalue() == "".join(lines)


def test_the_last_line_is_not_printed_twice() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(1, "runs", "study", log, clock=clock) as progress:
        clock.now += 1.0
        progress.update()
    assert [line.partition(" · ")[0] for line in log.getvalue().splitlines()] == ["study: 0/1 runs", "study: 1/1 runs"]


def test_nothing_is_printed_without_total_and_items() -> None:
    log = io.StringIO()
    with Progress(None, "steps", "train", log):
        pass
    assert log.getvalue() == ""
    with Progress(7, "steps", "train", log):
        pass
    assert log.getvalue() == "train: 0/7 steps\n"


def test_a_log_shows_each_phase_until_the_first_item() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(40, "images", "synth", log, phase="starting Ray", clock=clock) as progress:
        progress.begin("loading weights")
        clock.now += 2.0
        progress.update(4)
        clock.now += 60.0
        progress.update(36)
    first, second, third, last = log.getvalue().splitlines()
    assert first == "synth: 0/40 images · starting Ray" and second == "synth: 0/40 images · loading weights"
    assert third == "synth: 4/40 images · 2 images/s · 18 s left" and last.startswith("synth: 40/40 images · ")


def test_a_phase_without_a_total_is_shown_without_a_count() -> None:
    log = io.StringIO()
    with Progress(None, "steps", "train", log, phase="starting Ray") as progress:
        progress.total = 8
        progress.update(2)
    assert log.getvalue().splitlines()[0] == "train: starting Ray"
    assert log.getvalue().splitlines()[1].startswith("train: 2/8 steps · ")


@pytest.mark.parametrize(("columns", "facts"), [(60, []), (80, []), (160, ["29 images/s", "generate 91 %", "blank 3"])])
def test_a_narrow_terminal_omits_the_last_fields(
    monkeypatch: pytest.MonkeyPatch, columns: int, facts: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    clock, terminal = Clock(), Terminal()
    with Progress(22_528, "images", "synth", terminal, clock=clock) as progress:
        clock.now += 100.0
        progress.update(2_900, busy="generate 91 %, filter 14 %, encode 1 %, write 2 %", rejected="blank 3")
    *_, line = (part for part in terminal.getvalue().split("\r") if "synth" in part)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).splitlines()[0]
    assert len(text.rstrip()) <= columns
    for part in ["synth", "2,900/22,528 images", "11 min 17 s left", *facts]:
        assert part in text, text


def test_a_live_line_takes_over_a_total_that_was_unknown() -> None:
    terminal = Terminal()
    with Progress(None, "steps", "train", terminal) as progress:
        progress.total = 8
        progress.update(2)
    assert "2/8 steps" in terminal.getvalue()


def test_a_terminal_has_a_live_line() -> None:
    terminal = Terminal()
    with Progress(10, "images", "synth", terminal) as progress:
        progress.update(10, busy=0.5)
    shown = terminal.getvalue()
    assert "10/10" in shown
    assert "busy" in shown


def test_output_follows_the_current_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    with Progress(7, "steps", "train") as progress:
        monkeypatch.setattr("sys.stderr", second)
        progress.update(1)
    assert first.getvalue() == "train: 0/7 steps\n" and second.getvalue().startswith("train: 1/7 steps")
