from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.core.text import (
    as_ascii,
    counted,
    cut,
    did_you_mean,
    duration,
    first_difference,
    first_line,
    from_here,
    install_command,
    markdown_grid,
    nearest,
    percent,
    printable,
    readable_name,
    show,
    signed,
    size,
    table,
    wrapped,
)
from syncclip.runtime.progress import Progress, print_message


def test_counts_shares_and_sizes_have_units() -> None:
    assert [counted(count, "shard") for count in (0, 1, 12345)] == ["0 shards", "1 shard", "12,345 shards"]
    assert [counted(count, "class", "classes") for count in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert [percent(share) for share in (0, 0.004, 0.931, 1)] == ["0 %", "0 %", "93 %", "100 %"]
    assert [size(count) for count in (0, 999, 1400, 2_500_000_000)] == ["0 B", "999 B", "1.4 kB", "2.5 GB"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3 * 3600 + 20 * 60 + 59, "3 h 20 min"),
        (2 * 86400 + 5 * 3600, "2 d 5 h"),
        (1234 * 86400, "1,234 d"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_nearest_name_has_the_same_prefix_or_a_similar_spelling() -> None:
    names = ["base-to-novel", "few-shot", "losses"]
    assert nearest("base", names) == "base-to-novel"
    assert nearest("fewshot", names) == "few-shot"
    assert nearest("zebra", names) is None
    assert nearest("", names) is None
    assert did_you_mean("iccons", ["icons", "demo"]) == "did you mean 'icons'?"
    assert did_you_mean("zebra", ["icons", "demo"]) == "available: icons, demo"


def test_differences_have_a_sign_unless_they_round_to_zero() -> None:
    assert [signed(value) for value in (1.04, -0.26, -0.04, 0.0)] == ["+1.0", "−0.3", "0.0", "0.0"]
    assert signed(-0.26, 2.0) == "−0.3 to +2.0"


def test_an_error_without_a_message_is_described_by_its_type() -> None:
    assert first_line(ValueError("\n broken.\nat line 3")) == "broken"
    assert first_line(MemoryError()) == "MemoryError"


CONTROLS = {
    "\x1b[2Jgone": r"\x1b[2Jgone",
    "rub\x7fout": r"rub\x7fout",
    "\x9b31mred": r"\x9b31mred",
    "over\rwritten": r"over\rwritten",
    "cat\u202egpj.exe": r"cat\u202egpj.exe",
    "\u2066hidden\u2069": r"\u2066hidden\u2069",
    "two\u2028lines": r"two\u2028lines",
    "half\ud800": r"half\ud800",
    "nul\0": r"nul\x00",
}
"""Text with control characters -> the text with escapes."""


def test_ordinary_text_emoji_and_joiners_are_not_escaped() -> None:
    for text in ("Käfer 甲虫 жук 🪲", "95\u00a0%", r"a\b", "[bold]", "−0.3 · …", "می\u200cخواهم 👩\u200d🔬"):
        assert printable(text) == text
    assert printable("a\nb\tc", "\n") == "a\nb\\tc"


@pytest.mark.parametrize(("text", "shown"), CONTROLS.items())
def test_all_output_functions_escape_control_characters(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable(text) == shown
    markup = "[bold]loud[/bold] :smile: [link=http://x]y[/link]"
    show(f"{text} {markup}")
    show(table(text, [text], [[f"{text} {markup}"]]))
    print_message(text)
    with Progress(2, text, text, done=1) as progress:
        progress.update(1, word=text)
    printed = "".join(capsys.readouterr())
    assert printed.count(shown) >= 7
    assert printed.count(markup) == 2
    assert printable(printed, "\n") == printed


def test_markdown_cells_are_escaped() -> None:
    grid = markdown_grid(["a|b"], [["x\ny <img src=1>"]])
    assert grid == "| a\\|b |\n| --- |\n| x\\ny &lt;img src=1> |"


def test_long_values_and_messages_are_cut() -> None:
    assert cut("a" * 200) == "a" * 200
    assert cut("a" * 150 + "b" * 10**6) == "a" * 100 + "…" + "b" * 99
    assert len(str(UserError("x" * 10**7))) == 2000


def test_the_first_difference_of_class_names_is_described() -> None:
    assert first_difference(["a", "b", "c"], ["a", "c", "b"]) == " (class 1 is 'b', not 'c')"
    assert first_difference(["a"], ["a", "b"]) == ""


@pytest.mark.parametrize("name", ["syncclip", "my code", "näher"])
def test_the_install_command_quotes_the_path_of_the_checkout(name: str, tmp_path: Path) -> None:
    checkout = tmp_path / name
    checkout.mkdir()
    assert install_command("s3", checkout).endswith("pip install -e '.[s3]' # in a checkout of syncclip")
    (checkout / "pyproject.toml").touch()
    words = shlex.split(install_command("s3", checkout))
    assert words == ["pip", "install", "-e", f"{checkout}[s3]"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/run #1?a=%[*", "s3://bucket/run #1?a=%[*"),
        ("/home/josé", "/home/jos%C3%A9"),
        ("日", "%E6%97%A5"),
        ("a\nb\x7f", "a%0Ab%7F"),
        ("\udcff", "%FF"),
    ],
)
def test_non_ascii_characters_are_percent_encoded(text: str, expected: str) -> None:
    assert as_ascii(text) == expected


NAMES = ["zeroshot", "ivlp-all_real", "syncclip-both"]


def printed_at(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, keys: int) -> str:
    """Print a wide table on a terminal with this many columns."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich then takes a pipe for a terminal
    headings = ["configuration", "images per class", "seeds", "base", "novel", "HM", "gain", "all HM", "OpenworldAUC"]
    rows = [[name, "16", "4", *["54.3 ± 0.4"] * 6] for name in NAMES]
    show(table("means", headings, rows), keys=keys)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_table_wider_than_the_terminal_is_split(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed_at(width, capsys, monkeypatch, keys=2)).splitlines()
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    parts = sum(line.startswith("┏") for line in lines)
    assert parts > 1
    for name in NAMES:
        rows = [line for line in lines if f"│ {name} " in line]
        assert len(rows) == parts and all("│ 16 " in row for row in rows)
        assert "".join(rows).count("54.3 ± 0.4") == 6
    assert "".join(lines).count("OpenworldAUC") == 1 and "".join(lines).count("means") == 1


def test_a_table_that_fits_is_not_split(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed_at(200, capsys, monkeypatch, keys=1).count("┏") == 1


def test_readable_names_have_single_spaces() -> None:
    assert [readable_name(name) for name in ("hot_dog", "hot__dog", " hot dog_")] == ["hot dog"] * 3


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {f"{tmp_path}/runs/a": "runs/a", "/elsewhere": "/elsewhere", "s3://bucket/a": "s3://bucket/a"}
    assert {path: from_here(path) for path in paths} == paths


def test_messages_on_a_terminal_are_broken_at_spaces_but_not_within_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    message = "first: the folder is a run; use `syncclip synth travel --out runs/another` instead\n  indented"
    assert wrapped(message, io.StringIO()) == message, "unchanged in a file"
    assert wrapped(message, Terminal()).split("\n") == [
        "first: the folder is a run; use",
        "  `syncclip synth travel --out runs/another`",
        "  instead",
        "  indented",
    ]
