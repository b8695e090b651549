"""Unusual and hostile inputs of `classify`: each gives rows, and later inputs are processed, in bounded resources."""

from __future__ import annotations

import http.server
import io
import multiprocessing
import os
import resource
import struct
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.inference.sources import find_images
from syncclip.shards.images import decode_image
from tests.datasets.test_tables import write_repeated
from tests.shards.test_untrusted_tars import header
from tests.worlds.dataset import encoded, make_image

pytestmark = [pytest.mark.attack, pytest.mark.fault]

MAX_CPU_SECONDS, MAX_BYTES, TIMEOUT_SECONDS = 5.0, 500 << 20, 60.0
"""Limits of an input other than the folder of all `IMAGES`: CPU seconds, additional memory in bytes, and wall-clock
seconds."""

SCHEMES = [f"{scheme}://odd.invalid/x.jpg" for scheme in sorted(fsspec.available_protocols()) if scheme != "file"]

URLS = [
    *("http://[/x.jpg", "http://[::1/x.jpg", "http://127.0.0.1:99999/x.jpg", "http://127.0.0.1:port/x.jpg", "http://"),
    *("https:///x.jpg", "http://127.0.0.1:9/x.jpg", "http://\u2100.invalid/x.jpg", "http://a b/x.jpg", "s3://"),
    *("s3:///x", "s3://a/../b.jpg", "nonsense://a/b.jpg", "://x.jpg", "file://x.jpg", "file:///", "hf://a/b/x.jpg"),
    "http://%zz/x.jpg",
    *("zip://x.jpg::http://[", "simplecache::http://[/x.jpg", "data:image/png;base64,x", "http://127.0.0.1:9/*.jpg"),
]

NAMES = [
    *("", " ", "~", "~unknown-user/x.jpg", "a\0b.jpg", "\ud800.jpg", "x" * 5000, "x/" * 3000 + "x.jpg", "/dev/zero"),
    *("/dev/null", "/dev/random", "/proc/kcore", "/proc/self/mem", "/proc/kmsg", "--trust=a:B", "\x1b[2J.jpg"),
]

GLOBS = [
    *("**/**/**/nothing", "**/" * 60 + "nothing", "*" * 300, "[", "[!", "[]", "[a-", "a[\0]*", "*/../*", "?" * 255),
    *("links/" + "*/" * 12 + "x.png", "links/**/**/*.png", "*a" * 60 + "*", "deep/**/nothing.png", "s3://*/x"),
    "deep/**",
]


