"""The group of all commands, loaded by name when called, and the one place where errors become exit codes.

Exit codes: 0 done or answered, 1 error, 2 usage, 3 abstained, 4 a gate or comparison failed, 130 interrupted.
"""

from __future__ import annotations

import _thread
import importlib
import sys
import threading
from typing import NoReturn

import click

from edge.cli.common import print_error
from edge.errors import EdgeError

COMMANDS = {
    "ingest": ("edge.cli.ingest:ingest", "Read files and folders into the index."),
    "ask": ("edge.cli.ask:ask", "Ask a question about the documents, or a file of them."),
    "search": ("edge.cli.search:search", "Find the passages that are nearest a query, without an answer."),
    "chat": ("edge.cli.chat:chat", "Hold a conversation about the documents."),
    "serve": ("edge.cli.serve:serve", "Serve questions over HTTP: OpenAI's and Ollama's APIs, documents, a page."),
    "mcp": ("edge.cli.mcp:mcp", "Offer the documents to assistants as MCP tools: stdio, or HTTP at /mcp."),
    "feedback": ("edge.cli.feedback:feedback", "Rate answers, on this box alone; list, export, delete them."),
    "plan": ("edge.cli.plan:plan", "Show what answering takes of the memory budget, and what fits."),
    "index": ("edge.cli.index:index", "Look at the index, remove, rebuild, compact; make and apply deltas of one."),
    "bundle": ("edge.cli.bundle:bundle", "Show or verify the bundle; pack, sign, compare archives of one."),
    "deploy": ("edge.cli.deploy:deploy", "Install an archive of a bundle on this box; show what is installed."),
    "releases": ("edge.cli.deploy:releases", "List the releases on this box, check them, remove old ones."),
    "rollback": ("edge.cli.deploy:rollback", "Serve the release before this one again."),
    "key": ("edge.cli.key:key", "Make, list and revoke the API keys of the daemon."),
    "service": ("edge.cli.service:service", "Run the daemon as a systemd service: install, uninstall, status."),
    "bench": ("edge.cli.bench:bench", "Measure this box, alone or beside a peer; compare results, draw them."),
    "doctor": ("edge.cli.doctor:doctor", "Check this machine, the bundle and the index."),
}
EXTRAS = {
    "optimize": "Tune and quantize a model and pack a bundle (extra `optimize`).",
    "advise": "Measure which your documents need: RAG, fine-tuning, both (extra `optimize`).",
}
"""Commands of another package, found by the entry point group `edge.commands`; named here so that help lists them."""


AGAIN_SEC = 0.02


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `edge ask` pays for nothing that it does not use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *EXTRAS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, name = COMMANDS[cmd_name][0].partition(":")
            command = getattr(importlib.import_module(module), name)
            return command if isinstance(command, click.Command) else None
        if cmd_name in EXTRAS:
            return _plugin(cmd_name)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in COMMANDS.items()] + list(EXTRAS.items())
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugin(name: str) -> click.Command:
    from importlib.metadata import entry_points  # takes longer than the rest of a start

    found = entry_points(group="edge.commands", name=name)
    try:
        command = next(iter(found)).load()
    except (ImportError, StopIteration) as error:
        raise EdgeError(
            f"`edge {name}` needs packages that are not installed here ({error or 'no entry point'}): "
            "pip install 'edge-slm[optimize]'"
        ) from None
    if not isinstance(command, click.Command):
        raise EdgeError(f"the entry point edge.commands:{name} is not a command")
    return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-slm", prog_name="edge")
def cli() -> None:
    """Answers questions about your documents on this machine, with checked citations.

    Paths default to the folder EDGE_HOME, else to the XDG data folder: the bundle in `current` or
    `bundle`, the index in `index.db`, the configuration in `config.yaml`.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    before, sys.unraisablehook = sys.unraisablehook, raise_interrupt_again
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        print_error(error.format_message(), "UsageError", 2)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        code = _interrupted()
    except EdgeError as error:
        print_error(str(error), type(error).__name__, error.exit_code)
        code = error.exit_code
    except ImportError as error:
        if not _is_of_an_interrupt(error):
            raise
        code = _interrupted()
    finally:
        sys.unraisablehook = before
    sys.exit(code if isinstance(code, int) else 0)


def raise_interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """For `sys.unraisablehook`: what is raised while an object is finalised is printed and forgotten, so a Ctrl-C that
    comes just then would be too. It is raised anew a moment later: in here, it would be forgotten once more."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        later = threading.Timer(AGAIN_SEC, _thread.interrupt_main)
        later.daemon = True
        later.start()
    else:
        sys.__unraisablehook__(lost)


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)  # noqa: T201
    return 130


def _is_of_an_interrupt(error: BaseException) -> bool:
    """Whether a Ctrl-C is behind it: a native module that is being loaded just then says that it cannot be."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
