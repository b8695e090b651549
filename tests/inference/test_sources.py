"""`find_images` for files, folders, patterns, tables, tars, URLs and standard input."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.inference import sources
from syncclip.inference.sources import Source, find_images
from syncclip.shards.images import SkippedFiles
from tests.shards.sets import write_set
from tests.worlds.tables import write_table


def names(*arguments: str) -> list[str]:
    """File names of the images."""
    return [Path(source.name).name for source in find_images(arguments)]


def error_of(source: Source) -> str | None:
    """The error message of an unreadable source, or None."""
    try:
        source.read()
    except UserError as error:
        return str(error)
    return None


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    """Three images, one in a subfolder, beside a text file and a hidden file."""
    for number, path in enumerate(["b.png", "a.PNG", "more/c.png"]):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((images / f"{number:02}.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("nothing to see")
    return tmp_path


def test_files_folders_and_patterns_yield_images_in_order(folder: Path) -> None:
    assert names(str(folder)) == ["a.PNG", "b.png", "c.png"]
    assert names(str(folder / "b.png"), str(folder / "a.PNG")) == ["b.png", "a.PNG"]
    assert names(f"{folder}/*.png") == ["b.png"]
    assert names(f"{folder}/**/*.png") == ["b.png", "c.png"]
    contents = {Path(source.name).name: source.read() for source in find_images([str(folder)])}
    assert contents["b.png"] == (folder / "b.png").read_bytes()


def test_an_existing_file_takes_precedence_over_a_pattern(folder: Path) -> None:
    (folder / "b.png").rename(folder / "[b].png")
    assert names(f"{folder}/[b].png") == ["[b].png"]


def test_a_file_without_an_extension_is_an_image(folder: Path) -> None:
    (folder / "b.png").rename(folder / "photo")
    (source,) = find_images([str(folder / "photo")])
    assert source.read() == (folder / "photo").read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_paths_in_a_table_are_relative_to_it(folder: Path, kind: str) -> None:
    paths = ["b.png", str(folder / "a.PNG"), "more/c.png"]
    table = write_table(folder / f"list.{kind}", [{"label": 1, "file_name": path} for path in paths])
    assert names(str(table)) == ["b.png", "a.PNG", "c.png"]
    assert all(source.read() for source in find_images([str(table)]))


def test_a_table_without_an_image_column_or_path_has_an_error(folder: Path) -> None:
    (folder / "list.csv").write_text("x,y\n1,2\n")
    (source,) = find_images([str(folder / "list.csv")])
    assert "no image column; name the column 'path' or" in str(error_of(source))
    (folder / "list.jsonl").write_text('{"path": "b.png"}\n{"path": 3}\n')
    good, bad = find_images([str(folder / "list.jsonl")])
    assert good.read() and bad.name.endswith("list.jsonl, row 2")
    assert "column 'path' contains no path: 3" in str(error_of(bad))


def write_tar(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_tars_of_syncclip_and_other_tools_yield_their_images(folder: Path) -> None:
    write_set(str(folder / "set"), classes=3, rounds=2)
    found = names(str(folder / "set"))
    assert len(found) == 6 and found[0] == "000000000.jpg"
    content = (folder / "b.png").read_bytes()
    write_tar(folder / "other.tar", dict.fromkeys(("x/1.png", "x/1.json", "x/2.png"), content))
    first, second = find_images([str(folder / "other.tar")])
    assert first.name.endswith("other.tar/x/1.png") and second.read() == content


@pytest.mark.fault
def test_missing_and_damaged_files_become_errors_and_the_search_continues(folder: Path) -> None:
    write_set(str(folder / "a_set"), classes=2, rounds=2)
    shard = next((folder / "a_set").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:1800])
    (folder / "loop").symlink_to(folder)
    found = list(find_images(["gone.png", "gone/*.png", str(folder / "gone.csv"), "", str(folder), f"{folder}/*"]))
    errors = [error for source in found if (error := error_of(source)) is not None]
    for word in ("gone.png", "matches", "gone.csv", "name is empty", "corrupt tar"):
        assert any(word in error for error in errors), (word, errors)
    readable = [Path(source.name).name for source in found if error_of(source) is None]
    assert [name for name in readable if name.endswith(("png", "PNG"))] == ["a.PNG", "b.png", "c.png", "a.PNG", "b.png"]


def test_files_and_members_above_the_size_limit_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_IMAGE_BYTES", 100)
    write_set(str(folder / "a_set"), classes=1, rounds=1)
    for source in find_images([str(folder / "a_set"), str(folder / "b.png")]):
        assert "too large for an image" in str(error_of(source))


def test_standard_input_lists_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder}/b.png\n\n-\n{folder}/more\n"))
    assert names("-") == ["b.png", "c.png"]


def test_other_files_in_a_folder_are_counted_by_extension(folder: Path) -> None:
    for name in ("d.GIF", "e.bmp", "f.tif", "g.tiff", "h.jfif", "i.heic", "j.heic", "k.csv", "Makefile"):
        (folder / name).write_bytes(b"?")
    skipped = SkippedFiles()
    found = [Path(source.name).name for source in find_images([str(folder)], skipped)]
    assert found == ["a.PNG", "b.png", "d.GIF", "e.bmp", "f.tif", "g.tiff", "h.jfif", "c.png"]
    assert skipped.counts == {".heic": 2, ".csv": 1, "no extension": 1, ".txt": 1}


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard", "symbolic"])
def test_links_in_a_tar_are_followed(folder: Path, kind: bytes) -> None:
    content = (folder / "b.png").read_bytes()
    write_tar(folder / "l.tar", {"a.png": content})
    with tarfile.open(folder / "l.tar", "a") as tar:
        for name, target in {"b.png": "a.png", "c.png": "gone.png", "d.txt": "a.png", "e.heic": "a.png"}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    skipped = SkippedFiles()
    first, linked, broken = find_images([str(folder / "l.tar")], skipped)
    assert first.read() == linked.read() == content and linked.name.endswith("l.tar/b.png")
    assert "a link to a file that is not in the tar" in str(error_of(broken))
    assert skipped.counts == {".heic": 1}


@pytest.mark.parametrize("target", [".", "loop", "..", "more"])
def test_links_to_folders_yield_each_image_once(folder: Path, target: str) -> None:
    (folder / "loop").symlink_to(target)
    (folder / "more" / "up").symlink_to("..")
    assert [name for name in names(str(folder)) if name.lower().endswith("png")] == ["a.PNG", "b.png", "c.png"]


def test_a_pattern_lists_each_folder_once(folder: Path) -> None:
    for number in range(6):
        (folder / f"link{number}").symlink_to(".")
    assert names(f"{folder}/**/**/**/**/**/**/**/*.png") == ["b.png", "c.png"]
    (missing,) = find_images([f"{folder}/" + "**/" * 60 + "nothing"])
    assert "no image, table or tar matches" in str(error_of(missing))
    assert names(f"{folder}/link0/link1/*.png") == ["b.png"], "links without wildcards are followed"
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
def test_an_invalid_name_becomes_an_error_and_the_search_continues(name: str, folder: Path) -> None:
    *invalid, last = find_images([name, str(folder / "b.png")])
    assert invalid and all(error_of(source) for source in invalid)
    assert last.read() == (folder / "b.png").read_bytes()


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves the folder; responds 403 below /no/, and 503 to the first request below /busy/."""

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
    """URL of a local web server for the folder."""
    Server.busy = True
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_an_image_a_table_or_a_tar(server: str, folder: Path) -> None:
    rows = [{"url": f"{server}/b.png?size=3"}, {"url": f"{server}/gone.png"}, {"url": "more/c.png"}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_set(str(folder / "a_set"), classes=2, rounds=1)
    shard = next((folder / "a_set").glob("*.tar")).name
    (image,) = find_images([f"{server}/b.png"])
    listed = list(find_images([f"{server}/list.jsonl?token=1"]))
    members = list(find_images([f"{server}/a_set/{shard}?token=1"]))
    assert image.read() == listed[0].read() == (folder / "b.png").read_bytes()
    assert "gone.png" in str(error_of(listed[1])) and error_of(listed[2]) is None
    assert len(members) == 2 and all(error_of(source) is None for source in members)


@pytest.mark.fault
def test_a_403_is_an_error_and_a_503_is_retried(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.storage.retries.PAUSES", (0.01,))
    with Session(options={"endpoint_url": "http://127.0.0.1:1", "key": "a"}):
        forbidden, busy = find_images([f"{server}/no/b.png", f"{server}/busy/b.png"])
        assert "returned 403" in str(error_of(forbidden))
        assert busy.read() == (folder / "b.png").read_bytes() and not Server.busy