def png(width: int, height: int, rows: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cyclic_tiff() -> bytes:
    """A TIFF whose only directory refers to itself as the next one."""
    data = bytearray(saved(Image.new("L", (4, 4)), "TIFF"))
    first = int.from_bytes(data[4:8], "little")
    last = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[last : last + 4] = data[4:8]
    return bytes(data)


SIDE = 7000
IMAGES: dict[str, Callable[[], bytes]] = {
    "wide.png": lambda: png(30_000, 30_000),
    "line.png": lambda: png(50_000_000, 1),
    "none.png": lambda: png(0, 0),
    "zeros.png": lambda: png(SIDE, SIDE, bytes((3 * SIDE + 1) * SIDE)),
    "alpha.png": lambda: png(SIDE, SIDE, bytes((4 * SIDE + 1) * SIDE), colour=6),
    "grey16.png": lambda: png(SIDE, SIDE, bytes((2 * SIDE + 1) * SIDE), depth=16, colour=0),
    "more.png": lambda: png(4, 4, bytes(100_000_000)),
    "frames.gif": lambda: saved(
        Image.new("P", (9, 9)), "GIF", save_all=True, append_images=[Image.new("P", (9, 9), 1)] * 500
    ),
    "circle.tif": cyclic_tiff,
    "float.tif": lambda: saved(Image.new("F", (4, 4)), "TIFF"),
    "large.tif": lambda: saved(Image.new("CMYK", (SIDE, SIDE)), "TIFF", compression="tiff_adobe_deflate"),
    "lying.bmp": lambda: (
        saved(Image.new("L", (4, 4)), "BMP")[:18] + struct.pack("<ii", 2**31 - 1, -(2**31)) + bytes(900)
    ),
    "script.jpg": lambda: b"%!PS\n{ } loop",
    "page.svg.png": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "exif.jpg": lambda: saved(
        Image.new("L", (4, 4)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 60_000
    ),
    "text.png": lambda: saved(Image.new("L", (4, 4)), "PNG", exif=bytes(1_000_000)),
}


def write_tables(folder: Path) -> None:
    write_repeated(folder / "dictionary.parquet", 10_000, "a" * 1_000_000)
    write_repeated(folder / "rows.parquet", 20_000_000, "a.png")
    write_repeated(folder / "compressed.parquet", 1, "a" * 400_000_000)
    write_repeated(folder / "categories.parquet", 90_000, "gone.png")
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "magic.parquet").write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    (folder / "wide.csv").write_text("path," + "a," * 100_000 + "\n" + "x\n" * 5_000)
    (folder / "zero.csv").write_bytes(b"path\n\0\n")
    (folder / "long.csv").write_text("path\n" + "x" * 10_000_000)
    (folder / "quote.csv").write_text('path\n"a\n' * 1_000)
    (folder / "deep.jsonl").write_text('{"path": ' + "[" * 100_000)
    (folder / "bytes.jsonl").write_bytes(b"\xff\xfe\x00" * 100)
    (folder / "keys.jsonl").write_text('{"path": 1}\n[]\nnull\n{"path": {}}\n')
    (folder / "itself.csv").write_text("path\nitself.csv\n../*/*.png\n-\n\n")


def write_tars(folder: Path) -> None:
    def write(name: str, members: dict[str, tuple[bytes, str, bytes]]) -> None:
        with tarfile.open(folder / name, "w") as tar:
            for path, (kind, target, content) in members.items():
                info = tarfile.TarInfo(path)
                info.type, info.linkname, info.size = kind, target, len(content)
                tar.addfile(info, io.BytesIO(content))

    hard, soft, file = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.REGTYPE
    write("circle.tar", {"a.png": (hard, "b.png", b""), "b.png": (soft, "a.png", b"")})
    write("outside.tar", {"a.png": (soft, "/etc/passwd", b""), "../../b.png": (file, "", b"?")})
    write("links.tar", {"0.png": (file, "", b"?")} | {f"{n}.png": (hard, f"{n - 1}.png", b"") for n in range(1, 800)})
    write("many.tar", {f"{number}.txt": (file, "", b"") for number in range(20_000)})
    (folder / "huge.tar").write_bytes(header("a.png", 6 << 30))
    (folder / "less.tar").write_bytes(header("a.png", -512))
    (folder / "names.tar").write_bytes(header("a", 1 << 33, b"L"))
    (folder / "chain.tar").write_bytes(header("a", 0, b"x") * 5_000)
    (folder / "none.tar").write_bytes(b"")
    with tarfile.open(folder / "zipped.tar", "w:gz") as tar:
        tar.add(folder / "none.tar", "a.png")
    with (folder / "sparse.tar").open("wb") as written:
        written.write(header("a.png", 700 << 20))
        written.truncate(701 << 20)


def write_folders(folder: Path) -> None:
    (folder / "itself").mkdir()
    (folder / "itself" / "itself").symlink_to("itself")
    (folder / "itself" / "here").symlink_to(".")
    (folder / "itself" / "up").symlink_to("..")
    (folder / "itself" / "x.png").write_bytes(encoded(make_image(0, 0), "PNG"))
    for source in range(9):
        (folder / "links" / str(source)).mkdir(parents=True)
        (folder / "links" / str(source) / "x.png").write_bytes(encoded(make_image(0, source), "PNG"))
        for target in range(9):
            (folder / "links" / str(source) / f"to{target}").symlink_to(f"../{target}")
    deep = folder / "deep"
    for _ in range(300):
        deep /= "a"
    deep.mkdir(parents=True)
    (folder / "queue").mkdir()
    os.mkfifo(folder / "queue" / "x.png")
    (folder / "queue" / "gone.png").symlink_to("nowhere.png")
    (folder / "queue" / "zero.png").symlink_to("/dev/zero")
    (folder / "queue" / "folder.png").mkdir()
    (folder / "sparse").mkdir()
    with (folder / "sparse" / "x.jpg").open("wb") as file:
        file.truncate(50 << 30)
    (folder / "nothing").mkdir()


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends zeros until the client disconnects, or endless redirects."""

    def do_GET(self) -> None:
        self.send_response(302 if "around" in self.path else 200)
        if "around" in self.path:
            self.send_header("location", self.path)
        self.end_headers()
        if "around" not in self.path:
            try:
                while True:
                    self.wfile.write(bytes(1 << 20))
            except OSError:
                pass

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All input files, and a valid image."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "good.png").write_bytes(encoded(make_image(1, 1), "PNG"))
    (folder / "images").mkdir()
    for name, make in IMAGES.items():
        (folder / "images" / name).write_bytes(make())
    for write in (write_tables, write_tars, write_folders):
        write(folder)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def examine(name: str, folder: Path, connection: Any) -> None:
    """Send number of rows, whether the next input was read, CPU seconds and bytes; runs in a process of its own."""

    def usage() -> tuple[float, int]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, used.ru_maxrss << 10

    os.chdir(folder)
    (seconds, size), rows, last = usage(), 0, ""
    for source in find_images([name, "good.png"]):
        rows, last = rows + 1, ""
        try:
            decode_image(source.read(), source.name).resize((224, 224))
            last = source.name
        except UserError:
            pass
    after = usage()
    connection.send((rows, last == "good.png", after[0] - seconds, after[1] - size))


def problem(name: str, folder: Path, cpu_seconds: float = MAX_CPU_SECONDS) -> tuple[str, float]:
    """The problem of an input, or "", and the CPU seconds used."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=examine, args=(name, folder, sender))
    start = time.monotonic()
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT_SECONDS):
            return "hangs", TIMEOUT_SECONDS
        rows, continued, seconds, size = receiver.recv()
    except EOFError:
        return "ends the command", 0
    finally:
        process.kill()
        process.join()
    print(f"{name[:60]!r}: {rows} rows, {seconds:.1f} s, {time.monotonic() - start:.1f} s in all, {size >> 20} MB")
    if rows < 1 or not continued:
        return "skips the next input", seconds
    text = f"{seconds:.1f} s" if seconds > cpu_seconds else f"{size >> 20} MB" if size > MAX_BYTES else ""
    return text, seconds


