"""All keys in Redis as text. Tests of a step compare it before and after the step.

Each record, history event, index, body and result has a line, named by its key as in
``shared/store/lua/includes/task/keys.lua``. Times are seconds since the start of the tests' clock. Unexpected keys
show too.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from textwrap import dedent
from typing import Any

import msgpack
import redis

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.partitions import TAGS, unpack, unpack_each

START_MS = 1_700_000_000_000
_KNOWN = ("registered", "open", "completed", "failed", "cancelled", "again")
_COUNTED = (("completed", "c"), ("failed", "f"), ("cancelled", "x"), ("again", "r"))
Server = RedisServer | RedisCluster


def nodes(server: Server) -> list[RedisServer]:
    return server.nodes if isinstance(server, RedisCluster) else [server]


class World:
    """A picture of all keys at the time it is created.

    Args:
        jittered: id → bounds in seconds of a deadline with jitter, shown as ``low..high``.
    """

    def __init__(self, server: Server, jittered: Mapping[str, tuple[float, float]] | None = None) -> None:
        self._jittered = jittered or {}
        self.records: dict[str, dict[str, Any]] = {}
        self.due_s: dict[str, float] = {}
        self.starts_s: dict[str, float] = {}
        self.indexes: dict[str, dict[str, float]] = defaultdict(dict)
        self.paths: dict[str, set[str]] = defaultdict(set)
        self.delayed_paths: dict[str, set[str]] = defaultdict(set)
        self.contents: dict[str, bytes] = {}
        self.pipelines: dict[str, list[Any]] = {}
        self.children: dict[str, dict[str, float]] = {}
        self.ends: set[str] = set()
        self.uploads: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, int] = {}
        self.fenced: dict[str, set[str]] = {}
        self.holding: dict[str, set[str]] = defaultdict(set)
        self.waiting: dict[str, set[str]] = defaultdict(set)
        self.holders: dict[str, set[str]] = defaultdict(set)
        self.callbacks: dict[str, dict[str, float]] = defaultdict(dict)
        """What is owed to destinations: the tasks in each of these indexes."""
        self.raw: dict[str, bytes] = {}
        for node in nodes(server):
            for key, value in _everything(_client(node.port)):
                self._take(key.decode(), value)

    def _take(self, key: str, value: Any) -> None:
        match = re.fullmatch(r"\{(\w+)\}(.+)", key)
        assert match, f"a key without a tag: {key}"
        tag, name = match.groups()
        kind, _, rest = name.partition(":")
        if kind == "t":
            self.records[rest], self.raw[rest] = _absolute(unpack(value)), value
            members = [rest]
        elif kind in ("b", "r", "k"):
            self.contents[name] = value
            members = [rest]
        elif kind == "n":
            self.pipelines[rest] = unpack(value)
            members = [rest]
        elif kind == "c":
            self.children[rest] = value
            members = [rest]
        elif name == "ends":
            self.ends |= value.keys()
            members = [end.split(" ")[1] for end in value]
        elif kind == "u":
            self.uploads[rest] = unpack(value)
            members = [rest]
        elif name == "due":
            self.due_s |= {member: at for member, at in value.items() if member != "clock"}
            members = [member.removeprefix("u/") for member in value if member != "clock"]
        elif name == "starts":
            self.starts_s |= value
            members = [*value]
        elif name == "delayed_paths":
            self.delayed_paths[tag] |= {path.decode() for path in value}
            members = []
        elif kind == "z":
            self.indexes[name] |= value
            members = [*value]
        elif name in ("paths", "ended_paths"):
            self.paths[tag] |= {path.decode() for path in value}
            members = []
        elif name == "fenced":
            self.fenced[tag] = {*value}
            members = []
        elif kind in ("calls", "uncalled") or name == "owed":
            self.callbacks[name] |= value
            members = [*value]
        elif name == "called":  # how destinations have answered
            members = []
        elif kind == "answers":
            members = [rest]
        elif name == "asked" or name in ("reconciler", "keyed", "audit", "audited"):
            members = []
        elif kind in ("schedule", "schedule_body"):
            members = [rest.rpartition(" ")[0]]
        elif name in ("schedules", "schedules_due"):
            # An owner's, or the blob that no schedule has. Nobody's begin with the blank.
            members = [member.rpartition(" ")[0] if " " in member else member for member in value]
        elif kind == "endpoints":
            members = [rest]
        elif name in ("outages", "queues", "rated", "settings"):
            members = [path.decode() for path in value]
        elif name in ("series", "series_bytes"):
            members = [
                path.decode() if isinstance(path, bytes) else path
                for path in value
                if path not in ("other", b"other")
            ]
        elif kind in ("s1", "s10", "s60", "sum"):
            members = [rest] if rest != "other" else []
        elif kind in ("q", "qs", "qi", "qr", "qo", "qh", "qw", "qb"):
            path = rest.partition(" ")[0]
            if kind == "qh":
                self.holding[path] |= set(value)
            elif kind == "qw":
                self.waiting[path] |= set(value)
            elif kind == "qb":
                self.holders[path] |= set(value)
            members = [path]
        elif kind == "requests" and rest:
            members = []  # when a counter was reported, and its shares
        else:
            assert name == "requests", f"an unknown key: {key}"
            self.requests |= {field.decode(): msgpack.unpackb(packed)[0] for field, packed in value.items()}
            members = [field.decode() for field in value]
        for member in members:
            assert tag == tag_of(member), f"{key} is in another partition than {member}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for task_id, rec in sorted(self.records.items()):
            yield f"t:{task_id} " + " ".join(_record(rec))
            for name, key in (("query", "u"), ("owner", "o"), ("traceparent", "t"), ("fingerprint", "i")):
                if key in rec:
                    yield f"  {name} {rec[key]}"
            for at_ms, state, attempt, actor, status, *more in rec["h"]:
                yield f"  +{at_ms / 1000:g} {state} a{attempt} {actor} {status!r}" + _reason(*more)
        for name, data in sorted(self.contents.items()):
            yield f"{name} {data.decode()}"
        for task_id, (due_ms, *steps) in sorted(self.pipelines.items()):
            listed = " ".join(_step(*step) for step in steps)
            yield f"n:{task_id} due{due_ms / 1000:g} {listed}"
        for name, index in sorted(self.indexes.items()):
            yield f"{name} " + " ".join(f"{member}@{at:g}" for member, at in sorted(index.items()))
        for batch_id in sorted(self.children):
            listed = " ".join(f"{child}={known}:{number}" for child, known, number in self.children_of(batch_id))
            yield f"c:{batch_id} {listed}"
        for end in sorted(self.ends):
            yield f"end {end}"
        if self.due_s:
            yield "due " + " ".join(f"{member}@{self._due(member)}" for member in sorted(self.due_s))
        if self.paths:
            yield "paths " + " ".join(sorted(set().union(*self.paths.values())))
        if self.starts_s:
            yield "starts " + " ".join(f"{task_id}@{at:g}" for task_id, at in sorted(self.starts_s.items()))
            yield "delayed_paths " + " ".join(sorted(set().union(*self.delayed_paths.values())))
        for upload_id, upload in sorted(self.uploads.items()):
            shown = " ".join(f"{key}={value}" for key, value in sorted(upload.items()) if key not in ("e", "k"))
            yield f"u:{upload_id} e{_since_start_s(upload['e']):g} {shown}"
        for field, count in sorted(self.requests.items()):
            yield f"requests {field} = {count}"

    def _due(self, task_id: str) -> str:
        due_s, bounds = self.due_s[task_id], self._jittered.get(task_id)
        if bounds and bounds[0] <= due_s <= bounds[1]:
            return f"{bounds[0]:g}..{bounds[1]:g}"
        return f"{due_s:g}"

    def children_of(self, batch_id: str) -> Iterator[tuple[str, str, int]]:
        """The children of a batch in the order of registration: id, what is known of it, the number that goes with
        that."""
        for child, score in sorted(self.children.get(batch_id, {}).items(), key=lambda each: each[1]):
            yield child, _KNOWN[int(score) >> 30 & 7], int(score) & (1 << 30) - 1

    def assert_consistent(self) -> None:
        """Check that each record is in the right index and has one deadline and its contents, that each batch counts
        its children right, and that nothing else is left."""
        indexes: dict[str, dict[str, float]] = defaultdict(dict)
        for task_id, rec in self.records.items():
            if "Z" in rec:
                continue
            waits_anew = rec["s"] == "created" and rec["q"] != rec["c"]
            index = "delayed" if is_delayed(rec) else "again" if waits_anew else rec["s"]
            for path in (rec["p"], rec["Y"]) if "Y" in rec else (rec["p"],):
                indexes[f"z:{path}:{index}"][task_id] = _since_start_s(rec["c"])
                if index == "again":
                    indexes[f"z:{path}:since"][task_id] = _since_start_s(rec["q"])
        assert {task_id: len(steps) - 1 for task_id, steps in self.pipelines.items()} == {
            task_id: rec["N"][1] for task_id, rec in self.records.items() if "N" in rec
        }
        assert self.indexes == indexes
        assert self.due_s.keys() == {*self.records, *(f"u/{upload_id}" for upload_id in self.uploads)}
        inline = {
            f"{name}:{task_id}": rec[key][1]
            for task_id, rec in self.records.items()
            for name, key in (("b", "b"), ("r", "r"), ("k", "C"))
            if len(rec.get(key, ())) == 2
        }
        assert {name: len(data) for name, data in self.contents.items()} == inline
        paths: dict[str, set[str]] = defaultdict(set)
        delayed_paths: dict[str, set[str]] = defaultdict(set)
        for task_id, rec in self.records.items():
            if "G" not in rec and "Z" not in rec:
                (delayed_paths if is_delayed(rec) else paths)[tag_of(task_id)].add(rec["p"])
        delayed = {task_id: rec for task_id, rec in self.records.items() if is_delayed(rec)}
        assert self.starts_s == {task_id: _since_start_s(rec["q"]) for task_id, rec in delayed.items()}
        assert self.delayed_paths == delayed_paths
        assert self.children.keys() <= {task_id for task_id, rec in self.records.items() if "G" in rec}
        for batch_id, rec in self.records.items():
            if "G" in rec and "Z" not in rec:
                known = Counter(known for _, known, _ in self.children_of(batch_id))
                counted = {name: rec["G"][key] for name, key in (*_COUNTED, ("total", "t"))}
                assert counted == {name: known[name] for name, _ in _COUNTED} | {"total": known.total()}
        assert {tag: names for tag, names in self.paths.items() if names} == paths
        self._assert_callbacks_consistent()

    def _assert_callbacks_consistent(self) -> None:
        """Whatever is to be told stands where it is found, until it is told."""
        owed: set[str] = set()
        waiting: dict[str, set[str]] = defaultdict(set)
        for task_id, rec in self.records.items():
            call = rec.get("J")
            if call is None:
                continue
            waits = "Q" in call or "p" in call
            if waits:
                waiting[f"calls:{call['d']}"].add(task_id)
            if waits or rec["s"] not in ("completed", "failed", "cancelled") or call.get("e") != rec["a"]:
                owed.add(task_id)
        found = {name: set(index) for name, index in self.callbacks.items() if index}
        assert found.pop("owed", set()) == owed
        assert {name: ids for name, ids in found.items() if name.startswith("calls:")} == waiting


def is_delayed(rec: Mapping[str, Any]) -> bool:
    return "T" in rec and (rec["s"], rec["a"], rec.get("z")) == ("created", 1, 0)


def tag_of(member: str) -> str:
    return TAGS[int(hashlib.sha1(member.encode()).hexdigest()[0], 16)]


def world(server: Server, jittered: Mapping[str, tuple[float, float]] | None = None) -> str:
    """All keys in Redis as text, after a check that they are consistent."""
    picture = World(server, jittered)
    picture.assert_consistent()
    return str(picture)


def text(expected: str) -> str:
    """A world as a test writes it, without the indentation."""
    return dedent(expected).strip("\n")


def _record(rec: dict[str, Any]) -> Iterator[str]:
    yield f"{rec['s']} {rec['p']} {rec['x']!r} a{rec['a']} f{rec['f']} n{rec['n']} v{rec['v']}"
    yield f"c{_since_start_s(rec['c']):g} m{_since_start_s(rec['m']):g} q{_since_start_s(rec['q']):g}"
    yield f"l{rec['l'] / 1000:g}"
    yield "dispatch" if rec["w"] else "no-dispatch"
    for name, key in (("body", "b"), ("result", "r"), ("checkpoint", "C")):
        if key in rec:
            yield f"{name}=" + ":".join(map(str, rec[key]))
    if rec.get("e"):
        yield "earlier"
    if rec.get("g"):
        yield "blobs"
    if "z" in rec:
        yield f"z{rec['z']}"
    if "T" in rec:
        yield f"T{rec['T'] / 1000:g}"
    for name, key in (("accepted", "A"), ("handed-on", "H")):
        if rec.get(key):
            yield name
    if "E" in rec:
        yield f"ends:{rec['E'][0]}"
    if "L" in rec:
        yield f"L{rec['L']}"
    if "I" in rec:
        yield "runs:" + "/".join(f"{ms / 1000:g}" for ms in rec["I"])
    if "V" in rec:
        yield f"expires{_since_start_s(rec['c'] + rec['V']):g}"
    if "P" in rec:
        yield f"P{rec['P']:g}"
    if "R" in rec:
        yield f"released:a{rec['R'][0]}x{rec['R'][1]}"
    if "N" in rec:
        yield f"step:{rec['N'][0]}/{rec['N'][1]}" + (f":{rec['N'][3] / 1000:g}" if len(rec["N"]) > 3 else "")
    if "Y" in rec:
        yield f"of:{rec['Y']}"
    if "B" in rec:
        yield f"child-of:{rec['B']}"
    if "G" in rec:
        yield "batch:" + ",".join(f"{key}{rec['G'][key]}" for key in sorted(rec["G"], key=str.swapcase))
    if rec.get("Z"):
        yield "removed"
    for attempt, token in rec.get("M", ()):
        yield f"sent-on:a{attempt}:{str(token)[:4]}"


def _step(path: str, query: str, lease_ms: int, run_ms: int | None = None, expires_ms: int | None = None) -> str:
    bounds = "".join(f":{name}{ms / 1000:g}" for name, ms in (("r", run_ms), ("e", expires_ms)) if ms)
    return f"{path}?{query}:l{lease_ms / 1000:g}{bounds}"


def _reason(number: int = 0, path: str = "", by: str | bool | None = None) -> str:
    told = ("", "next-step", "release", "replay", "children")
    reasons = (*told, "rejected", "unreachable", "timeout", "lease", "publishes", "expired", "overrun")
    reason = f" {reasons[number]}" if number else ""
    reason = f"{reason} at {path}" if path else reason
    return reason if by is None else f"{reason} by {by or '?'}"


def _absolute(rec: dict[str, Any]) -> dict[str, Any]:
    """A record with its defaults and offsets expanded."""
    states = ("", "created", "dispatched", "running", "completed", "failed", "cancelled")
    actors = ("", "client", "dispatcher", "reconciler")
    history = [
        [at_ms, states[state], attempt, actors[by], states[state] if status is True else status, *more]
        for at_ms, state, attempt, by, status, *more in unpack_each(rec["h"])
    ]
    return rec | {"m": rec["c"] + rec.get("m", 0), "q": rec["c"] + rec.get("q", 0), "h": history}


def _since_start_s(at_ms: float) -> float:
    return (at_ms - START_MS) / 1000


@cache
def _client(port: int) -> redis.Redis:
    return redis.Redis(port=port)


_EVERYTHING = """
local read = {
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  stream = function(key) return redis.call('XRANGE', key, '-', '+') end,
}
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local value = read[kind] and read[kind](key) or redis.call('GET', key)
  all[#all + 1] = { key, kind, value }
end
return all
"""
"""One script: a timer of the app may move an entry from one key to another between two commands."""


def _everything(client: redis.Redis) -> Iterator[tuple[bytes, Any]]:
    found: Any = client.execute_command("EVAL", _EVERYTHING, 0)
    for key, kind, value in found:
        if kind == b"zset":
            scores = {member.decode(): float(score) for member, score in _pairs(value)}
            is_index = b"}c:" not in key
            yield key, {m: _since_start_s(at) for m, at in scores.items()} if is_index else scores
        else:
            yield key, dict(_pairs(value)) if kind == b"hash" else value


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
