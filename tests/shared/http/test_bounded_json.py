"""JSON bombs cost little, and whatever else is JSON is read as it is."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_manager.queue_schemas import QueueSettings
from cache_manager.schemas import Heartbeats, TaskRelease, TaskUpsert
from request_reporter.api import ProcessingReport
from shared.http.bounded_json import MAX_DEPTH, MAX_VALUES, read_json
from shared.http.problems import Problem

MB = 1024 * 1024
PAD = b" " * 70_000
"""Makes a body too large to be parsed at once."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def read(body: bytes) -> Any:
    return asyncio.run(read_json(body))


def refusal(body: bytes) -> str:
    with pytest.raises(Problem) as refused:
        read(body)
    assert refused.value.status == 400
    return refused.value.document["errors"][0]["detail"]


async def turns_during(body: bytes) -> int:
    """How many turns others have while the body is read."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await asyncio.sleep(0)
    before = turns
    await asyncio.gather(read_json(body), return_exceptions=True)
    beside.cancel()
    return turns - before


async def peak_bytes(body: bytes) -> int:
    """What is taken beside the body."""
    tracemalloc.start()
    try:
        with suppress(Problem):
            await TaskUpsert.parse(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(VALUES, st.booleans())
def test_large_and_small_bodies_are_read_as_the_same_document(value: Any, escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        at_once = read(body)
    except Problem:
        assert refusal(PAD + body) == "it is not JSON"
        return
    assert at_once == value
    assert read(PAD + body) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1,]",
        b'{"a":1,}',
        b'{"a" 1}',
        b"{1:1}",
        b"[1 2]",
        b"01",
        b"1.",
        b"NaN",
        b"-Infinity",
        b'"\n"',
        b'"\\x"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xff"',
        b'"\\n\x80"',
        b'"',
        b"{}{}",
        b"tru",
    ],
)
def test_what_is_not_json_is_refused_whatever_its_size(body: bytes) -> None:
    if body:
        assert refusal(body) == "it is not JSON"
    assert refusal(PAD + body) == "it is not JSON"


@pytest.mark.parametrize("text", ["\U0001f30d", '\\"', "ü", "a\n", "\\\\ud83d", "x"])
@pytest.mark.parametrize("escaped", [True, False])
def test_a_long_text_becomes_utf_8_wherever_its_pieces_end(text: str, escaped: bool) -> None:
    for lead in range(7):
        long = "-" * lead + text * 300_000
        document = read(json.dumps({"Body": long}, ensure_ascii=escaped).encode())
        assert document["Body"] == long.encode()


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" + b"[]," * (12 * MB) + b"[]]",
        b"[" + b"0," * (4 * MB) + b"0]",
        b'{"TaskId":"a"' + b',"":0' * (2 * MB) + b"}",
        b"[" * (8 * MB),
        b'{"a":' * (2 * MB),
        b" " * (8 * MB) + b"{}",
        b"1" * (8 * MB),
        b'{"' + b"n" * (8 * MB) + b'":1}',
        json.dumps({"Body": "\U0001f30d" + "x" * (8 * MB)}, ensure_ascii=False).encode(),
        json.dumps({"Status": "\U0001f30d" + "x" * (8 * MB)}, ensure_ascii=False).encode(),
        json.dumps({"Body": '\\"' * (3 * MB)}).encode(),
        b'{"Body":"' + b"\\u0041" * (2 * MB) + b'"}',
        b'[{},"' + b'","'.join([b"\xf0\x9f\x8c\x8d" + b"x" * 4_000] * 2_000) + b'"]',
    ],
    ids=[
        "lists",
        "numbers",
        "names",
        "depth",
        "objects",
        "blanks",
        "digits",
        "name",
        "wide",
        "wide status",
        "quotes",
        "escapes",
        "texts",
    ],
)
def test_no_body_takes_much_more_than_its_bytes_beside_it(bomb: bytes) -> None:
    assert asyncio.run(peak_bytes(bomb)) <= 1.25 * len(bomb) + 20 * MB


def test_others_have_their_turns_while_a_body_is_read() -> None:
    for body in (
        b'{"Body":"' + b"\\n" * (4 * MB) + b'"}',
        b" " * (8 * MB) + b"{}",
        b"[" + b"0," * 15_000 + b"0]" + PAD,
        b'{"a":0' + b',"b":0' * 15_000 + b"}" + PAD,
    ):
        assert asyncio.run(turns_during(body)) >= 15


def test_too_many_values_and_levels_are_refused_in_small_bodies_too() -> None:
    assert refusal(b"[" + b"0," * MAX_VALUES + b"0]" + PAD) == f"it has more than {MAX_VALUES} values"
    for pad in (b"", PAD):
        assert refusal(pad + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)).startswith("it is nested deeper")
        assert read(pad + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@pytest.mark.parametrize("model", [QueueSettings, TaskRelease, Heartbeats, ProcessingReport])
def test_a_body_that_can_be_small_has_a_small_limit(model: Any) -> None:
    with pytest.raises(Problem) as refused:
        asyncio.run(model.parse(b" " * (model.most_bytes + 1)))
    assert refused.value.status == 413


@pytest.mark.parametrize("pad", [b"", PAD])
@pytest.mark.parametrize(
    ("model", "body", "pointer"),
    [
        (TaskUpsert, b'{"TaskId":"a","taskid":"b"}', "/TaskId"),
        (TaskUpsert, b'[{"Status":"a","Status":"a"}]', "/Status"),
        (QueueSettings, b'{"Paused":true,"paused":false}', "/Paused"),
        (Heartbeats, b'{"Heartbeats":[{"TaskId":"a","TASKID":"b"}]}', "/Heartbeats/0/TaskId"),
        (ProcessingReport, b'[{"ApiPath":"a","APIPATH":"b","ServiceCluster":"c"}]', "/ApiPath"),
    ],
)
def test_a_name_that_stands_twice_in_any_case_is_refused(model: Any, body: bytes, pointer: str, pad: bytes) -> None:
    if model is QueueSettings:
        pad = b""
    with pytest.raises(Problem) as refused:
        asyncio.run(model.parse_all(pad + body, 5) if model is ProcessingReport else model.parse(pad + body))
    assert [error["pointer"] for error in refused.value.document["errors"]] == [pointer]
