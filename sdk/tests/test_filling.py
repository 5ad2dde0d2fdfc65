"""How items get into batches, step by step: what a real backbone answers after 10,000 items, or after a day."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import pytest

from taskbackbone import errors
from taskbackbone._batching import Filling, Names
from taskbackbone._calls import Caller
from taskbackbone._core import Answer, Backbone, Call, Sleep
from taskbackbone._drivers import aeach, each
from taskbackbone._payload import weight_of


class Server:
    """Takes steps. It knows batches by their keys, and tasks by theirs, and each batch takes *most* tasks.

    ``calls`` has how many tasks each submit had; an *older* one takes one at a time.
    """

    def __init__(self, most: int = 10_000, *, is_older: bool = False) -> None:
        self.most = most
        self.is_older = is_older
        self.calls: list[int] = []
        self.lost: set[int] = set()
        """Those of many, from 1, that it says nothing of, or that it cannot take just now."""
        self.last: Call
        self.batches: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, str] = {}
        """By their keys, the batches that they are in."""
        self.submits = 0
        self.full = 0
        self.slept: list[float] = []

    def run(self, steps: Any) -> Any:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self.slept.append(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(self._answer(step))
        except StopIteration as stop:
            return stop.value

    def _answer(self, call: Call) -> Answer:
        key = call.headers.get("Idempotency-Key", "")
        if call.url.endswith("/batches"):
            self.callback = call.headers.get("Callback")
            number = len(self.batches) + 1
            batch = self.batches.setdefault(key, {"TaskId": f"batch-{number}", "Total": 0, "Sealed": False})
            return answer(202, batch)
        if call.url.endswith("/seal"):
            batch = self._batch(call.url.split("/")[-2])
            batch["Sealed"] = True
            return answer(200, batch)
        self.last = call
        if "/submit-many/" not in call.url:
            self.calls.append(1)
            return self._take(key, call.headers["Batch"])
        if self.is_older:
            return Answer(404, {})
        assert isinstance(call.body, bytes)
        parts = parts_of(call)
        self.calls.append(len(parts))
        taken = [self._take(part["Idempotency-Key"], call.headers["Batch"]) for part in parts]
        lines = [
            {"Line": number, "StatusCode": one.status, **(one.json() if one.is_success else {"Problem": one.json()})}
            for number, one in enumerate(taken, 1)
            if number not in self.lost
        ]
        self.lost = set()
        if all(one.status == 202 for one in taken) or any(one.is_success for one in taken):
            return Answer(202, {}, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        first = taken[0]
        return answer(first.status, {**first.json(), "Outcomes": lines})

    def _take(self, key: str, batch_id: str) -> Answer:
        self.submits += 1
        batch = self._batch(batch_id)
        if self.full:
            self.full -= 1
            return problem(429, "queue-full", {"retry-after": "600"})
        if key in self.tasks:
            is_known = self.tasks[key] == batch["TaskId"]
            return answer(202, {"TaskId": key}) if is_known else problem(422, "idempotency-key-reused")
        if batch["Sealed"]:
            return problem(409, "batch-sealed")
        if batch["Total"] == self.most:
            return problem(409, "batch-full")
        batch["Total"] += 1
        self.tasks[key] = batch["TaskId"]
        return answer(202, {"TaskId": key})

    def _batch(self, batch_id: str) -> dict[str, Any]:
        return next(batch for batch in self.batches.values() if batch["TaskId"] == batch_id)

    @property
    def sizes(self) -> list[int]:
        return [batch["Total"] for batch in self.batches.values()]


def parts_of(call: Call) -> list[Message]:
    """The parts, as the standard library reads them."""
    assert isinstance(call.body, bytes)
    head = f"Content-Type: {call.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + call.body)
    assert isinstance(message, EmailMessage)
    return list(message.iter_parts())


def answer(status: int, document: dict[str, Any]) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(document).encode())


def problem(status: int, kind: str, headers: dict[str, str] | None = None) -> Answer:
    return answer(status, {"type": f"urn:task-backbone:problem:{kind}", "detail": "Because."})._replace(
        headers=headers or {}
    )


def filling(name: str | None = "photos", **options: Any) -> Filling:
    how: dict[str, Any] = {"query": None, "priority": None, "pipeline": None, "then": None, "name": name, **options}
    return Filling(Caller(Backbone("http://b.example"), retry_for_s=0), "/v1/x", **how)


def fill(server: Server, items: list[str], name: str | None = "photos", **options: Any) -> None:
    into = filling(name, **options)
    for item in items:
        add(server, into, [item])
    server.run(into.seal())


def add(server: Server, into: Filling, items: list[str]) -> list[str]:
    """Submit them together."""
    bodies = [item.encode() for item in items]
    named = [(item, body, "text/plain", hashlib.sha256(body).hexdigest()) for item, body in zip(items, bodies)]
    return server.run(into.add([into.entry(*each) for each in named]))


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


def test_more_than_a_batch_takes_makes_several() -> None:
    server = Server(most=3)
    fill(server, numbers(0, 8))
    assert server.sizes == [3, 3, 2]
    assert all(batch["Sealed"] for batch in server.batches.values())
    assert server.submits == 10  # two were refused


def test_the_same_items_are_found_in_whichever_batch_they_are() -> None:
    server = Server(most=3)
    fill(server, numbers(0, 8))
    before = dict(server.tasks)
    fill(server, numbers(0, 8)[::-1])
    assert (server.sizes, server.tasks) == ([3, 3, 2], before)


def test_new_items_among_old_ones_make_another_batch() -> None:
    server = Server(most=3)
    fill(server, numbers(0, 4))
    fill(server, ["new", *numbers(0, 4), "newer"])
    assert server.sizes == [3, 1, 2]
    fill(server, ["newest", *numbers(0, 4), "newer", "new"])
    assert server.sizes == [3, 1, 2, 1]


def test_a_batch_that_was_not_sealed_is_filled_up() -> None:
    server, into = Server(), filling()
    for item in ("1", "2"):
        add(server, into, [item])
    fill(server, numbers(0, 4))
    assert server.sizes == [4]


def test_equal_items_are_told_apart_and_a_type_makes_another_item() -> None:
    server = Server()
    fill(server, ["x", "x", "x"])
    fill(server, ["x", "x"])
    assert server.sizes == [3]


@pytest.mark.parametrize(
    "options",
    [
        *({"query": {"a": 1}}, {"pipeline": ["/v1/y"]}, {"then": "/v1/y"}, {"name": "others"}, {"name": None}),
        *({"start_after": 60}, {"start_before": 60}, {"max_run_s": 60}, {"callback": "any"}),
    ],
)
def test_what_else_is_asked_for_is_another_batch(options: dict[str, Any]) -> None:
    server = Server()
    fill(server, ["x"])
    fill(server, ["x"], **options)
    assert server.sizes == [1, 1]


def test_a_full_queue_is_waited_for() -> None:
    server = Server()
    server.full = 3
    fill(server, ["x"])
    assert (server.sizes, server.slept) == ([1], [60.0] * 3)


def test_a_key_that_is_nobodys_ends_it() -> None:
    server = Server()
    fill(server, ["x"], name="photos")
    server.tasks = dict.fromkeys(server.tasks, "elsewhere")
    with pytest.raises(errors.KeyReused):
        fill(server, ["x"], name="photos")
    assert len(server.batches) <= 3


class TestManyTogether:
    def test_many_go_with_one_call_and_are_told_in_order(self) -> None:
        server, into = Server(), filling()
        ids = add(server, into, numbers(0, 100))
        assert (server.calls, server.sizes) == ([100], [100])
        assert ids == list(server.tasks)

    def test_what_is_submitted_is_the_same_as_one_by_one(self) -> None:
        together, alone = Server(), Server()
        add(together, filling(), numbers(0, 5))
        fill(alone, numbers(0, 5))
        assert together.tasks == alone.tasks

    def test_the_keys_are_those_of_earlier_versions(self) -> None:
        server = Server()
        fill(server, ["x"])
        assert [*server.batches, *server.tasks] == [
            "00821ea1007bd381656f86ce640f6177216b47e30b901d9f39c2d47af427d260",
            "cc70430dc792413c4b0ed5e7ba04477c4a71b691d322e4f1f3f01b91e110b316",
        ]

    def test_each_has_its_type_and_bytes_and_the_call_has_what_holds_for_all(self) -> None:
        server = Server()
        into = filling(start_after=60, max_run_s=1.5, callback="any", priority=9, query={"a": "b c"})
        bodies = [b"--\r\n\r\n--", b"", bytes(range(256))]
        entries = [into.entry(str(n), body, f"a/{n}", str(n)) for n, body in enumerate(bodies)]
        server.run(into.add(entries))
        call = server.last
        assert call.url == "http://b.example/api/v1/submit-many/v1/x?a=b+c"
        asked = {name: call.headers[name] for name in ("Start-After", "Max-Run", "Priority")}
        assert asked == {"Start-After": "60", "Max-Run": "1.5", "Priority": "9"}
        assert ("Callback" in call.headers, server.callback) == (False, "any")  # the batch's end is told
        parts = parts_of(call)
        assert [part["Content-Type"] for part in parts] == ["a/0", "a/1", "a/2"]
        assert [part.get_payload(decode=True) for part in parts] == bodies

    def test_more_than_a_batch_takes_makes_several(self) -> None:
        server, into = Server(most=30), filling()
        add(server, into, numbers(0, 50))
        add(server, into, numbers(50, 100))
        assert server.sizes == [30, 30, 30, 10]

    def test_new_ones_among_old_ones_make_another_batch(self) -> None:
        server = Server()
        fill(server, numbers(0, 5))
        add(server, filling(), [*numbers(0, 5), "new"])
        assert server.sizes == [5, 1]

    def test_a_full_queue_is_waited_for_once_a_call(self) -> None:
        server, into = Server(), filling()
        server.full = 3
        assert len(set(add(server, into, numbers(0, 10)))) == 10
        assert (server.calls, server.slept, server.sizes) == ([10, 3], [60.0], [10])

    def test_if_none_is_taken_each_is_told_all_the_same(self) -> None:
        server, into = Server(), filling()
        server.full = 10
        add(server, into, numbers(0, 10))
        assert (server.calls, server.slept) == ([10, 10], [60.0])

    def test_one_of_which_nothing_is_told_is_submitted_alone(self) -> None:
        server, into = Server(), filling()
        server.lost = {2, 5}
        add(server, into, numbers(0, 10))
        assert (server.calls, server.sizes) == ([10, 1, 1], [10])

    def test_a_refused_one_is_named(self) -> None:
        server = Server()
        fill(server, ["x"], name="photos")
        server.tasks = dict.fromkeys(server.tasks, "elsewhere")
        with pytest.raises(errors.KeyReused, match="x: Because"):
            add(server, filling(), ["new", "x"])

    def test_an_older_backbone_gets_one_at_a_time(self) -> None:
        server, into = Server(is_older=True), filling()
        add(server, into, numbers(0, 3))
        add(server, into, numbers(3, 6))
        assert (server.calls, server.sizes) == ([1] * 6, [6])

    def test_a_large_one_goes_alone(self) -> None:
        server, into = Server(), filling()
        add(server, into, ["a", "b", "c" * 70_000])
        assert server.calls == [2, 1]


class TestNames:
    @pytest.mark.parametrize(
        ("items", "names"),
        [
            ([b"1", "2", {}], ["000001", "000002", "000003"]),
            ([Path("a/x.jpg"), Path("b/x.jpg"), Path("X.jpg")], ["x.jpg", "x.jpg-2", "X.jpg-3"]),
            ({"a/b": 1, "a\\b": 2, "": 3, "..": 4, "a\n\x1b[2J": 5}, ["a_b", "a_b-2", "_", "_-2", "a__[2J"]),
            ([Path("ü" * 200)], ["ü" * 90]),
        ],
    )
    def test_they_are_names_of_files(self, items: Any, names: list[str]) -> None:
        assert [name for name, _ in Names().all_of(items)] == names


class TestSeveralAtATime:
    def test_results_come_in_order_and_the_first_error_ends_it(self) -> None:
        doubled = each(lambda items: [item * 2 for item in items], iter(range(50)), 4)
        assert list(doubled) == [item * 2 for item in range(50)]
        with pytest.raises(ZeroDivisionError):
            list(each(lambda items: [1 // item for item in items], iter([1, 0, 2]), 2))

    def test_no_more_are_read_than_are_at_work(self) -> None:
        read: list[int] = []

        def items() -> Any:
            for number in range(100):
                read.append(number)
                yield number

        results = each(lambda items: items, items(), 4)
        assert next(results) == 0
        assert len(read) <= 6

    def test_what_waits_goes_together_if_it_is_small(self) -> None:
        is_busy, groups = threading.Event(), list[list[str]]()

        def work(items: list[str]) -> list[str]:
            groups.append(items)
            assert is_busy.wait(60)
            return items

        def items() -> Any:
            yield from numbers(0, 400)
            is_busy.set()

        assert list(each(work, items(), 2, weight_of)) == numbers(0, 400)
        assert 200 < max(map(len, groups)) <= 250
        assert len(groups) <= 6

    async def test_it_does_so_in_an_event_loop(self) -> None:
        is_busy, groups = asyncio.Event(), list[list[str]]()

        async def work(items: list[str]) -> list[str]:
            groups.append(items)
            await is_busy.wait()
            return items

        async def items() -> AsyncIterator[str]:
            for number in range(400):
                yield str(number)
                await asyncio.sleep(0)
            is_busy.set()

        assert [one async for one in aeach(work, items(), 2, weight_of)] == numbers(0, 400)
        assert 200 < max(map(len, groups)) <= 250
        assert len(groups) <= 6

    async def test_an_error_in_an_event_loop_ends_it(self) -> None:
        async def work(items: list[int]) -> list[int]:
            return [1 // item for item in items]

        async def items() -> AsyncIterator[int]:
            for item in (1, 0, 2):
                yield item

        with pytest.raises(ZeroDivisionError):
            [one async for one in aeach(work, items(), 2)]

    def test_what_is_large_or_unknown_goes_alone(self, tmp_path: Path) -> None:
        small, large = tmp_path / "small", tmp_path / "large"
        small.write_bytes(b"x")
        large.write_bytes(bytes(70_000))
        assert [weight_of(one) for one in (b"", "x" * 1_000, small, {"a": 1})] == [1 / 250] * 4
        assert weight_of(bytes(32 * 1024)) == 1 / 32
        alone = (bytes(70_000), large, tmp_path / "none", iter([b""]), small.open("rb"), 5)
        assert [weight_of(one) for one in alone] == [1] * 6

    def test_items_that_weigh_much_are_not_held(self) -> None:
        read: list[int] = []

        def items() -> Any:
            for number in range(100):
                read.append(number)
                yield bytes(70_000)

        assert next(each(lambda items: items, items(), 4, weight_of)) == bytes(70_000)
        assert len(read) <= 6
