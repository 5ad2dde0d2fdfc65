"""What the body of an answer says: in one line, whatever the body is."""

from __future__ import annotations

import json

import pytest

from shared.dispatch.answer_text import MAX_CHARS, text_of

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", b"must be one of image/jpeg, image/png", "must be one of image/jpeg, image/png"),
        ("Text/Plain; charset=utf-8", "zu groß\r\n\tfür das Modell ".encode(), "zu groß für das Modell"),
        ("text/plain", b"a\x00b\x1b[31mc\x7f\xc2\x9bd", "a b [31mc d"),
        ("text/plain", "a\u202eb\u2028c\ufeffd".encode(), "a b c d"),
        ("text/plain", b"\xff\xfe", "\ufffd\ufffd"),
        ("text/plain", b"x" * 70_000, "x" * MAX_CHARS),
        ("text/plain", b"", ""),
        ("text/plain", b" \n" * 30_000, ""),
        (PROBLEM, b'{"title": "Bad", "detail": "too many bands"}', "too many bands"),
        (PROBLEM, b'{"title": "Bad"}', '{"title": "Bad"}'),
        ("application/json", b'{"detail": "no such model"}', "no such model"),
        (
            "application/json",
            b'{"detail": [{"type": "missing", "loc": ["body", "size"], "msg": "Field required", "input": {"a": 1}},'
            b' {"loc": ["query", "n", 0], "msg": "Not a number"}, {"msg": "Odd"}, {"loc": 1}, 7, null]}',
            "body.size: Field required; query.n.0: Not a number; Odd",
        ),
        ("application/json", b'{"detail": {"why": "nested"}}', '{"detail": {"why": "nested"}}'),
        ("application/json", b'"just text"', "just text"),
        ("application/json", b'["one", "two"]', "one; two"),
        ("application/json", b'{"error": "no band", "n": 1}', '{"error": "no band", "n": 1}'),
        ("application/json", b'{"detail": "cut off', '{"detail": "cut off'),
        ("application/json", b"[" * 60_000, "[" * MAX_CHARS),
        ("application/json", b"9" * 60_000, "9" * MAX_CHARS),
        ("application/json", b'{"detail": []}', '{"detail": []}'),
        (
            "text/html; charset=utf-8",
            b"<!doctype html>\n<html lang=en>\n<title>413 Request Entity Too Large</title>\n"
            b"<h1>Request Entity Too Large</h1>\n<p>at most 5 &lt;MB&gt;</p>\n",
            "Request Entity Too Large at most 5 <MB>",
        ),
        ("text/html", b"<head><style>p {color: red}</style></head><body><p>No", "No"),
        ("image/png", b"\x89PNG", ""),
        ("application/octet-stream", b"text", ""),
        ("", b"text", ""),
    ],
)
def test_the_text_of_an_answer_is_one_line(content_type: str, body: bytes, text: str) -> None:
    assert text_of(content_type, body) == text


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<" * 65_536),
        ("text/html", b"<a " * 21_000),
        ("text/html", b"&" * 65_536),
        ("text/html", b"&#" + b"1" * 65_000),
        ("text/html", b"<title>" * 9_000),
        ("text/plain", b"\xff" * 65_536),
        ("application/json", b'{"detail": [' + b'{"msg": "x"},' * 5_000 + b"0]}"),
        ("application/json", b'{"a":' * 10_000),
        ("application/json", json.dumps({"detail": "\u0000" * 10_000}).encode()),
    ],
)
def test_a_malicious_text_ends_up_as_one_short_line(content_type: str, body: bytes) -> None:
    text = text_of(content_type, body)
    assert len(text) <= MAX_CHARS
    assert text.isprintable()
