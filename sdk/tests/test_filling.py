"""How items get into batches, step by step: what a real backbone answers after 10,000 items, or after a day."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from taskbackbone import errors
from taskbackbone._batching import Filling, Names
from taskbackbone._calls import Caller
from taskbackbone._core import Answer, Backbone, Call, Sleep
from taskbackbone._drivers import each


class Server:
    """Takes steps. It knows batches by their keys, and tasks by theirs, and each batch takes *most* tasks."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
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
            number = len(self.batches) + 1
            batch = self.batches.setdefault(key, {"TaskId": f"batch-{number}", "Total": 0, "Sealed": False})
            return answer(202, batch)
        if call.url.endswith("/seal"):
            batch = self._batch(call.url.split("/")[-2])
            batch["Sealed"] = True
            return answer(200, batch)
        self.submits += 1
        batch = self._batch(call.headers["Batch"])
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


def answer(status: int, document: dict[str, Any]) -> Answer:
    import json

    return Answer(status, {"content-type": "application/json"}, json.dumps(document).encode())


def problem(status: int, kind: str, headers: dict[str, str] | None = None) -> Answer:
    return answer(status, {"type": f"urn:task-backbone:problem:{kind}", "detail": "Because."})._replace(
        headers=headers or {}
    )


def filling(name: str | None = "photos", **options: Any) -> Filling:
    how: dict[str, Any] = {"query": None, "priority": None, "pipeline": None, "then": None, "name": name, **options}
    return Filling(Caller(Backbone("http://b.example")), "/v1/x", **how)


def fill(server: Server, items: list[str], name: str | None = "photos", **options: Any) -> None:
    into = filling(name, **options)
    for item in items:
        body = item.encode()
        server.run(into.add(body, "text/plain", hashlib.sha256(body).hexdigest()))
    server.run(into.seal())


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
    for body in (b"1", b"2"):
        server.run(into.add(body, "text/plain", hashlib.sha256(body).hexdigest()))
    fill(server, numbers(0, 4))
    assert server.sizes == [4]


def test_equal_items_are_told_apart_and_a_type_makes_another_item() -> None:
    server = Server()
    fill(server, ["x", "x", "x"])
    fill(server, ["x", "x"])
    assert server.sizes == [3]


@pytest.mark.parametrize(
    "options", [{"query": {"a": 1}}, {"pipeline": ["/v1/y"]}, {"then": "/v1/y"}, {"name": "others"}, {"name": None}]
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
        assert list(each(lambda item: item * 2, iter(range(50)), 4)) == [item * 2 for item in range(50)]
        with pytest.raises(ZeroDivisionError):
            list(each(lambda item: 1 // item, iter([1, 0, 2]), 2))

    def test_no_more_are_read_than_are_at_work(self) -> None:
        read: list[int] = []

        def items() -> Any:
            for number in range(100):
                read.append(number)
                yield number

        results = each(lambda item: item, items(), 4)
        assert next(results) == 0
        assert len(read) <= 6
