"""A W&B server as far as our clients speak to one: it answers on 127.0.0.1 and remembers what it was sent.

It proves our payloads, not the service. As a proxy it also notices who wants to go anywhere else.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

ENTITY = "someone"
KEY = "0" * 40
Mood = Literal["kind", "broken", "silent"]  # answers; says 500 to everything; never answers


@dataclass
class Stub:
    """The server and what came in. `asked` are (variables, query) of GraphQL; `streamed` lines of history,
    summary and the like, by run; `uploads` the other bodies by path; `strangers` other hosts that somebody
    wanted to reach."""

    url: str = ""
    mood: Mood = "kind"
    projects: set[str] = field(default_factory=set)
    asked: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    streamed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def said(self, word: str) -> list[dict[str, Any]]:
        """The variables of all mutations and queries that hold this word."""
        return [variables for variables, query in self.asked if word in query]

    def runs(self) -> dict[str, dict[str, Any]]:
        """By name: all that was upserted of a run, its configuration as plain values."""
        found: dict[str, dict[str, Any]] = {}
        for variables in self.said("upsertBucket"):
            run = found.setdefault(variables["name"], {})
            run |= {key: value for key, value in variables.items() if value is not None}
            if variables.get("config"):
                config = json.loads(variables["config"])
                run["config"] = {key: item["value"] for key, item in config.items()}
        return found

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows that were logged."""
        return self._lines(run, "wandb-history.jsonl")

    def summary(self, run: str) -> dict[str, Any]:
        return self._lines(run, "wandb-summary.json")[-1]

    def _lines(self, run: str, file: str) -> list[dict[str, Any]]:
        bodies = self.streamed.get(run, [])
        return [
            json.loads(line)
            for body in bodies
            for line in body.get("files", {}).get(file, {}).get("content", [])
        ]

    def views(self, kind: str) -> list[dict[str, Any]]:
        """Saved reports (`runs`) or workspaces (`project-view`), their specification read."""
        views = [variables for variables in self.said("upsertView") if variables["type"] == kind]
        return [{**view, "spec": json.loads(view["spec"])} for view in views]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a GraphQL answer."""
        project = {"id": "P", "internalId": "P", "name": variables.get("projectName") or "ablate"}
        project |= {"entityName": ENTITY, "entity": {"id": "E", "name": ENTITY}}
        if "upsertView" in query:
            view = {
                "id": variables.get("id") or f"Vmlldzo{len(self.asked)}",
                "type": variables["type"],
                "name": variables["name"],
            }
            view |= {"displayName": variables["displayName"], "description": variables["description"]}
            view |= {"project": project, "spec": variables["spec"], "updatedAt": None}
            return {"upsertView": {"view": view, "inserted": True}}
        if "upsertModel" in query:
            self.projects.add(variables["input"]["name"])
            return {"upsertModel": {"project": project, "model": project, "inserted": True}}
        if "upsertBucket" in query:
            bucket = {
                "id": f"B-{variables['name']}",
                "name": variables["name"],
                "displayName": variables["name"],
            }
            bucket |= {"description": "", "config": None, "sweepName": None, "historyLineCount": 0}
            bucket |= {"project": {**project, "name": variables.get("project") or "ablate"}}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}}
        if "createRunFiles" in query:
            files = [
                {"name": name, "displayName": name, "uploadUrl": f"{self.url}/upload/{name}"}
                for name in variables.get("files", [])
            ]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        if "models(" in query:
            page = {"hasNextPage": False, "endCursor": None}
            edges = [
                {
                    "cursor": "",
                    "node": {**project, "name": n, "createdAt": "", "isBenchmark": False, "user": None},
                }
                for n in self.projects
            ]
            return {"models": {"edges": edges, "pageInfo": page}}
        if "viewer" in query:
            return {
                "viewer": {
                    "id": "U",
                    "username": ENTITY,
                    "entity": ENTITY,
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        return {"model": None, "project": None}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20  # of a connection on which nothing comes
    stub: Stub

    def log_message(self, format: str, *args: Any) -> None:
        """Not in the tests' output."""

    def do_CONNECT(self) -> None:
        self.stub.strangers.append(self.path)
        self.send_error(502)

    def do_GET(self) -> None:
        if not self.path.startswith("/"):  # a proxy is given the whole address
            self.stub.strangers.append(self.path)
        self.reply({})

    def do_PUT(self) -> None:
        self.stub.uploads[self.path] = self.body()
        self.reply({})

    def do_POST(self) -> None:
        body = self.body()
        if not self.path.startswith("/"):
            self.stub.strangers.append(self.path)
            self.reply({})
        elif self.path == "/graphql":
            asked = json.loads(body)
            variables, query = asked.get("variables") or {}, asked["query"]
            self.stub.asked.append((variables, query))
            self.reply({"data": self.stub.answer(query, variables)})
        elif self.path.endswith("/file_stream"):
            self.stub.streamed.setdefault(self.path.split("/")[-2], []).append(json.loads(body))
            self.reply({})
        else:
            self.reply({})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, said: dict[str, Any]) -> None:
        if self.stub.mood == "silent":
            self.stub.stop.wait()
        content = json.dumps(said).encode()
        self.send_response(500 if self.stub.mood != "kind" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no fault."""


def environment(stub: Stub, home: Path, key: bool) -> dict[str, str]:
    """What makes W&B's clients speak to the stub, and find no key but ours."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), stub.url)
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
    said = {"WANDB_BASE_URL": stub.url, "HOME": str(home), "NETRC": str(home / "netrc")}
    return {**proxies, **local, **said, **({"WANDB_API_KEY": KEY} if key else {})}


@contextmanager
def serve(mood: Mood = "kind") -> Iterator[Stub]:
    """Until the end of the block, in threads of this process."""
    stub = Stub(mood=mood)
    handler = type("Handler", (Handler,), {"stub": stub})
    with Server(("127.0.0.1", 0), handler) as server:
        stub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            stub.stop.set()
            server.shutdown()
            thread.join(5)
