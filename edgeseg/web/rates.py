"""How often a client may ask."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Bucket", "Rates"]

_IPV6_NETWORK_BITS = 64


class Bucket:
    """Lets ``burst`` through at once and ``per_s`` a second in the long run."""

    def __init__(
        self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with a full bucket."""
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._since_s = clock()

    def take(self) -> bool:
        """Take one; False if there is none."""
        now_s = self._clock()
        self._left = min(self._burst, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Rates:
    """A bucket for each client; the ones that asked last are remembered."""

    def __init__(
        self,
        per_s: float,
        burst: float,
        *,
        clients: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember nobody yet."""
        self._per_s = per_s
        self._burst = burst
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, client: str) -> bool:
        """Whether the client with that IP address may ask once more."""
        name = _network(client)
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self._per_s, self._burst, self._clock)
            if len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket.take()


def _network(client: str) -> str:
    """One machine has as many IPv6 addresses as it likes, all of one network."""
    try:
        number = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if number.version == 4:
        return client
    return str(ipaddress.ip_network((number, _IPV6_NETWORK_BITS), strict=False))
