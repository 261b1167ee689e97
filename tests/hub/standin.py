"""A stand-in for the Hub: the requests that huggingface_hub and datasets make to publish a data set and to read it back.

Real commits with parents on branches and pull requests, tags, LFS with verification, tokens and roles; `faults` makes chosen
requests fail, hang or be cut, before or after they took effect. Written from the clients' requests.
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import uvicorn
from hub.repos import LFS, Commit, Fault, Repos, entries, file_entry, oid
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

__all__ = ["Commit", "Fault", "Faulty", "Hub", "Server"]


class Faulty:
    """A server with faults in front of it. `requests`: what was asked; `closing`: what hangs is let go."""

    faults: list[Fault]
    requests: list[str]
    closing: bool

    def inner(self) -> Any:
        """The ASGI application that is right."""
        raise NotImplementedError

    def app(self) -> Any:
        """The ASGI application, with faults in front."""
        inner = self.inner()

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return await inner(scope, receive, send)
            scope = {**scope, "path": scope["raw_path"].decode()}  # a branch's name may hold an encoded slash
            self.requests.append(f"{scope['method']} {scope['path']}")
            for fault in self.faults:
                if fault.times and re.search(fault.match, self.requests[-1]):
                    fault.times -= 1
                    if fault.after:
                        await inner(scope, receive, _nowhere)
                    return await self._fail(fault, scope, receive, send)
            return await inner(scope, receive, send)

        return outer

    async def _fail(self, fault: Fault, scope: Any, receive: Any, send: Any) -> None:
        while fault.hang and not self.closing:
            await asyncio.sleep(0.01)
        if fault.cut:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise ConnectionResetError
        await JSONResponse({"error": fault.words}, fault.status, fault.headers)(scope, receive, send)


@dataclass
class Hub(Faulty, Repos):
    """The state and its requests. `tokens`: token -> (user, may write)."""

    tokens: dict[str, tuple[str, bool]] = field(default_factory=lambda: {"hf_w": ("owner", True), "hf_r": ("reader", False)})
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    closing: bool = False

    def user(self, request: Request, write: bool) -> str:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        if write and not self.tokens[token][1]:
            raise Refused(403, "Forbidden: a write token is needed")
        return self.tokens[token][0]

    def repo(self, request: Request, write: bool = False) -> str:
        self.user(request, write)
        name = f"{request.path_params['ns']}/{request.path_params['name'].removesuffix('.git')}"
        if name not in self.repos or self.kinds.get(name, "datasets") != request.path_params.get("kind", "models"):
            raise Refused(404, "Repository not found", "RepoNotFound")
        return name

    def revision(self, request: Request, repo: str) -> Commit:
        name = unquote(request.path_params.get("rev", "main"))
        if (found := self.at(repo, name)) is None:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return found

    def proposes(self, request: Request) -> bool:
        """Whether it is a pull request that is written to, which readers may."""
        return "create_pr" in request.query_params or unquote(request.path_params["rev"]).startswith("refs/pr/")

    # ---- who, and repositories ----

    async def whoami(self, request: Request) -> Response:
        name = self.user(request, write=False)
        role = "write" if any(user == name and may for user, may in self.tokens.values()) else "read"
        orgs = [{"type": "org", "name": f"{name}-team", "roleInOrg": "write"}]
        return JSONResponse({"type": "user", "name": name, "orgs": orgs, "auth": {"accessToken": {"role": role}}})

    async def auth_check(self, request: Request) -> Response:
        self.repo(request, write=request.url.path.endswith("/write"))
        return JSONResponse({})

    async def create(self, request: Request) -> Response:
        self.user(request, write=True)
        asked = await request.json()
        name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        kind = asked.get("type", "model")
        url = f"{request.base_url}{'' if kind == 'model' else 'datasets/'}{name}"
        if name in self.repos:
            return JSONResponse({"error": f"You already created this {kind} repo", "url": url}, 409)
        self.kinds[name] = f"{kind}s"
        self._commit(name, {".gitattributes": b"*.parquet filter=lfs\n"})
        self.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
        return JSONResponse({"url": url, "name": name, "id": name})

    async def info(self, request: Request) -> Response:
        name = self.repo(request)
        head = self.revision(request, name)
        listed = [{"rfilename": p} for p in sorted(head.files)]
        about = {"id": name, "sha": head.sha, "private": self.private.get(name, True), "siblings": listed}
        return JSONResponse({**about, "tags": [], "downloads": 0, "likes": 0})

    async def tree(self, request: Request) -> Response:
        commit = self.revision(request, self.repo(request))
        folder = unquote(request.path_params.get("path", ""))
        recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
        if folder and not any(p.startswith(f"{folder}/") for p in commit.files):
            raise Refused(404, "Entry not found", "EntryNotFound")
        return JSONResponse(list(entries(commit, folder, recursive)))

    async def paths_info(self, request: Request) -> Response:
        commit = self.revision(request, self.repo(request))
        asked = (await request.form()).getlist("paths")
        return JSONResponse([file_entry(str(p), commit.files[str(p)]) for p in asked if p in commit.files])

    # ---- branches, tags, pull requests ----

    async def refs(self, request: Request) -> Response:
        name = self.repo(request)
        logs = {"main": self.repos[name], **self.branches.get(name, {})}
        heads = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": log[-1].sha} for n, log in logs.items()]
        pulls = [{**h, "ref": h["name"]} for h in heads if h["name"].startswith("refs/pr/")]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in self.tags.get(name, {}).items()]
        branches = [h for h in heads if not h["name"].startswith("refs/pr/")]
        return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": pulls})

    async def branch_(self, request: Request) -> Response:
        repo, name = self.repo(request, write=True), unquote(request.path_params["branch"])
        if request.method == "DELETE":
            if name not in self.branches.get(repo, {}):
                raise Refused(404, "Branch not found", "RevisionNotFound")
            del self.branches[repo][name]
            return JSONResponse({})
        start = self.at(repo, (await request.json()).get("startingPoint", "main"))
        if name == "main" or name in self.branches.get(repo, {}):
            raise Refused(409, "Reference already exists")
        if start is None:
            raise Refused(404, "Invalid rev id", "RevisionNotFound")
        self.branch(repo, name, start)
        return JSONResponse({})

    async def tag(self, request: Request) -> Response:
        repo = self.repo(request, write=True)
        commit, name = self.revision(request, repo), (await request.json())["tag"]
        if name in self.tags.setdefault(repo, {}):
            raise Refused(409, "Tag reference exists already")
        self.tags[repo][name] = commit.sha
        return JSONResponse({})

    async def discussions(self, request: Request) -> Response:
        repo = self.repo(request)
        when, place = "2026-01-01T00:00:00.000Z", {"name": repo, "type": "dataset"}
        listed = [
            {"num": p.num, "title": p.title, "author": {"name": p.author}, "status": p.status, "createdAt": when}
            | {"isPullRequest": True, "repo": place}
            for p in self.pulls.get(repo, [])
        ]
        return JSONResponse({"count": len(listed), "start": 0, "discussions": listed})

    # ---- commits ----

    async def preupload(self, request: Request) -> Response:
        repo = self.repo(request, write=not self.proposes(request))
        files = self.revision(request, repo).files
        modes = [
            {"path": p, "uploadMode": "lfs" if LFS.search(p) else "regular", "shouldIgnore": False}
            | {"oid": oid(p, files[p]) if p in files else None}
            for p in [f["path"] for f in (await request.json())["files"]]
        ]
        return JSONResponse({"files": modes})

    async def batch(self, request: Request) -> Response:
        self.repo(request)
        objects: list[dict[str, Any]] = []
        for asked in (await request.json())["objects"]:
            entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
            if asked["oid"] not in self.blobs:
                entry["actions"] = {"upload": {"href": f"{request.base_url}__lfs/{asked['oid']}", "header": {}}}
            objects.append(entry)
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    async def put(self, request: Request) -> Response:
        data, name = await request.body(), request.path_params["oid"]
        if hashlib.sha256(data).hexdigest() != name:
            raise Refused(400, "sha256 mismatch")
        self.blobs[name] = data
        return Response()

    async def commit(self, request: Request) -> Response:
        asks = "create_pr" in request.query_params
        name, ref = self.repo(request, write=not self.proposes(request)), unquote(request.path_params["rev"])
        start = self.revision(request, name)
        if ref in self.protected and not asks:
            raise Refused(403, f"Forbidden: the branch {ref} is protected")
        files, header = dict(start.files), {}
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    header = value
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.blobs:
                        raise Refused(400, f"The LFS object {value['oid']} does not exist")
                    files[value["path"]] = self.blobs[value["oid"]]
                case "deletedFile":
                    if value["path"] not in files:
                        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                    del files[value["path"]]
        if header.get("parentCommit") not in (None, start.sha):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        answer = {"success": True, "hookOutput": ""}
        if asks:
            pull = self.pull(name, header["summary"], self.user(request, write=False), start)
            ref = f"refs/pr/{pull.num}"
            answer["pullRequestUrl"] = f"{request.base_url}datasets/{name}/discussions/{pull.num}"
        made = self._commit(name, files, ref, header["summary"])
        url = f"{request.base_url}datasets/{name}/commit/{made.sha}"
        return JSONResponse({**answer, "commitOid": made.sha, "commitUrl": url})

    # ---- files ----

    async def resolve(self, request: Request) -> Response:
        commit, path = self.revision(request, self.repo(request)), unquote(request.path_params["path"])
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        data = commit.files[path]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{oid(path, data)}"'}
        if LFS.search(path):
            self.blobs[oid(path, data)] = data
            other = str(request.base_url).replace("127.0.0.1", "localhost")
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid(path, data)}"'}
            return RedirectResponse(f"{other}__blob/{oid(path, data)}", 302, headers | linked)
        return _content(request, data, headers)

    async def blob(self, request: Request) -> Response:
        return _content(request, self.blobs[request.path_params["oid"]], {})

    def inner(self) -> Any:
        return Starlette(routes=self._routes(), exception_handlers={Refused: _refused})

    def _routes(self) -> list[Route]:
        place = "/api/{kind}/{ns}/{name}"
        return [
            Route("/api/whoami-v2", self.whoami),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/validate-yaml", _validate, methods=["POST"]),
            Route(place + "/auth-check", self.auth_check),
            Route(place + "/auth-check/write", self.auth_check),
            Route(place + "/refs", self.refs),
            Route(place + "/branch/{branch}", self.branch_, methods=["POST", "DELETE"]),
            Route(place + "/tag/{rev}", self.tag, methods=["POST"]),
            Route(place + "/discussions", self.discussions),
            Route(place + "/preupload/{rev}", self.preupload, methods=["POST"]),
            Route(place + "/commit/{rev}", self.commit, methods=["POST"]),
            Route(place + "/revision/{rev}", self.info),
            Route(place + "/tree/{rev}", self.tree),
            Route(place + "/tree/{rev}/{path:path}", self.tree),
            Route(place + "/paths-info/{rev}", self.paths_info, methods=["POST"]),
            Route(place, self.info),
            Route("/{kind}/{ns}/{name}/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/{kind}/{ns}/{name}/resolve/{rev}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
            Route("/{ns}/{name}/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/{ns}/{name}/resolve/{rev}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
            Route("/__lfs/{oid}", self.put, methods=["PUT"]),
            Route("/__blob/{oid}", self.blob, methods=["GET", "HEAD"]),
        ]


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
    return JSONResponse({"error": error.message}, error.status, headers)


def _content(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    """The bytes that are asked for."""
    status, wanted = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted and request.method == "GET":
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        status, data = 206, data[first : last + 1]
    size = {"Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
    return Response(b"" if request.method == "HEAD" else data, status, headers | size)


async def _validate(request: Request) -> Response:
    """As the Hub does: a licence that it does not know is refused."""
    content = (await request.json())["content"]
    if "license: a licence of our own" in content:
        errors = [{"message": '"license" must be one of [apache-2.0, mit, ...]'}]
        return JSONResponse({"errors": errors, "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def _nowhere(message: Any) -> None:
    """The answer that is lost."""


class Server:
    """A stand-in on a free port of this machine, for a `with` block."""

    def __init__(self, hub: Faulty) -> None:
        self._hub = hub
        config = uvicorn.Config(hub.app(), host="127.0.0.1", port=0, log_level="critical", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *error: object) -> None:
        self._hub.closing = True  # what hangs is let go
        self._server.should_exit = True
        self._thread.join()
