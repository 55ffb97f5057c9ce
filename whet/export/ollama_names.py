"""Where Ollama answers, and what a model may be called there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from whet.errors import ExportError

HOST_VARIABLE = "OLLAMA_HOST"  # Ollama's own: the address it listens on, and that its clients call
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434
_PORTS = {"http": 80, "https": 443}  # of an address that names its scheme but no port
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}"
_NAME = re.compile(
    r"(?:(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,349})/)?(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_\-]{0,79})/)?"
    rf"(?P<model>{_PART})(?::(?P<tag>{_PART}))?"
)
EXPECTED_NAME = "[NAMESPACE/]MODEL[:TAG] of letters, digits, . _ and -, each part at most 80 characters"


@dataclass(frozen=True)
class Address:
    """Where an Ollama server is to be called."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def ollama_address(environment: Mapping[str, str] | None = None) -> Address:
    """The address in ``OLLAMA_HOST``, else http://127.0.0.1:11434.

    Understood are the forms that Ollama understands: ``host``, ``host:port``, ``:port``, ``[ipv6]:port``,
    ``http://host``, ``https://host:port/path``. 0.0.0.0 and :: are addresses to listen on; they are called on this
    machine.

    Raises:
        ExportError: a port that is none, or another scheme.
    """
    given = (os.environ if environment is None else environment).get(HOST_VARIABLE, "").strip(" \"'")
    scheme, separator, rest = given.rpartition("://")
    if separator and scheme not in _PORTS:
        raise ExportError(f"{HOST_VARIABLE}={given}", "host, host:port, http://... or https://...")
    place, slash, path = rest.partition("/")
    host, port = _host_and_port(place, given)
    fallback = _PORTS[scheme] if separator else DEFAULT_PORT
    path = f"{slash}{path}".rstrip("/")
    return Address(scheme or "http", _callable(host or DEFAULT_HOST), fallback if port is None else port, path)


def _host_and_port(place: str, given: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(.*))?", place)
    if found:
        host, port = found[1], found[2]
    elif place.count(":") > 1:  # an IPv6 address without brackets
        host, port = place, None
    else:
        host, colon, digits = place.partition(":")
        port = digits if colon else None
    if port is None:
        return host, None
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ExportError(f"{HOST_VARIABLE}={given}: the port {port!r}", "a number up to 65535")
    return host, int(port)


def _callable(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return host


def check_name(name: str) -> str:
    """``name``, if Ollama takes it for a model's name.

    Raises:
        ExportError: another form; the message says which is right.
    """
    if not _NAME.fullmatch(name):
        raise ExportError(f"{name!r} is no name for a model in Ollama", EXPECTED_NAME, "for example my-model:q8_0")
    return name


def names_for(name: str, quants: Sequence[str]) -> dict[str, str]:
    """What each quantisation is called: ``name`` itself for one, ``name:<quant>`` for each of several.

    Raises:
        ExportError: no name for a model, or a tag where several need one each.
    """
    check_name(name)
    if len(quants) == 1:
        return {quants[0]: name}
    if ":" in name.rpartition("/")[2]:
        raise ExportError(
            f"{len(quants)} quantisations and one name, {name}",
            "a name without a tag: each gets its own",
            "leave out :TAG",
        )
    return {quant: check_name(f"{name}:{quant}") for quant in quants}
