"""A W&B server of the few answers that its client needs; it can fail as real ones do."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Answers as W&B does while ``status`` says 200 for a path and a body.

    Attributes:
        status: The HTTP status for each request.
        seen: Paths of the requests, the operation's name for GraphQL.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status: Callable[[str], int] = lambda path: 200
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def die(self) -> None:
        """Close the port: from now on connections are refused."""
        if self._thread.is_alive():
            self.status = lambda path: 503  # also on connections that are open
            self.shutdown()
            self.server_close()
            self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        name, content = self.path, {}
        if self.path == "/graphql":
            asked = json.loads(body)
            name = asked.get("operationName") or asked["query"]
            content = _graphql(name, asked.get("variables") or {}, self.server.url)
        self.server.seen.append(name)
        status = self.server.status(name)
        text = json.dumps(content if status == 200 else {"errors": [{"message": "no"}]}).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815


def _graphql(name: str, variables: dict[str, Any], url: str) -> dict[str, Any]:
    if name == "Viewer":
        viewer = {
            "id": "u",
            "entity": "me",
            "username": "me",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"data": {"viewer": viewer}}
    if name == "UpsertBucket":
        project = {"id": "p", "name": "thinet", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": variables.get("name") or "r", "displayName": "r",
                  "config": "{}", "historyLineCount": 0, "project": project}  # fmt: skip
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
    if name == "CreateRunFiles":
        files = [{"name": one, "uploadUrl": f"{url}/upload/{one}"} for one in variables["files"]]
        made = {"runID": "b", "uploadHeaders": [], "files": files}
        return {"data": {"createRunFiles": made}}
    if "ArtifactType(" in name:
        return {"data": {"project": None}}
    if name == "CreateArtifact":
        sequence = {"id": "s", "latestArtifact": None}
        made = {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
        return {"data": {"createArtifact": {"artifact": made}}}
    if name == "ServerFeaturesQuery":
        return {"data": {"serverInfo": {"features": []}}}
    return {"data": {}}


@contextlib.contextmanager
def serving() -> Iterator[WandbServer]:
    server = WandbServer()
    try:
        yield server
    finally:
        server.die()
