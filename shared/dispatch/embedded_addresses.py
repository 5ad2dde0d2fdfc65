"""The IPv4 addresses that an IPv6 address stands for, where a translator or a tunnel is on the way."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

_IN_LAST_BYTES: Final = (
    ipaddress.IPv6Network("::ffff:0:0/96"),  # mapped (RFC 4291)
    ipaddress.IPv6Network("::/96"),  # compatible (RFC 4291), but for ``::`` and ``::1``
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # translated (RFC 2765)
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052)
)
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
"""Of RFC 8215. A network chooses how long its prefix is, and with it where the IPv4 address lies."""
_LOCAL_NAT64_AT: Final = (((6, 7, 9, 10)), ((7, 9, 10, 11)), ((9, 10, 11, 12)), ((12, 13, 14, 15)))
"""Which bytes it takes, by the length of the prefix: 48, 56, 64 or 96 bits (RFC 6052)."""
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""RFC 5214."""


def written_addresses(address: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The address, and those that it stands for.

    Raises:
        ValueError: it is no address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        yield ip
        return
    # One in the last bytes takes the place of the whole, whose kind says nothing of where it leads.
    is_own = ip.is_loopback or ip.is_unspecified
    if not is_own and any(ip in network for network in _IN_LAST_BYTES):
        yield ipaddress.IPv4Address(ip.packed[12:])
        return
    yield ip
    if ip in _LOCAL_NAT64:
        yield from (ipaddress.IPv4Address(bytes(ip.packed[at] for at in bytes_at)) for bytes_at in _LOCAL_NAT64_AT)
    if ip.sixtofour:
        yield ip.sixtofour
    if ip.teredo:
        yield from ip.teredo
    if ip.packed[8:12] in _ISATAP:
        yield ipaddress.IPv4Address(ip.packed[12:])
