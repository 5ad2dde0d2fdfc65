"""What is wrong with the JSON of a request, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from shared.http.problems import FieldError, invalid, json_pointer, unknown_name

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_SENTENCES: Final = {
    "missing": "it is missing",
    "bool_type": "true or false is expected",
    "string_type": "a text is expected",
    "int_type": "a whole number is expected",
    "int_parsing": "a whole number is expected",
    "int_from_float": "a whole number is expected",
    "int_parsing_size": "the number is too large",
    "float_type": "a number is expected",
    "finite_number": "a number is expected",
    "literal_error": "{expected} is expected",
    "greater_than_equal": "at least {ge} is expected",
    "less_than_equal": "at most {le} is expected",
    "string_too_short": "it is too short: at least {min_length} are expected",
    "string_too_long": "it is too long: at most {max_length} characters are taken",
}
"""By the validator's kind of error. A kind that is missing here keeps the validator's own words."""


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        Problem: 400 if there is none.
    """
    if not body.strip():
        raise invalid("", "it is empty; a JSON object is expected")
    try:
        document = from_json(body.removeprefix(BYTE_ORDER_MARK))
    except ValueError:
        raise invalid("", "it is not JSON") from None
    if not isinstance(document, dict):
        raise invalid("", "a JSON object is expected")
    return cast("dict[str, Any]", document)


def field_errors(error: ValidationError, where: str = "", *, known: Sequence[str] = ()) -> Iterator[FieldError]:
    """Turn a validation error into field errors, which never repeat the input. The *known* members are what an
    unknown one may have been meant for."""
    return (_field_error(item, where, known) for item in error.errors(include_url=False, include_input=False))


def _field_error(item: ErrorDetails, where: str, known: Sequence[str]) -> FieldError:
    if item["type"] == "extra_forbidden":
        return unknown_name(str(item["loc"][-1]), "member", known, where)
    sentence = _SENTENCES.get(item["type"])
    detail = sentence.format(**item.get("ctx", {})) if sentence else item["msg"].removeprefix("Value error, ")
    return {"pointer": where + json_pointer(item["loc"]), "detail": detail}
