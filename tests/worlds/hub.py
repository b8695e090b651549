"""A fake Hugging Face Hub with the API that creates, uploads and downloads models.

As without Xet, small files are part of the commit, and safetensors files are uploaded by LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_alice"
OWNER = "alice"
"""User of the token, with write access to their own repositories."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """A model repository: branch -> commit, commit -> files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        """Commit files to a branch; returns the commit."""
        content = json.dumps([len(self.commits), *((name, oid(data)) for name, data in sorted(files.items()))])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def files(self, revision: str = "main") -> Files:
        """Return the files of a branch or commit."""
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Hub:
    """State of the fake Hub; tests may change it."""

    home: Path
    """Cache folder of its users."""
    url: str = ""
    store: str = ""
    """URL of LFS objects, on another port, since the Hub uses another host."""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: Files = field(default_factory=dict)
    """LFS objects by sha256."""
    fetched: list[str] = field(default_factory=list)
    """Names of downloaded files, in order."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses this Hub as the user alice."""
        paths = {"HF_HOME": str(self.home), "HF_HUB_CACHE": str(self.home / "hub"), "NO_PROXY": "127.0.0.1"}
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", **paths}

    @property
    def constants(self) -> dict[str, object]:
        """The same for a process that has already imported `huggingface_hub`."""
        paths = {"HF_HUB_CACHE": str(self.home / "hub"), "HF_TOKEN_PATH": str(self.home / "token")}
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        return {"ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_DISABLE_XET": True, **paths}


def oid(data: bytes) -> str:
    """Return git's object id of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def by_lfs(name: str) -> bool:
    """Whether a file is uploaded by LFS."""
    return name.endswith(".safetensors")


class ErrorResponse(Exception):  # noqa: N818
    """An error response: status and error code."""


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_any(self) -> None:
        """Respond to a request by the route of its path."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        try:
            for pattern, method, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return answer(self, **{key: unquote(value) for key, value in match.groupdict().items()})
            raise ErrorResponse(404, "Unknown")
        except ErrorResponse as error:
            status, code = error.args
            self.answer({"error": code}, status, {"X-Error-Code": code})

    do_GET = do_HEAD = do_POST = do_PUT = do_any  # noqa: N815

    def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, repo: str, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and not self.authorised):
            raise ErrorResponse(404 if self.authorised else 401, "RepoNotFound")
        if write and not (self.authorised and repo.startswith(f"{OWNER}/")):
            raise ErrorResponse(403, "Forbidden")
        return repository

    def revision(self, repo: str, rev: str) -> tuple[str, Files]:
        repository = self.repository(repo)
        sha = repository.branches.get(rev, rev)
        if sha not in repository.commits:
            raise ErrorResponse(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    def create(self) -> None:
        request = json.loads(self.body)
        repo = f"{request['organization']}/{request['name']}"
        if not self.authorised:
            raise ErrorResponse(401, "Unauthorized")
        if request["organization"] != OWNER:
            raise ErrorResponse(403, "Forbidden")
        url = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repositories:
            return self.answer({"error": "You already created this model repo", **url}, 409)
        private = request.get("visibility") == "private" or bool(request.get("private"))
        self.hub.repositories[repo] = Repository(private)
        self.hub.repositories[repo].commit(
            "main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        )
        return self.answer(url)

    def validate(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def info(self, repo: str, rev: str = "main") -> None:
        sha, files = self.revision(repo, rev)
        siblings = [{"rfilename": name} for name in files]
        private = self.hub.repositories[repo].private
        self.answer({"id": repo, "modelId": repo, "sha": sha, "private": private, "siblings": siblings, "tags": []})

    def tree(self, repo: str, rev: str) -> None:
        _, files = self.revision(repo, rev)
        entries = []
        for name, data in files.items():
            entry = {"type": "file", "path": name, "size": len(data), "oid": oid(data)}
            if by_lfs(name):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
            entries.append(entry)
        self.answer(entries)

    def branch(self, repo: str, rev: str) -> None:
        branches = self.repository(repo, write=True).branches
        if rev in branches:
            raise ErrorResponse(409, "Conflict")
        branches[rev] = branches["main"]
        self.answer({})

    def preupload(self, repo: str, rev: str) -> None:
        self.repository(repo, write=True)
        _, existing = self.revision(repo, rev)
        names = [file["path"] for file in json.loads(self.body)["files"]]
        ids = {name: hashlib.sha256(data).hexdigest() if by_lfs(name) else oid(data) for name, data in existing.items()}
        modes = {name: "lfs" if by_lfs(name) else "regular" for name in names}
        files = [{"path": n, "uploadMode": m, "shouldIgnore": False, "oid": ids.get(n)} for n, m in modes.items()]
        self.answer({"files": files})

    def batch(self, repo: str) -> None:
        self.repository(repo, write=True)
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.store}/lfs/{entry['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def upload(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise ErrorResponse(400, "BadDigest")
        self.hub.objects[sha256] = self.body
        self.answer(b"")

    def commit(self, repo: str, rev: str) -> None:
        repository = self.repository(repo, write=True)
        files = dict(self.revision(repo, rev)[1])
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif change["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(rev, files)
        self.answer({"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def resolve(self, repo: str, rev: str, name: str) -> None:
        sha, files = self.revision(repo, rev)
        if name not in files:
            raise ErrorResponse(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.fetched.append(name)
        data, commit = files[name], {"X-Repo-Commit": sha}
        if not by_lfs(name):
            return self.answer(data, headers={**commit, "ETag": f'"{oid(data)}"'})
        digest = hashlib.sha256(data).hexdigest()
        self.hub.objects.setdefault(digest, data)
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        return self.answer(b"", 302, {**commit, **linked, "Location": f"{self.hub.store}/lfs/{digest}"})

    def download(self, sha256: str) -> None:
        self.answer(self.hub.objects[sha256])


_REPO, _REV = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<rev>[^/]+)"
ROUTES = (
    ("/api/repos/create", "POST", _Answers.create),
    ("/api/validate-yaml", "POST", _Answers.validate),
    (f"/api/models/{_REPO}", "GET", _Answers.info),
    (f"/api/models/{_REPO}/revision/{_REV}", "GET", _Answers.info),
    (f"/api/models/{_REPO}/tree/{_REV}", "GET", _Answers.tree),
    (f"/api/models/{_REPO}/branch/{_REV}", "POST", _Answers.branch),
    (f"/api/models/{_REPO}/preupload/{_REV}", "POST", _Answers.preupload),
    (f"/api/models/{_REPO}/commit/{_REV}", "POST", _Answers.commit),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", "POST", _Answers.batch),
    (f"/{_REPO}/resolve/{_REV}/(?P<name>.+)", ("GET", "HEAD"), _Answers.resolve),
    ("/lfs/(?P<sha256>[0-9a-f]{64})", "PUT", _Answers.upload),
    ("/lfs/(?P<sha256>[0-9a-f]{64})", ("GET", "HEAD"), _Answers.download),
)


@contextmanager
def serving(home: Path) -> Iterator[Hub]:
    """Run an empty Hub on this machine."""
    hub = Hub(home)
    answers = type("Answers", (_Answers,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), answers) for _ in range(2)]
    hub.url, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
