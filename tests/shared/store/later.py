"""A later version of the app, as far as this one meets it: packed maps with a field that this one does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import redis

from shared.store.redis.partitions import unpack
from tests.shared.store.world import Server, nodes

KINDS: Final = ("t", "u", "q", "qs")
"""Records, uploads, the states of queues and their settings: what a script reads whole and writes back."""
FIELD: Final = "later"
_VALUE: Final = {"n": [1, 2.5, True, "text"], "within": {"s": "s"}, "no": False}
_ADD: Final = """
local raw = redis.call('GET', KEYS[1])
if not raw then return 0 end
local function add(map)
  if map.later ~= nil then return 0 end
  map.later = { n = { 1, 2.5, true, 'text' }, within = { s = 's' }, no = false }
  return 1
end
local map = cmsgpack.unpack(raw)
local added = add(map)
if type(map.G) == 'table' then added = added + add(map.G) end
if added > 0 then redis.call('SET', KEYS[1], cmsgpack.pack(map), 'KEEPTTL') end
return added
"""


class LaterFields:
    """Each :meth:`look` adds the field to every map that is new, and says which map has lost it since the last one.

    A batch's own map, within its record, has one too.
    """

    def __init__(self, server: Server) -> None:
        self._clients = [cast("Any", redis.Redis(port=node.port)) for node in nodes(server)]
        self._with_field: set[bytes] = set()

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def forget(self) -> None:
        """Begin anew, on a Redis that was emptied."""
        self._with_field = set()

    def look(self) -> list[str]:
        """The keys of maps that have lost the field, or have another value in it. It is added to them again."""
        lost: list[str] = []
        present: set[bytes] = set()
        for client, key in self._keys():
            raw = client.get(key)
            if raw is None:  # deleted meanwhile
                continue
            present.add(key)
            if key in self._with_field and not _has_field(unpack(raw)):
                lost.append(key.decode())
            client.eval(_ADD, 1, key)
        self._with_field = present
        return lost

    def count(self, kind: str) -> int:
        """How many maps of this kind have the field."""
        return sum(key.partition(b"}")[2].startswith(f"{kind}:".encode()) for key in self._with_field)

    def _keys(self) -> Iterator[tuple[Any, bytes]]:
        for client in self._clients:
            for kind in KINDS:
                for key in client.scan_iter(f"{{*}}{kind}:*", count=1000):
                    yield client, key


def _has_field(found: dict[str, Any]) -> bool:
    batch = found.get("G")  # a queue has a number there
    maps = [found, batch] if isinstance(batch, dict) else [found]
    return all(each.get(FIELD) == _VALUE for each in maps)
