"""Names of what a registry holds: `registry/name:tag`, `registry/name@sha256:...`.

Source of the grammar: OCI Distribution Specification 1.1, "Pulling manifests".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from edge.errors import UsageError

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?P<port>:[0-9]{1,5})?"
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*")
_PARTS = re.compile(
    rf"(?:oci://)?{_HOST}/(?P<name>{_NAME.pattern})(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@sha256:(?P<digest>[0-9a-f]{{64}}))?",
    re.ASCII,
)
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Reference:
    registry: str  # host, with a port or without
    name: str
    tag: str | None
    digest: str | None  # 64 hex digits; counts more than the tag

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}" + (f"@sha256:{self.digest}" if self.digest else f":{self.wanted}")

    @property
    def short(self) -> str:
        """Without the registry."""
        return str(self).removeprefix(f"{self.registry}/")

    @property
    def wanted(self) -> str:
        """What to ask the registry for."""
        return f"sha256:{self.digest}" if self.digest else self.tag or "latest"

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine: what goes there, no network sees."""
        return is_loopback(self.registry.rpartition("]")[0].lstrip("[") or self.registry.partition(":")[0])


def parse(text: str) -> Reference:
    """Read a reference. The registry is always named: none is assumed.

    :raises UsageError: it is none; says how one is written.
    """
    match = _PARTS.fullmatch(text)
    if match is None or len(match["name"]) > MAX_NAME or not _names_a_host(match["host"], match["port"]):
        raise UsageError(
            f"{text!r} names nothing in a registry: write registry/name:tag or registry/name@sha256:DIGEST, such as "
            "registry.example:5000/bundles/support:12; names are in lower case"
        )
    return Reference(match["host"] + (match["port"] or ""), match["name"], match["tag"], match["digest"])


def is_name(text: str) -> bool:
    """Whether it may be the name of a repository."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_meant(text: str) -> bool:
    """Whether somebody who could have named a file as well means a registry: a tag, a digest or oci:// says so."""
    match = _PARTS.fullmatch(text)
    if match is None or not _names_a_host(match["host"], match["port"]):
        return False
    return text.startswith("oci://") or bool(match["tag"] or match["digest"])


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _names_a_host(host: str, port: str | None) -> bool:
    """As other clients tell a host from the first part of a name."""
    return port is not None or "." in host or host == "localhost" or host.startswith("[")
