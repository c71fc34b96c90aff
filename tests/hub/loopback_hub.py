"""As much of a Hugging Face server as one model repository needs, in memory, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Repository:
    """Commits as (oid, files); a file is (content, whether it went over LFS)."""

    def __init__(self):
        self.commits, self.tags, self.blobs, self.requests = [("0" * 40, {})], {}, {}, []

    def at(self, revision):
        oid = self.tags.get(revision, revision)
        return self.commits[-1] if oid in (None, "main") else next(c for c in self.commits if c[0] == oid)

    def commit(self, lines):
        files = dict(self.commits[-1][1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, self.commits[-1][0]):
                return None
            if line["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = (self.blobs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.commits.append(
            (hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest(), files)
        )
        return self.commits[-1][0]


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    repository: Repository
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        self.repository.requests.append((self.command, self.path))

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self):
        content = self.body()
        oid = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(content).hexdigest() == oid
        self.repository.blobs[oid] = content
        self.answer({})

    def do_POST(self):
        body, path, host = self.body(), self.path, f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            self.answer(
                {"url": f"{host}/org/tiny", "id": "org/tiny"}, 409 if self.repository.commits[1:] else 200
            )
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [f["path"] for f in json.loads(body)["files"]]
            modes = {n: "lfs" if n.endswith(".safetensors") else "regular" for n in names}
            self.answer(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            href = [{"upload": {"href": f"{host}/lfs/{o['oid']}", "header": {}}} for o in wanted]
            self.answer({"transfer": "basic", "objects": [{**o, "actions": a} for o, a in zip(wanted, href)]})
        elif "/commit/" in path:
            oid = self.repository.commit([json.loads(line) for line in body.splitlines()])
            if oid is None:
                self.answer({"error": "stale parent"}, 412)
            else:
                self.answer({"success": True, "commitOid": oid, "commitUrl": f"{host}/org/tiny/commit/{oid}"})
        elif "/tag/" in path:
            self.repository.tags[json.loads(body)["tag"]] = path.rsplit("/", 1)[1]
            self.answer({})
        else:
            self.answer({}, 404)

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", "org", "tiny"] and parts[4:5] in ([], ["revision"]):
            oid, files = self.repository.at(parts[5] if parts[4:] else None)
            siblings = [{"rfilename": n} for n in files]
            self.answer({"id": "org/tiny", "sha": oid, "private": True, "tags": [], "siblings": siblings})
        elif parts[4:5] == ["refs"]:
            tags = [
                {"name": t, "ref": f"refs/tags/{t}", "targetCommit": o}
                for t, o in self.repository.tags.items()
            ]
            self.answer({"branches": [], "converts": [], "tags": tags})
        elif parts[4:5] == ["tree"]:
            self.answer([self.entry(n, *f) for n, f in self.repository.at(parts[5])[1].items()])
        elif parts[2:3] == ["resolve"]:
            oid, files = self.repository.at(parts[3])
            content, lfs = files["/".join(parts[4:])]
            etag = hashlib.sha256(content).hexdigest() if lfs else git_oid(content)
            self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=oid)
        else:
            self.answer({}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def entry(self, name, content, lfs):
        entry = {"type": "file", "path": name, "oid": git_oid(content), "size": len(content)}
        if lfs:
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
        return entry


@contextmanager
def serve():
    """(URL, repository) of a running server."""
    repository = Repository()
    handler = type("Bound", (Handler,), {"repository": repository})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repository
    finally:
        server.shutdown()
        server.server_close()