def check(names: list[str], folder: Path) -> None:
    assert {name[:80]: text for name in names if (text := problem(name, folder)[0])} == {}


GROUPS: dict[str, list[str]] = {
    "schemes": SCHEMES,
    "urls": URLS,
    "names": NAMES,
    "patterns": GLOBS,
    "images": [f"images/{name}" for name in IMAGES],
    "folders": ["itself", "itself/itself", "links", "deep", "queue", "sparse", "nothing"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_inputs_give_rows_and_do_not_end_the_command(group: str, folder: Path) -> None:
    check(GROUPS[group], folder)


def test_a_folder_of_images_costs_no_more_than_its_images(folder: Path) -> None:
    outcomes = [problem(f"images/{name}", folder) for name in IMAGES]
    assert {text for text, _ in outcomes} == {""}
    text, _ = problem("images", folder, 1 + 1.5 * sum(seconds for _, seconds in outcomes))
    assert text == ""


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl", ".tar"])
def test_so_do_tables_and_tars(ending: str, folder: Path) -> None:
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix == ending]
    assert len(names) >= 3
    check(names, folder)


@pytest.mark.parametrize("path", ["x.jpg", "around.jpg", "x.csv", "x.tar"])
def test_so_do_endless_responses(path: str, server: str, folder: Path) -> None:
    check([f"{server}/{path}"], folder)
