"""``[HOST:]PORT``: what it means, the sockets that listen there, and the names they go by."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseg.errors import OutputError, UsageError

__all__ = ["Address", "Names", "host_of", "listen", "parse_address"]

_LOG = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_BACKLOG = 64
_ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_HOST_HEADER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


@dataclass(frozen=True)
class Address:
    """Where a page is asked for, and where that is."""

    host: str
    """As it was written, without brackets."""
    port: int
    """0: any that is free."""
    numbers: tuple[tuple[socket.AddressFamily, str], ...]
    """Family and IP address of each socket."""

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        return all(ipaddress.ip_address(number).is_loopback for _, number in self.numbers)

    @property
    def is_wildcard(self) -> bool:
        """Whether it is every interface of the machine."""
        return any(ipaddress.ip_address(number).is_unspecified for _, number in self.numbers)

    def url(self, port: int) -> str:
        """What to open in a browser; for every interface the one that this machine reaches."""
        host = self.host
        if self.is_wildcard:
            host = "::1" if self.numbers[0][0] == socket.AF_INET6 else _LOOPBACK
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def parse_address(text: str) -> Address:
    """Read ``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT``; the default host is 127.0.0.1.

    Raises:
        UsageError: not of that form, no such port, or a name that leads nowhere.
    """
    form = "write PORT, HOST:PORT or [IPV6]:PORT, such as 8080 or 0.0.0.0:8080"
    host, colon, digits = text.strip().rpartition(":")
    if not colon:
        host = _LOOPBACK
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise UsageError(f"{text!r} is no address to serve on: {form}")
    elif not host or ":" in host:
        raise UsageError(f"{text!r} is no address to serve on: {form}")
    if not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > 65535:
        raise UsageError(f"{digits!r} is no port between 0 and 65535: {form}")
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        raise UsageError(f"{host!r} is no name of a host: {form}")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"no address belongs to {host!r} ({why}): {form}") from error
    numbers = dict.fromkeys(
        (family, str(place[0]))
        for family, _, _, _, place in found
        if family in (socket.AF_INET, socket.AF_INET6)
    )
    return Address(host, int(digits), tuple(numbers))


def listen(address: Address) -> list[socket.socket]:
    """Sockets that listen at the address, all on the same port.

    Raises:
        OutputError: the port is in use, needs rights that are not there, or is not this machine's.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    port = address.port
    with contextlib.ExitStack() as held:
        for family, number in address.numbers:
            try:
                sockets.append(held.enter_context(_listen(family, number, port)))
            except OSError as error:
                # A name such as localhost may stand for IPv6 on a machine without it.
                if error.errno in _ABSENT and len(address.numbers) > 1:
                    absent = error
                    _LOG.info("%s is not served: %s", number, error.strerror)
                    continue
                raise _refusal(address, port, error) from error
            port = sockets[0].getsockname()[1]
        if not sockets:
            assert absent is not None
            raise _refusal(address, port, absent) from absent
        held.pop_all()
    return sockets


def _listen(family: socket.AddressFamily, number: str, port: int) -> socket.socket:
    # asyncio sends small pieces at once (TCP_NODELAY) only where the protocol is named.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A page that is started again does not wait until its old connections are forgotten.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((number, port))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _refusal(address: Address, port: int, error: OSError) -> OutputError:
    where = f"port {port} of {address.host}"
    if error.errno == errno.EADDRINUSE:
        return OutputError(f"{where} is in use: choose another port, or end what serves there")
    if error.errno in (errno.EACCES, errno.EPERM):
        return OutputError(f"no right to serve on {where}: choose a port from 1024 on")
    return OutputError(f"cannot serve on {where}: {error.strerror or error}")


class Names:
    """The names by which a page may be asked for.

    A site that makes its own name lead to this machine (DNS rebinding) comes with that name, and is
    told apart by it. IP addresses are no names: nobody can make them lead elsewhere.
    """

    def __init__(self, address: Address, more: Sequence[str] = ()) -> None:
        """Collect them.

        Args:
            address: where the page is served.
            more: further names, such as the one of a proxy.
        """
        self._loopback_only = address.is_loopback
        names = {"localhost", address.host, *more}
        if not self._loopback_only:
            own = socket.gethostname()
            names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
        self._names = {name.lower().rstrip(".") for name in names}

    def __contains__(self, host: object) -> bool:
        """Whether ``host``, lower case and without port and brackets, is one of them."""
        if not isinstance(host, str):
            return False
        try:
            number = ipaddress.ip_address(host)
        except ValueError:
            return host.rstrip(".") in self._names
        return number.is_loopback or not self._loopback_only


def host_of(header: str) -> str | None:
    """The host in a ``Host`` header, lower case, without port and brackets; None if malformed."""
    found = _HOST_HEADER.fullmatch(header)
    return found.group(1).strip("[]").lower() if found else None
