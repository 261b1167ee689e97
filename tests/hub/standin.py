"""A stand-in for the Hub: the requests that huggingface_hub makes to publish a data set and to read it back.

Real commits with parents, LFS with verification, tokens and roles; `faults` makes chosen requests fail, before or
after they took effect. Written from the client's requests.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

LFS = re.compile(r"\.(parquet|safetensors|bin|arrow)$")


@dataclass
class Fault:
    """Requests whose path matches fail `times` times with `status`; `after`: the request takes effect first."""

    match: str
    status: int
    times: int = 1
    after: bool = False


@dataclass
class Commit:
    sha: str
    parent: str | None
    files: dict[str, bytes]


@dataclass
class Hub:
    """The state, open to tests. `tokens`: token -> (user, may write)."""

    tokens: dict[str, tuple[str, bool]] = field(default_factory=lambda: {"hf_w": ("owner", True), "hf_r": ("reader", False)})
    repos: dict[str, list[Commit]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def head(self, repo: str) -> Commit:
        return self.repos[repo][-1]

    def push(self, repo: str, files: dict[str, bytes]) -> Commit:
        """Somebody else's commit."""
        return self._commit(repo, {**self.head(repo).files, **files})

    def _commit(self, repo: str, files: dict[str, bytes]) -> Commit:
        log = self.repos.setdefault(repo, [])
        parent = log[-1].sha if log else None
        digest = hashlib.sha1(
            repr((parent, len(log), sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items()))).encode()
        )
        log.append(Commit(digest.hexdigest(), parent, files))
        return log[-1]

    # ---- requests ----

    def user(self, request: Request, write: bool) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            raise Refused(401, "Invalid credentials")
        if write and not self.tokens[token][1]:
            raise Refused(403, "Forbidden: a write token is needed")

    def repo(self, request: Request, write: bool = False) -> str:
        self.user(request, write)
        name = f"{request.path_params['ns']}/{request.path_params['name'].removesuffix('.git')}"
        if name not in self.repos:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return name

    async def create(self, request: Request) -> Response:
        self.user(request, write=True)
        asked = await request.json()
        name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        url = f"{request.base_url}datasets/{name}"
        if name in self.repos:
            return JSONResponse({"error": "You already created this dataset repo", "url": url}, 409)
        self._commit(name, {".gitattributes": b""})
        return JSONResponse({"url": url, "name": name, "id": name})

    async def info(self, request: Request) -> Response:
        name = self.repo(request)
        head = self.head(name)
        listed = [{"rfilename": p} for p in sorted(head.files)]
        return JSONResponse(
            {"id": name, "sha": head.sha, "private": True, "siblings": listed, "tags": [], "downloads": 0, "likes": 0}
        )

    async def tree(self, request: Request) -> Response:
        name = self.repo(request)
        found = [c for c in self.repos[name] if c.sha == request.path_params["rev"]]
        if not found:
            raise Refused(404, "Invalid rev id", "RevisionNotFound")
        files = sorted(found[0].files.items())
        return JSONResponse([{"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for p, d in files])

    async def preupload(self, request: Request) -> Response:
        self.repo(request, write=True)
        asked = (await request.json())["files"]
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if LFS.search(f["path"]) else "regular", "shouldIgnore": False, "oid": None}
            for f in asked
        ]
        return JSONResponse({"files": modes})

    async def batch(self, request: Request) -> Response:
        self.repo(request, write=True)
        objects: list[dict[str, Any]] = []
        for asked in (await request.json())["objects"]:
            entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
            if asked["oid"] not in self.blobs:
                entry["actions"] = {"upload": {"href": f"{request.base_url}__lfs/{asked['oid']}", "header": {}}}
            objects.append(entry)
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    async def put(self, request: Request) -> Response:
        data, oid = await request.body(), request.path_params["oid"]
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "sha256 mismatch")
        self.blobs[oid] = data
        return Response()

    async def commit(self, request: Request) -> Response:
        name = self.repo(request, write=True)
        files, parent = dict(self.head(name).files), None
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    parent = value.get("parentCommit")
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.blobs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        if parent is not None and parent != self.head(name).sha:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        made = self._commit(name, files)
        url = f"{request.base_url}datasets/{name}/commit/{made.sha}"
        return JSONResponse({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})

    async def resolve(self, request: Request) -> Response:
        name = self.repo(request)
        found = [c for c in self.repos[name] if request.path_params["rev"] in (c.sha, "main")]
        data = found[-1].files.get(request.path_params["path"]) if found else None
        if data is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": found[-1].sha, "ETag": f'"{digest}"'}
        if LFS.search(request.path_params["path"]):
            self.blobs[digest] = data
            other = str(request.base_url).replace("127.0.0.1", "localhost")
            return RedirectResponse(
                f"{other}__blob/{digest}", 302, {**headers, "X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"'}
            )
        return Response(b"" if request.method == "HEAD" else data, headers={**headers, "Content-Length": str(len(data))})

    async def blob(self, request: Request) -> Response:
        return Response(self.blobs[request.path_params["oid"]])

    def app(self) -> Any:
        """The ASGI application, with faults in front."""
        place = "/api/datasets/{ns}/{name}"
        routes = [
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/validate-yaml", _validate, methods=["POST"]),
            Route(place + "/preupload/{rev}", self.preupload, methods=["POST"]),
            Route(place + "/commit/{rev}", self.commit, methods=["POST"]),
            Route(place + "/revision/{rev}", self.info),
            Route(place + "/tree/{rev}", self.tree),
            Route(place, self.info),
            Route("/datasets/{ns}/{name}/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/datasets/{ns}/{name}/resolve/{rev}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
            Route("/__lfs/{oid}", self.put, methods=["PUT"]),
            Route("/__blob/{oid}", self.blob),
        ]
        inner = Starlette(routes=routes, exception_handlers={Refused: _refused})

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return await inner(scope, receive, send)
            self.requests.append(f"{scope['method']} {scope['path']}")
            for fault in self.faults:
                if fault.times and re.search(fault.match, self.requests[-1]):
                    fault.times -= 1
                    if fault.after:
                        await inner(scope, receive, _nowhere)
                    return await Response(b"fault", fault.status)(scope, receive, send)
            return await inner(scope, receive, send)

        return outer


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
    return JSONResponse({"error": error.message}, error.status, headers)


async def _validate(request: Request) -> Response:
    return JSONResponse({"errors": [], "warnings": []})


async def _nowhere(message: Any) -> None:
    """The answer that is lost."""


class Server:
    """The stand-in on a free port of this machine, for a `with` block."""

    def __init__(self, hub: Hub) -> None:
        self._server = uvicorn.Server(uvicorn.Config(hub.app(), host="127.0.0.1", port=0, log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join()
