"""What names stand for: files, folders, patterns, tables, shards, URLs, standard input."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.inference import sources
from syncclip.inference.sources import Source, find_images
from tests.shards.sets import write_set


def names(*given: str) -> list[str]:
    """What was found, without the folder."""
    return [Path(one.name).name for one in find_images(given)]


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    """Three images, one of them in a subfolder, and what is none."""
    for number, place in enumerate(["b.png", "a.PNG", "more/c.png"]):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes((images / f"{number:02}.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("nothing to see")
    return tmp_path


def test_files_folders_and_patterns_in_their_order(folder: Path) -> None:
    assert names(str(folder)) == ["a.PNG", "b.png", "c.png"]
    assert names(str(folder / "b.png"), str(folder / "a.PNG")) == ["b.png", "a.PNG"]
    assert names(f"{folder}/*.png") == ["b.png"]
    assert names(f"{folder}/**/*.png") == ["b.png", "c.png"]
    read = {Path(one.name).name: one.read() for one in find_images([str(folder)])}
    assert read["b.png"] == (folder / "b.png").read_bytes()


def test_a_file_whose_name_is_a_pattern_is_itself(folder: Path) -> None:
    (folder / "b.png").rename(folder / "[b].png")
    assert names(f"{folder}/[b].png") == ["[b].png"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_lists_paths_beside_it(folder: Path, kind: str) -> None:
    rows = pd.DataFrame({"label": [1, 2, 3], "file_name": ["b.png", str(folder / "a.PNG"), "more/c.png"]})
    table = folder / f"list.{kind}"
    if kind == "parquet":
        rows.to_parquet(table)
    elif kind == "csv":
        rows.to_csv(table, index=False)
    else:
        rows.to_json(table, orient="records", lines=True)
    assert names(str(table)) == ["b.png", "a.PNG", "c.png"]
    assert all(one.read() for one in find_images([str(table)]))


def test_a_table_without_such_a_column_or_a_path_is_told(folder: Path) -> None:
    (folder / "list.csv").write_text("x,y\n1,2\n")
    (source,) = find_images([str(folder / "list.csv")])
    with pytest.raises(UserError, match="no image column; name it 'path' or"):
        source.read()
    (folder / "list.jsonl").write_text('{"path": "b.png"}\n{"path": 3}\n')
    good, bad = find_images([str(folder / "list.jsonl")])
    assert good.read() and bad.name.endswith("list.jsonl, row 2")
    with pytest.raises(UserError, match="path is not a path: 3"):
        bad.read()


def test_shards_of_ours_and_of_others(folder: Path) -> None:
    write_set(str(folder / "set"), classes=3, rounds=2)
    found = names(str(folder / "set"))
    assert len(found) == 6 and found[0] == "000000000.jpg"
    with tarfile.open(folder / "other.tar", "w") as tar:
        for name in ("x/1.png", "x/1.json", "x/2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(content := (folder / "b.png").read_bytes())
            tar.addfile(info, io.BytesIO(content))
    one, two = find_images([str(folder / "other.tar")])
    assert one.name.endswith("other.tar/x/1.png") and two.read() == (folder / "b.png").read_bytes()


@pytest.mark.fault
def test_what_is_missing_or_damaged_is_a_source_that_refuses_and_the_others_go_on(folder: Path) -> None:
    write_set(str(folder / "a_set"), classes=2, rounds=2)
    shard = next((folder / "a_set").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:1800])
    (folder / "loop").symlink_to(folder)
    found = list(find_images(["gone.png", "gone/*.png", str(folder / "gone.csv"), "", str(folder), f"{folder}/*"]))
    reasons = [reason for source in found if (reason := refused(source)) is not None]
    for word in ("gone.png", "matches", "gone.csv", "name is empty", "damaged tar"):
        assert any(word in one for one in reasons), (word, reasons)
    read = [Path(source.name).name for source in found if refused(source) is None]
    assert [name for name in read if name.endswith(("png", "PNG"))] == ["a.PNG", "b.png", "c.png", "a.PNG", "b.png"]


def refused(source: Source) -> str | None:
    """How an image is refused; None where it can be read."""
    try:
        source.read()
    except UserError as error:
        return str(error)
    return None


def test_a_file_needs_no_ending(folder: Path) -> None:
    (folder / "photo").write_bytes((folder / "b.png").read_bytes())
    (source,) = find_images([str(folder / "photo")])
    assert source.read() == (folder / "b.png").read_bytes()


def test_a_file_or_member_of_gigabytes_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_IMAGE", 100)
    write_set(str(folder / "a_set"), classes=1, rounds=1)
    for source in find_images([str(folder / "a_set"), str(folder / "b.png")]):
        assert "too large for an image" in (refused(source) or "")


def test_a_list_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder}/b.png\n\n-\n{folder}/more\n"))
    assert names("-") == ["b.png", "c.png"]


def test_folders_hold_images_of_all_formats_and_other_files_are_counted(folder: Path) -> None:
    for name in ("d.GIF", "e.bmp", "f.tif", "g.tiff", "h.jfif", "i.heic", "j.heic", "k.csv", "Makefile"):
        (folder / name).write_bytes(b"?")
    skipped = Counter[str]()
    found = [Path(one.name).name for one in find_images([str(folder)], skipped)]
    assert found == ["a.PNG", "b.png", "d.GIF", "e.bmp", "f.tif", "g.tiff", "h.jfif", "c.png"]
    assert skipped == {".heic": 2, ".csv": 1, "no extension": 1, ".txt": 1}


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard", "symbolic"])
def test_links_in_a_tar_are_images_too(folder: Path, kind: bytes) -> None:
    content = (folder / "b.png").read_bytes()
    with tarfile.open(folder / "l.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        for name, target in {"b.png": "a.png", "c.png": "gone.png", "d.txt": "a.png", "e.heic": "a.png"}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    skipped = Counter[str]()
    first, linked, broken = find_images([str(folder / "l.tar")], skipped)
    assert first.read() == linked.read() == content and linked.name.endswith("l.tar/b.png")
    assert "a link to a file that is not in the tar" in (refused(broken) or "")
    assert skipped == {".heic": 1}


@pytest.mark.parametrize("target", [".", "loop", "..", "more"])
def test_a_link_to_a_folder_hides_no_image_and_none_comes_twice(folder: Path, target: str) -> None:
    (folder / "loop").symlink_to(target)
    (folder / "more" / "up").symlink_to("..")
    found = names(str(folder))
    assert [name for name in found if name.lower().endswith("png")] == ["a.PNG", "b.png", "c.png"]


def test_each_folder_is_listed_once_whatever_the_pattern(folder: Path) -> None:
    for number in range(6):
        (folder / f"link{number}").symlink_to(".")
    assert names(f"{folder}/**/**/**/**/**/**/**/*.png") == ["b.png", "c.png"]
    (missing,) = find_images([f"{folder}/" + "**/" * 60 + "nothing"])
    assert "no image, table or tar matches" in (refused(missing) or "")
    assert names(f"{folder}/link0/link1/*.png") == ["b.png"], "links that a pattern names are followed"
    (folder / ("a" * 100 + ".png")).write_bytes(b"?")
    assert names(f"{folder}/" + "*a" * 40 + "*.png") == ["a" * 100 + ".png"]


@pytest.mark.parametrize(
    "name",
    [
        *("http://[/x.jpg", "http://[::1/x.jpg", "http://host:port/x.jpg", "https:///x.jpg", "s3://", "s3:///x.jpg"),
        *("nonsense://a/b.jpg", "memory://a/b.jpg", "zip://x.jpg", "tar://x.jpg", "reference://x", "filecache://x.jpg"),
        *("dir://x.jpg", "data:image/png;base64,x", "data://x.jpg", "github://x/y.jpg", "generic://x.jpg", "[", "[]"),
        *("a\0b.jpg", "~nobody-has-this-name/x.jpg", "x" * 5000, "/dev/zero", "/dev/null.jpg", "\ud800.jpg", "*" * 300),
    ],
)
def test_an_odd_line_is_a_row_and_the_list_goes_on(name: str, folder: Path) -> None:
    *odd, last = find_images([name, str(folder / "b.png")])
    assert odd and all(refused(one) for one in odd)
    assert last.read() == (folder / "b.png").read_bytes()


class Server(http.server.SimpleHTTPRequestHandler):
    """Refuses /no/, is busy once at /busy/, and else shows the folder."""

    busy = True

    def do_GET(self) -> None:
        if self.path.startswith("/no/"):
            self.send_error(403)
        elif self.path.startswith("/busy/") and Server.busy:
            Server.busy = False
            self.send_error(503)
        else:
            self.path = self.path.removeprefix("/busy")
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The folder on a web server of this machine."""
    Server.busy = True
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_an_image_a_table_or_a_shard(server: str, folder: Path) -> None:
    rows = [{"url": f"{server}/b.png?size=3"}, {"url": f"{server}/gone.png"}, {"url": "more/c.png"}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_set(str(folder / "a_set"), classes=2, rounds=1)
    shard = next((folder / "a_set").glob("*.tar")).name
    (alone,) = find_images([f"{server}/b.png"])
    listed = list(find_images([f"{server}/list.jsonl?token=1"]))
    packed = list(find_images([f"{server}/a_set/{shard}?token=1"]))
    assert alone.read() == listed[0].read() == (folder / "b.png").read_bytes()
    assert "gone.png" in (refused(listed[1]) or "") and refused(listed[2]) is None
    assert len(packed) == 2 and all(refused(one) is None for one in packed)


@pytest.mark.fault
def test_a_servers_refusal_is_a_reason_and_a_busy_one_is_asked_again(
    server: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncclip.storage.retries.PAUSES", (0.01,))
    with Session(options={"endpoint_url": "http://127.0.0.1:1", "key": "a"}):
        forbidden, busy = find_images([f"{server}/no/b.png", f"{server}/busy/b.png"])
        assert "the server returned 403; check the URL" in (refused(forbidden) or "")
        assert busy.read() == (folder / "b.png").read_bytes() and not Server.busy
