"""``multipart/mixed``: each part byte for byte."""

from __future__ import annotations

import asyncio
import email
import email.policy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.http.multipart import boundary_of, headers_and_body, parts_of
from shared.http.problems import Problem

BOUNDARY = "b-1"
PIECES = st.lists(
    st.sampled_from([b"\r\n", b"--", BOUNDARY.encode(), b"\r", b"\n", b"x", b"\x00\xff", b"-", b"--b-1", b"\r\n--b-"])
).map(b"".join)


def written(bodies: list[bytes], head: bytes = b"") -> bytes:
    parts = b"".join(b"--b-1\r\n%b\r\n%b\r\n" % (head, body) for body in bodies)
    return parts + b"--b-1--\r\n"


@settings(max_examples=100, deadline=None)
@given(bodies=st.lists(PIECES, min_size=1, max_size=5), preamble=PIECES, epilogue=PIECES, head=st.booleans())
@example(bodies=[b"\r"], preamble=b"", epilogue=b"", head=False)
@example(bodies=[b"\r\n"], preamble=b"", epilogue=b"", head=True)
@example(bodies=[b"\r\n--b-"], preamble=b"", epilogue=b"", head=True)
async def test_parts_come_out_as_they_went_in(
    bodies: list[bytes], preamble: bytes, epilogue: bytes, head: bool
) -> None:
    bodies = [body.replace(b"--b-1", b"--B-1") for body in bodies]
    preamble = preamble.replace(b"--b-1", b"--B-1")
    header = b"X-Number: 7\r\n" if head else b""
    body = (preamble and preamble + b"\r\n") + written(bodies, header) + epilogue
    parts = await parts_of(body, b"b-1", 5)
    assert [part.number for part in parts] == [*range(1, len(bodies) + 1)]
    assert [headers_and_body(body, part) for part in parts] == [
        ({"x-number": "7"} if head else {}, each) for each in bodies
    ]


@pytest.mark.parametrize("line", [b"--b-12", b"--b-1 x", b"--b-1-", b"--b-1--x"])
async def test_a_line_that_begins_like_a_boundary_is_none(line: bytes) -> None:
    body = written([b"a\r\n" + line + b"\r\nz"])
    assert [headers_and_body(body, part)[1] for part in await parts_of(body, b"b-1", 9)] == [
        b"a\r\n" + line + b"\r\nz"
    ]


async def test_the_library_reads_the_same() -> None:
    bodies = [b"one", b"", b"three\r\n\r\nlines"]
    body = written(bodies, b"Content-Type: text/plain\r\n")
    message = email.message_from_bytes(
        b"Content-Type: multipart/mixed; boundary=b-1\r\n\r\n" + body, policy=email.policy.HTTP
    )
    by_library = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
    assert [headers_and_body(body, part)[1] for part in await parts_of(body, b"b-1", 9)] == by_library


async def test_there_are_no_more_parts_than_may_be() -> None:
    assert len(await parts_of(written([b"x"] * 3), b"b-1", 3)) == 3
    with pytest.raises(Problem, match="more than 3 parts"):
        await parts_of(written([b"x"] * 4), b"b-1", 3)


@pytest.mark.parametrize(
    "body",
    [b"", b"--b-1", b"--b-1\r\n", b"--b-1\r\n\r\nx", b"--b-1\r\n--b-1--", b"--b-1\r\n\r\nx\r\n--b-1", b"x--b-1--"],
)
async def test_what_has_no_end_is_refused(body: bytes) -> None:
    with pytest.raises(Problem, match="is missing"):
        await parts_of(body, b"b-1", 9)


async def test_a_boundary_that_is_almost_there_everywhere_takes_no_longer() -> None:
    body = b"--b-1\r\n\r\n" + b"\r\n--b-" * 1_000_000 + b"\r\n--b-1--"
    (part,) = await parts_of(body, b"b-1", 9)
    assert part.end - part.start == 2 + 6 * 1_000_000


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/mixed; boundary=b-1", b"b-1"),
        ('Multipart/Mixed;charset=x; Boundary="a b\'()+_,./:=?"', b"a b'()+_,./:=?"),
        ("multipart/mixed; boundary=" + "x" * 70, b"x" * 70),
        ("multipart/mixed", None),
        ("multipart/mixed; boundary=", None),
        ('multipart/mixed; boundary="a "', None),
        ("multipart/mixed; boundary=" + "x" * 71, None),
        ('multipart/mixed; boundary="a\\"b"', None),
        ("multipart/mixed; boundary*=utf-8''%C3%A4", None),
    ],
)
def test_the_boundary_is_that_of_the_type(content_type: str, boundary: bytes | None) -> None:
    if boundary is not None:
        assert boundary_of(content_type) == boundary
    else:
        with pytest.raises(Problem, match="boundary"):
            boundary_of(content_type)


async def test_many_lines_that_begin_like_a_boundary_leave_turns_to_others() -> None:
    body = written([b"\r\n--b-12" * 10_000])
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(count_turns())
    assert len(await parts_of(body, b"b-1", 9)) == 1
    others.cancel()
    assert turns >= 4
