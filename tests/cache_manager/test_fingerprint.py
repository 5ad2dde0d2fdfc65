"""What tells whether two submits with the same idempotency key are the same. Records keep it, so it never changes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cache_manager.request_parsing import fingerprint


@pytest.mark.parametrize(
    ("query", "body", "headers", "kept"),
    [
        ("", b"x", {}, "6cefc8fc21c68e60016b85f1c2648dbb"),
        (
            "a=1",
            b"x",
            {"Batch": "B1", "Pipeline": "/v1/b?", "Content-Encoding": "gzip"},
            "256472bccd63c055955ed87f2392e538",
        ),
        ("a=1", b"", {"Batch": "", "Upload": "5 ab"}, "866abf46d9cc3bbc755e7a8d7b56fe05"),
        ("", b"x", {"Start-After": "300"}, "b757523c40869ba9a2561321ad983c48"),
    ],
)
def test_a_fingerprint_is_what_records_have(query: str, body: bytes, headers: Mapping[str, str], kept: str) -> None:
    assert fingerprint("text/plain", query, body, headers) == kept


def test_the_order_of_headers_does_not_matter() -> None:
    headers = {"Start-After": "1", "Callback": "a", "Batch": "b"}
    assert fingerprint("a/b", "", b"", headers) == fingerprint("a/b", "", b"", dict(reversed([*headers.items()])))


def test_a_text_counts_with_its_name() -> None:
    assert fingerprint("a/b", "", b"", {"Start-After": "9"}) != fingerprint("a/b", "", b"", {"Start-Before": "9"})
