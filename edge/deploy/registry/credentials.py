"""Who we are to a registry: from the environment, else from the files that `docker login` and others write.

    EDGE_REGISTRY_USER, EDGE_REGISTRY_PASSWORD
    $DOCKER_CONFIG/config.json, ~/.docker/config.json          Docker, oras, helm
    $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json  podman, skopeo

A program that keeps the secret (`credHelpers`, `credsStore`) is asked where a file names one. Source of the format:
the documentation of `docker login`, and containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.errors import RegistryError

HELPER_SEC = 60.0
"""That a program which keeps secrets may take: it may ask a person."""


@dataclass(frozen=True, slots=True)
class Credentials:
    source: str  # in words, for errors
    user: str = ""
    password: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)  # given instead of a password, for OAuth2

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


def find(registry: str) -> Credentials | None:
    """What is known for a registry, "host:port"; None: nothing, and it is asked without.

    :raises RegistryError: what is there cannot be read.
    """
    user, password = (os.environ.get(f"EDGE_REGISTRY_{name}") for name in ("USER", "PASSWORD"))
    if user and password:
        return Credentials("EDGE_REGISTRY_USER and EDGE_REGISTRY_PASSWORD", user, password)
    if user or password:
        raise RegistryError("EDGE_REGISTRY_USER and EDGE_REGISTRY_PASSWORD go together: set both, or neither")
    for path in _files():
        if found := _in_file(path, registry):
            return found
    return None


def _files() -> list[Path]:
    folder = os.environ.get("DOCKER_CONFIG")
    found = [Path(folder) / "config.json" if folder else Path("~/.docker/config.json").expanduser()]
    if given := os.environ.get("REGISTRY_AUTH_FILE"):
        found.append(Path(given))
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "containers" / "auth.json")
    return found


def _in_file(path: Path, registry: str) -> Credentials | None:
    try:
        known: Any = json.loads(path.read_text(encoding="utf-8"))
        helper = known.get("credHelpers", {}).get(registry) or known.get("credsStore")
        one = _entry(known.get("auths", {}), registry)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise RegistryError(f"{path}: no file of credentials: {error}. Log in again, or move it away") from None
    if helper and (one is not None or registry in known.get("credHelpers", {})):
        return _of_helper(str(helper), registry)
    if not one:
        return None
    if token := one.get("identitytoken"):
        return Credentials(str(path), refresh_token=str(token))
    try:
        user, colon, password = base64.b64decode(one.get("auth", ""), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        user = colon = password = ""
    if not colon:
        raise RegistryError(f"{path}: what it has for {registry} is damaged. Log in again")
    return Credentials(str(path), user, password)


def _entry(auths: dict[str, Any], registry: str) -> dict[str, Any] | None:
    for name, one in auths.items():
        host = name.partition("://")[2] or name
        if host.partition("/")[0] == registry and isinstance(one, dict):
            return one
    return None


def _of_helper(helper: str, registry: str) -> Credentials:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=registry, capture_output=True, text=True, timeout=HELPER_SEC)
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        raise RegistryError(f"{program} has no credentials for {registry}: log in again") from None
    if user == "<token>":
        return Credentials(program, refresh_token=secret)
    return Credentials(program, user, secret)
