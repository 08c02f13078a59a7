"""The documents as tools of the Model Context Protocol: `search` and `ask`, for assistants that speak it.

It is a process of its own (`edge mcp`) rather than a route of the daemon: the `mcp` package takes 34 MB, which an idle
daemon has not got. Annotations are values in this file, not text: the package reads the tools' arguments from them.
"""

import json
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from edge.errors import ConfigError, EdgeError, UsageError
from edge.mcp_sources import Said, Search, Source

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

T = TypeVar("T")

PATH = "/mcp"
_MOST_HITS = 50
_MOST_BODY_BYTES = 2**20


def serve_stdio(source: Source) -> None:
    """Serve over standard input and output until the client closes them."""
    server(source).run("stdio")


def serve_http(source: Source, host: str, port: int) -> None:
    """Serve MCP's streamable HTTP at `PATH` of a loopback address; says on stderr where. Ctrl-C ends it.

    Requests are independent of each other; Host and Origin headers must name this machine.

    :param port: 0 takes a free one.
    :raises UsageError: the address reaches beyond this machine: anybody who reaches it may read every document.
    :raises ConfigError: it is taken.
    """
    from edge.server.guard import is_loopback

    if not is_loopback(host):
        raise UsageError(f"--http {host}: only loopback addresses, such as 127.0.0.1:8643; there are no keys here")
    made = server(source)
    import uvicorn

    app = made.streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, host=host,
        max_request_body_size=_MOST_BODY_BYTES,
    )  # fmt: skip
    try:
        one = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"{host}:{port}: cannot listen there: {error.strerror}; see --http") from None
    with one:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{one.getsockname()[1]}{PATH}"
        sys.stderr.write(json.dumps({"event": "listening", "address": address}) + "\n")
        sys.stderr.flush()
        config = uvicorn.Config(app, ws="none", log_config=None, access_log=False, server_header=False, lifespan="on")
        uvicorn.Server(config).run([one])


def server(source: Source) -> "MCPServer[Any]":
    """The tools over a source.

    :raises EdgeError: the package `mcp` is not installed.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
        from pydantic import Field
    except ImportError as error:
        raise EdgeError(f"`edge mcp` needs the package mcp ({error}): pip install 'edge-slm[mcp]'") from None
    from importlib.metadata import version

    where = Field(description="KEY=VALUE with source, type, tag, language or date: search only such documents.")
    most = Field(description="Passages to return.", ge=1, le=_MOST_HITS)

    def told(work: Callable[[], T]) -> T:
        """What a person should know about what went wrong is for the assistant too."""
        try:
            return work()
        except EdgeError as error:
            raise ToolError(str(error)) from None

    def search(
        query: Annotated[str, Field(description="What to look for, in words or as a question.", min_length=1)],
        top_k: Annotated[int, most] = 8,
        filter: Annotated[list[str] | None, where] = None,
    ) -> Search:
        return Search(told(lambda: source.search(query, top_k, filter or ())))

    def ask(
        question: Annotated[str, Field(description="One question that can be understood alone.", min_length=1)],
        filter: Annotated[list[str] | None, where] = None,
    ) -> Said:
        return told(lambda: source.ask(question, filter or ()))

    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    made: MCPServer[Any] = MCPServer("edge-slm", version=version("edge-slm"), log_level="WARNING")
    made.add_tool(search, description="Find passages in the documents of this box, best first.", annotations=reads)
    made.add_tool(
        ask,
        description="Ask the documents of this box a question; the answer quotes them and says where it is from. A "
        "small model on a small machine writes it: give it some seconds.",
        annotations=reads,
    )
    return made
