"""`edge key` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edge.cli.key import key
from edge.errors import UsageError
from edge.server.keys import SCOPES, Keys


def run(*arguments: str) -> Result:
    return CliRunner().invoke(key, list(arguments), catch_exceptions=False)


def test_create_list_revoke(edge_home: Path) -> None:
    made = run("create", "laptop", "--scope", "search", "--scope", "ask")
    token = made.stdout.strip()
    found = Keys.open(edge_home / "daemon" / "keys.json").find(token)
    assert found is not None
    assert (found.name, found.scopes) == ("laptop", ("ask", "search"))
    assert "not kept: copy it now" in made.stderr
    assert token not in made.stderr
    listed = run("list").stdout
    assert f"{found.id}  {found.created[:10]}  ask,search" in listed
    assert token.rpartition("_")[2] not in listed
    assert run("revoke", "laptop").stdout == f"laptop ({found.id}) revoked\n"
    assert run("list").stdout == "there are no keys\n"


def test_json_and_a_folder_of_ones_own(tmp_path: Path, edge_home: Path) -> None:
    made = json.loads(
        run("create", "a", "--scope", "admin", "--namespace", "team", "--state", str(tmp_path), "--json").stdout
    )
    assert set(made) == {"id", "name", "scopes", "namespace", "created", "token"}
    assert (made["scopes"], made["namespace"]) == (["admin"], "team")
    listed = json.loads(run("list", "--state", str(tmp_path), "--json").stdout)
    assert listed == {"keys": [{name: value for name, value in made.items() if name != "token"}]}
    assert json.loads(run("revoke", made["id"], "--state", str(tmp_path), "--json").stdout)["revoked"]["name"] == "a"
    assert not (edge_home / "daemon").exists()


def test_what_is_refused(edge_home: Path) -> None:
    assert "'everything' is not one of" in run("create", "a", "--scope", "everything").stderr
    assert "Missing option '--scope'" in run("create", "a").stderr
    with pytest.raises(UsageError, match="edge key list"):
        run("revoke", "nobody")


def test_the_options_are_the_scopes() -> None:
    command = key.commands["create"]
    (scopes,) = (option for option in command.params if option.name == "scopes")
    assert isinstance(scopes.type, click.Choice)
    assert tuple(scopes.type.choices) == SCOPES
