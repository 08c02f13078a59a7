"""API keys: made once, kept as hashes, gone at once, and a damaged file is never an open door."""

from __future__ import annotations

import hmac
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.errors import KeysError, UsageError
from edge.server import keys as module
from edge.server.keys import SCOPES, Keys, Scope


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


def test_a_token_finds_its_key_and_nothing_else_does(path: Path) -> None:
    keys = Keys.open(path)
    first, token = keys.create("laptop", ["search", "ask"])
    second, other = keys.create("phone", ["ask"])
    assert (keys.find(token), keys.find(other)) == (first, second)
    assert (first.name, first.scopes) == ("laptop", ("ask", "search"))
    assert keys.list() == (first, second)
    id_, secret = token.split("_", 2)[1:]
    wrong = ["", "edge", "edge_", f"edge_{id_}", f"edge_{id_}_", token[:-1], token + "x", token.upper(), f"x{token}",
             f"Edge_{id_}_{secret}", f"edge_{second.id}_{secret}", f"edge_00000000_{secret}", "_" * 9,
             "é\0\ud800"]  # fmt: skip
    assert [keys.find(text) for text in wrong] == [None] * len(wrong)


def test_tokens_have_256_random_bits_and_are_not_in_the_file(path: Path) -> None:
    keys = Keys.open(path)
    tokens = [keys.create(f"key {i}", ["ask"])[1] for i in range(20)]
    secrets = {token.split("_", 2)[2] for token in tokens}
    assert len(secrets) == 20
    assert all(len(secret) * 6 >= 256 for secret in secrets)  # 6 bits a character
    content = path.read_text()
    assert not any(secret in content for secret in secrets)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_what_its_scopes_say(path: Path, scope: Scope) -> None:
    key, _ = Keys.open(path).create("one", [scope])
    assert [one for one in SCOPES if key.may(one)] == (list(SCOPES) if scope == "admin" else [scope])


def test_each_key_has_a_namespace_of_its_own_unless_one_is_named(path: Path) -> None:
    keys = Keys.open(path)
    first, second = keys.create("a", ["ask"])[0], keys.create("b", ["ask"])[0]
    shared = keys.create("c", ["ask"], namespace=first.namespace)[0]
    assert len({first.namespace, second.namespace}) == 2
    assert shared.namespace == first.namespace


def test_another_process_is_followed_at_once(path: Path) -> None:
    daemon, command = Keys.open(path), Keys.open(path)
    assert not daemon.are_used
    key, token = command.create("laptop", ["ask"])
    assert daemon.are_used
    assert daemon.find(token) == key
    assert command.revoke(key.id) == key
    assert daemon.find(token) is None
    assert daemon.are_used  # the last key went: that lets nobody in
    _, again = command.create("laptop", ["ask"])
    assert daemon.find(again) is not None
    assert command.revoke("laptop").name == "laptop"
    assert daemon.list() == ()


def test_a_deleted_file_lets_nobody_in(path: Path) -> None:
    keys = Keys.open(path)
    _, token = keys.create("laptop", ["ask"])
    path.unlink()
    assert keys.find(token) is None
    assert keys.are_used


def test_unchanged_it_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys.open(path)
    _, token = keys.create("laptop", ["ask"])
    assert keys.find(token)
    monkeypatch.setattr(module, "_read", lambda *_: pytest.fail("read again"))
    assert keys.find(token)


def test_unknown_ids_are_compared_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def spy(left: str, right: str) -> bool:
        compared.append((left, right))
        return compare(left, right)

    keys = Keys.open(path)
    _, token = keys.create("laptop", ["ask"])
    monkeypatch.setattr(module.hmac, "compare_digest", spy)
    for text in (token, "edge_00000000_x", "nonsense", ""):
        keys.find(text)
    assert [len(left) == len(right) == 64 for left, right in compared] == [True] * 4


def emptied(text: str) -> str:
    return ""


def cut(text: str) -> str:
    return text[: len(text) // 2]


def newer(text: str) -> str:
    return text.replace('"schema": 1', '"schema": 2')


def unknown_scope(text: str) -> str:
    return text.replace('"ask"', '"everything"')


def unknown_field(text: str) -> str:
    return text.replace('"name"', '"expires": "never", "name"')


def no_hash(text: str) -> str:
    return json.dumps({**json.loads(text), "keys": [{**json.loads(text)["keys"][0], "sha256": ""}]})


def twice(text: str) -> str:
    return json.dumps({**json.loads(text), "keys": json.loads(text)["keys"] * 2})


@pytest.mark.parametrize("damage", [emptied, cut, newer, unknown_scope, unknown_field, no_hash, twice])
def test_a_damaged_file_is_an_error_each_time_and_no_open_door(path: Path, damage: Callable[[str], str]) -> None:
    keys = Keys.open(path)
    _, token = keys.create("laptop", ["ask"])
    whole = path.read_text()
    path.write_text(damage(whole))
    for _ in range(2):
        with pytest.raises(KeysError, match=r"keys.json.*Nobody is let in.*edge key create"):
            keys.find(token)
    with pytest.raises(KeysError):
        keys.list()
    with pytest.raises(KeysError):
        Keys.open(path)
    with pytest.raises(KeysError):  # nor is it written over
        keys.create("other", ["ask"])
    assert path.read_text() == damage(whole)
    path.write_text(whole)
    assert keys.find(token)


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    keys = Keys.open(path)
    _, token = keys.create("laptop", ["ask"])
    path.chmod(0o666)
    with pytest.raises(KeysError, match="chmod 600"):
        keys.find(token)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder to another user")
def test_what_root_writes_belongs_to_the_daemons_user(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, 12345, 12346)
    Keys.open(path).create("laptop", ["ask"])
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 12346, 0o600)


@pytest.mark.parametrize(
    ("name", "scopes", "namespace", "says"),
    [
        ("", ["ask"], None, "printable"),
        ("a\nb", ["ask"], None, "printable"),
        ("x" * 65, ["ask"], None, "64"),
        ("0123abcd", ["ask"], None, "looks like the id"),
        ("taken", ["ask"], None, "already"),
        ("new", [], None, "say what the key may do"),
        ("new", ["ask", "root"], None, "ask, search, ingest, admin"),
        ("new", ["ask"], "", "namespace"),
        ("new", ["ask"], "..", "namespace"),
        ("new", ["ask"], "a/b", "namespace"),
    ],
)
def test_what_makes_no_key(path: Path, name: str, scopes: list[Scope], namespace: str | None, says: str) -> None:
    keys = Keys.open(path)
    keys.create("taken", ["ask"])
    with pytest.raises(UsageError, match=says):
        keys.create(name, scopes, namespace)
    assert len(keys.list()) == 1
    with pytest.raises(UsageError, match="edge key list"):
        keys.revoke("nobody")


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    def make(number: int) -> None:
        Keys.open(path).create(f"key {number}", ["ask"])

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in Keys.open(path).list()} == {f"key {number}" for number in range(8)}
