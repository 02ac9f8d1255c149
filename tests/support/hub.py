"""A hub on loopback that speaks the hub's protocol to its real clients, and a process that runs commands against it.

It holds repositories with commits, branches and tags, keeps large files on a second server as the hub does (signed
addresses that take no token), and fails where a test asks it to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

PAGE = 3
"""Files on a page of a tree, so that clients have to follow the next one; the real hub gives 1000."""
LARGE = (".safetensors", ".bin", ".parquet", ".gguf")
Files = Mapping[str, bytes]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of a folder's files by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Repo:
    """A repository: its commits, and what its branches and tags name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: Files, ref: str = "main") -> str:
        """Put a commit with these files on a branch."""
        names = json.dumps([self.refs.get(ref), sorted((path, blob_id(text)) for path, text in files.items())])
        sha = hashlib.sha1(names.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with requests for a path: a status, or a body of which only so many bytes arrive.

    The connection then closes: in the middle of the body, with a reset, or as if the body had ended there.
    """

    path: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    reset: bool = False
    closed: bool = False
    times: int = 1


@dataclass
class Hub:
    """The hub's state, its two servers, and what was asked of them.

    Attributes:
        tokens: token to the gated and private repositories that it may read.
        writers: token to the owner whose repositories it may write.
        stored: large files that were uploaded and are in no commit yet, by SHA-256.
        moved: old name of a repository to its new one.
        on_request: called with method and path before each answer.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    writers: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    on_request: Any = None
    address: str = ""
    storage: str = ""

    def add(self, name: str, files: Files, ref: str = "main", **options: Any) -> str:
        """Commit files to a repository, ``models/owner/name`` or ``datasets/owner/name``; return the commit."""
        return self.repos.setdefault(name, Repo(**options)).commit(files, ref)

    def asked(self, pattern: str) -> list[tuple[str, str, Mapping[str, str]]]:
        """Requests whose method and path match."""
        return [request for request in self.requests if re.search(pattern, f"{request[0]} {request[1]}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        split = urlsplit(self.path)
        self.path_, self.query = unquote(split.path), {key: text[0] for key, text in parse_qs(split.query).items()}
        self.hub.requests.append((self.command, self.path_, self.headers))
        if self.hub.on_request:
            self.hub.on_request(self.command, self.path_)
        self.fault = next((fault for fault in self.hub.faults if re.search(fault.path, self.whole)), None)
        if self.fault:
            self.fault.times -= 1
            if not self.fault.times:
                self.hub.faults.remove(self.fault)
            if self.fault.status:
                return self.answer(b'{"error": "asked for"}', self.fault.status, self.fault.headers)
        self.respond()

    do_HEAD = do_POST = do_PUT = do_GET

    @property
    def whole(self) -> str:
        return f"{self.command} {self.path_}"

    def respond(self) -> None:
        raise NotImplementedError

    def answer(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer, or the part before it breaks off."""
        fault = self.fault
        length = {} if fault and fault.closed else {"Content-Length": str(len(content))}
        self.send_response(status)
        for name, text in (length | dict(headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and not fault.status:
            self.wfile.write(content[: fault.after])
            self.wfile.flush()
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content)

    def say(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        named = {"X-Error-Code": code} if code else {}
        self.say({"error": message}, status, {**named, "X-Error-Message": message})

    def send_file(self, content: bytes, headers: Mapping[str, str]) -> None:
        """A file, or the part of it that is asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match is None:
            return self.answer(content, 200, headers)
        start, stop = int(match[1]), int(match[2] or len(content) - 1)
        span = f"bytes {start}-{stop}/{len(content)}"
        self.answer(content[start : stop + 1], 206, {**headers, "Content-Range": span})


class _Storage(_Handler):
    """Where large files lie, under signed addresses; as there, a request that also brings a token is refused."""

    def respond(self) -> None:
        if re.match("/v[12]/", self.path_):
            return self._take_chunks()
        if self.headers.get("Authorization"):
            return self.refuse(400, "", "Only one auth mechanism allowed")
        if self.command == "PUT":
            assert f"/{sha256(self.body)}" == self.path_
            self.hub.stored[sha256(self.body)] = self.body
            return self.answer(b"")
        content = next(
            text
            for repo in self.hub.repos.values()
            for files in repo.commits.values()
            for text in files.values()
            if f"/{sha256(text)}" == self.path_
        )
        self.send_file(content, {"ETag": f'"{sha256(content)[:32]}"', "Accept-Ranges": "bytes"})

    def _take_chunks(self) -> None:
        """Xet, by which clients send large files in chunks: all are new here, and none is kept."""
        if self.path_.startswith("/v1/xorbs/"):
            return self.say({"was_inserted": True})
        self.say({"result": 1}, 200 if self.path_ == "/v1/shards" else 404)


class _Api(_Handler):
    """The hub itself."""

    def respond(self) -> None:
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.token and self.token not in {*self.hub.tokens, *self.hub.writers}:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if self.path_ == "/api/repos/create":
            return self._create(json.loads(self.body))
        if self.path_ == "/api/validate-yaml":
            return self._validate(json.loads(self.body)["content"])
        api = re.fullmatch(
            r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info|preupload|commit|xet-write-token)/(.+))?",
            self.path_,
        )
        file = re.fullmatch(r"/(datasets/)?(.+?)(?:/resolve/([^/]+)/(.+)|\.git/info/lfs/objects/batch)", self.path_)
        kind, name = api.groups()[:2] if api else ("models", "")
        if file:
            kind, name = "datasets" if file[1] else "models", file[2]
        if (to := self.hub.moved.get(f"{kind}/{name}")) is not None:
            target = self.path.replace(name, to.partition("/")[2], 1)
            return self.answer(b"", 307, {"Location": target})
        repo, place = self.hub.repos.get(f"{kind}/{name}"), f"{kind}/{name}"
        owns = self.hub.writers.get(self.token) == name.partition("/")[0]
        may_read = owns or place in self.hub.tokens.get(self.token, ())
        if repo is None or (repo.private and not may_read):
            return self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not match")
        if self.command == "POST" and (api is None or api[3] in ("preupload", "commit")):
            if not owns:
                return self.refuse(403, "", "You don't have the rights to create a commit")
            return self._write(repo, api[3] if api else "batch", place)
        if api and api[3] == "xet-write-token" and owns:
            return self.say({"casUrl": self.hub.storage, "exp": int(time.time()) + 900, "accessToken": "chunks"})
        revision = (file[3] if file else (api[4] if api and api[3] else "main")) or "main"
        sha = repo.resolve(revision if file or (api and api[3] == "revision") else revision.split("/")[0])
        if sha is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if file:
            return self._resolve(repo, sha, file[4], may_read)
        assert api is not None
        below = revision.partition("/")[2] if api[3] == "tree" else ""
        {"tree": self._tree, "paths-info": self._paths}.get(api[3], self._info)(repo, sha, name, below)

    def _create(self, asked: dict[str, Any]) -> None:
        name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        if self.hub.writers.get(self.token) != asked["organization"]:
            return self.refuse(403, "", "You don't have the rights to create a repository under this namespace")
        if f"{kind}/{name}" in self.hub.repos:
            return self.refuse(409, "", "You already created this repository")
        private = asked.get("visibility") == "private"
        self.hub.add(f"{kind}/{name}", {".gitattributes": b""}, private=private)
        self.say({"url": f"{self.hub.address}/{'datasets/' if kind == 'datasets' else ''}{name}"})

    def _validate(self, page: str) -> None:
        """As the hub does; that it also wants the base model to be there is the test's."""
        base = _matter(page.encode()).get("base_model")
        wrong = [] if base is None or f"models/{base}" in self.hub.repos else [{"message": f"no such model {base}"}]
        self.say({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def _write(self, repo: Repo, what: str, place: str) -> None:
        if what == "preupload":
            files = [file["path"] for file in json.loads(self.body)["files"]]
            now = repo.commits[repo.refs["main"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in files}
            old = {
                path: sha256(now[path]) if path.endswith(LARGE) else blob_id(now[path]) for path in files if path in now
            }
            answer = [
                {"path": path, "uploadMode": modes[path], "shouldIgnore": False, "oid": old.get(path)} for path in files
            ]
            return self.say({"files": answer})
        if what == "batch":
            objects = json.loads(self.body)["objects"]
            known = {sha256(text) for files in repo.commits.values() for text in files.values()} | {*self.hub.stored}
            for each in objects:
                if each["oid"] not in known:
                    each["actions"] = {"upload": {"href": f"{self.hub.storage}/{each['oid']}"}}
            return self.say({"transfer": "basic", "objects": objects})
        head, *lines = [json.loads(line) for line in self.body.splitlines()]
        if head["value"].get("parentCommit", repo.refs["main"]) != repo.refs["main"]:
            return self.refuse(412, "", "A commit has happened since")
        files = dict(repo.commits[repo.refs["main"]])
        known = {sha256(text): text for commit in repo.commits.values() for text in commit.values()} | self.hub.stored
        for line in lines:
            path = line["value"]["path"]
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "lfsFile":
                # Of a file that came in chunks, what the commit says of it.
                oid, size = line["value"]["oid"], line["value"]["size"]
                files[path] = known.get(oid, f"{oid} {size}".encode())
            else:
                files[path] = base64.b64decode(line["value"]["content"])
        sha = repo.commit(files)
        url = f"{self.hub.address}/{place.removeprefix('models/')}/commit/{sha}"
        self.say({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _info(self, repo: Repo, sha: str, name: str, below: str) -> None:
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        access = {"private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False}
        card = {"cardData": _matter(repo.commits[sha].get("README.md", b""))}
        self.say({"id": name, "_id": "1", "sha": sha, "siblings": siblings, "tags": [], "downloads": 0} | access | card)

    def _tree(self, repo: Repo, sha: str, name: str, below: str) -> None:
        entries = _entries(repo.commits[sha], below, self.query.get("recursive", "").lower() == "true")
        if below and not entries:
            return self.refuse(404, "EntryNotFound", "Entry not match")
        start = int(self.query.get("cursor") or 0)
        query = "&".join(f"{key}={text}" for key, text in self.query.items() if key != "cursor")
        following = f"{self.hub.address}{self.path_}?{query}&cursor={start + PAGE}"
        more = {"Link": f'<{following}>; rel="next"'} if len(entries) > start + PAGE else {}
        self.say(entries[start : start + PAGE], headers=more)

    def _paths(self, repo: Repo, sha: str, name: str, below: str) -> None:
        try:
            asked = json.loads(self.body)["paths"]
        except ValueError:
            asked = parse_qs(self.body.decode())["paths"]
        entries = {entry["path"]: entry for path in ("", *asked) for entry in _entries(repo.commits[sha], path, True)}
        folders = {entry["path"]: entry for entry in _entries(repo.commits[sha], "", False)}
        self.say([(entries | folders)[path] for path in asked if path in entries | folders])

    def _resolve(self, repo: Repo, sha: str, path: str, may_read: bool) -> None:
        if repo.gated and not may_read:
            reason = "Your account has not been granted access" if self.token else "You must be authenticated"
            return self.refuse(
                403 if self.token else 401, "GatedRepo", f"Access to this repository is restricted. {reason}"
            )
        content, commit = repo.commits[sha].get(path), {"X-Repo-Commit": sha}
        if content is None:
            return self.say({}, 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not match", **commit})
        if not path.endswith(LARGE):
            return self.send_file(content, {"ETag": f'"{blob_id(content)}"', "Accept-Ranges": "bytes", **commit})
        place = f"{self.hub.storage}/{sha256(content)}?signature=1"
        linked = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        self.answer(b"", 302, {"Location": place, **linked, **commit})


def _matter(page: bytes) -> dict[str, Any]:
    """The front matter of a card."""
    match = re.match(rb"---\n(.*?)\n---\n", page, re.DOTALL)
    return (yaml.safe_load(match[1]) if match else None) or {}


def _entries(files: Files, below: str, recursive: bool) -> list[dict[str, Any]]:
    """Entries of a tree: files, and folders with no more than their names."""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        if below and path != below and not path.startswith(f"{below}/"):
            continue
        parents = [parent.as_posix() for parent in Path(path).parents if parent.as_posix() not in (".", below)][::-1]
        for folder in parents if recursive else parents[:1]:
            entries[folder] = {"type": "directory", "path": folder, "oid": blob_id(folder.encode()), "size": 0}
        if recursive or not parents:
            entry = {"type": "file", "path": path, "oid": blob_id(content), "size": len(content)}
            pointer = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries[path] = entry | ({"lfs": pointer} if path.endswith(LARGE) else {})
    return list(entries.values())


@contextmanager
def serve() -> Iterator[Hub]:
    """Run an empty hub."""
    hub = Hub()
    servers = []
    for handler in (_Api, _Storage):
        bound = type(handler.__name__, (handler,), {"hub": hub})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), bound))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
    hub.address, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    yield hub
    for server in servers:
        server.shutdown()
        server.server_close()


@dataclass
class Done:
    """What a command left behind: its status, and what it printed."""

    status: int
    out: str
    err: str


_START = """
import json, os, sys
# What takes seconds to import and asks no hub; the hub's clients are imported by each process, from its own variables.
import torch, transformers.modeling_utils, transformers.models.opt.modeling_opt, safetensors, pyarrow.parquet, pandas
import cyclopts, filelock, pydantic.type_adapter, lm_headroom.audit.verify
for name in [name for name in sys.modules if name.split(".")[0] in ("huggingface_hub", "datasets")]:
    del sys.modules[name]
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        os.environ.update(job["variables"])
        os.chdir(job["folder"])
        for number, place in ((1, job["out"]), (2, job["err"])):
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        try:
            if job["code"]:
                exec(job["code"])
            from lm_headroom.cli import main
            status = 0 if job["code"] else main(job["arguments"])
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs each command in a process of its own, forked from one that has imported torch."""

    def __init__(self) -> None:
        # A command that ran in this process may have told it that there is no hub.
        others = ("HF_", "HUGGING_FACE", "TRANSFORMERS_")
        kept = {key: text for key, text in os.environ.items() if not key.startswith(others)}
        quiet = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept | quiet
        )

    def run(self, folder: Path, variables: Mapping[str, str], arguments: Sequence[object]) -> Done:
        """Run a command of ``lm-headroom`` in a folder, with environment variables."""
        return self._run(folder, variables, {"arguments": list(map(str, arguments)), "code": ""})

    def python(self, folder: Path, variables: Mapping[str, str], code: str) -> Done:
        """Run lines of Python in the same way."""
        return self._run(folder, variables, {"code": code})

    def _run(self, folder: Path, variables: Mapping[str, str], what: Mapping[str, object]) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        streams = [folder / f"std{name}.txt" for name in ("out", "err")]
        job = {"folder": str(folder), "variables": dict(variables), **what}
        print(json.dumps(job | {"out": str(streams[0]), "err": str(streams[1])}), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        return Done(status, *(stream.read_text() for stream in streams))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Site:
    """A user's folder with a cache of the hub, which one command keeps for the next; ``settings`` are variables."""

    folder: Path
    hub: Hub
    commands: Commands
    settings: ClassVar[dict[str, str]] = {}

    def run(self, *arguments: object, **variables: str) -> Done:
        """Run a command here."""
        home = {"HF_ENDPOINT": self.hub.address, "HF_HOME": str(self.folder / "home")}
        return self.commands.run(self.folder, {**home, **self.settings, **variables}, arguments)


def run_commands() -> Iterator[Commands]:
    """A fixture's commands, closed after the tests."""
    running = Commands()
    yield running
    running.close()
