"""Images at addresses that others name: nothing of this machine or its network is asked for."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from syncclip.core.settings import UserError
from syncclip.inference.web import fetch

MOST = 1000


class Handler(BaseHTTPRequestHandler):
    """Answers by what the path says."""

    def do_GET(self) -> None:
        asked.append(self.path)
        status, _, count = self.path.strip("/").partition("?")
        self.send_response(int(status))
        self.send_header("location", "http://127.0.0.1/")
        self.end_headers()
        self.wfile.write(bytes(int(count or 0)))

    def log_message(self, *_: object) -> None:
        pass


asked: list[str] = []


@pytest.fixture
def server() -> Iterator[str]:
    asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own address counts as one of the internet."""
    monkeypatch.setattr(ipaddress.IPv4Address, "is_global", True)


def test_this_network_is_not_asked(server: str) -> None:
    for place in (server, server.replace("127.0.0.1", "localhost"), server.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
        with pytest.raises(UserError, match="is not on the public internet"):
            fetch(f"http://{place}/200?10", MOST)
    assert asked == []


def test_a_public_image_is_fetched_up_to_a_size_and_nowhere_else(server: str, public: None) -> None:
    assert fetch(f"http://{server}/200?{MOST}", MOST) == bytes(MOST)
    with pytest.raises(UserError, match=r"more than 1\.0 kB, which is the limit"):
        fetch(f"http://{server}/200?{MOST + 1}", MOST)
    for status in (302, 404, 500):
        with pytest.raises(UserError, match=f"its server answers {status}"):
            fetch(f"http://{server}/{status}", MOST)
    assert asked == [f"/200?{MOST}", f"/200?{MOST + 1}", "/302", "/404", "/500"], "no redirection is followed"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a.png", "a.png", "http://", "", "//x/a.png"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(UserError, match="begins with http:// or https://"):
        fetch(url, MOST)


@pytest.mark.parametrize("url", ["http://[::1/a.png", "http://127.0.0.1:99999/", "http://127.0.0.1/a b\r\nx: y"])
def test_an_address_that_is_none_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match="^url: "):
        fetch(url, MOST)


def test_where_nobody_listens_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(UserError, match="no server answers there"):
        fetch(f"http://127.0.0.1:{port}/a.png", MOST)
