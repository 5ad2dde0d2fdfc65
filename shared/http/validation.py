"""What is wrong with the JSON of a request, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from shared.http.bounded_json import RepeatingObject, read_json
from shared.http.problems import NAME_SHOWN_CHARS, FieldError, invalid, json_pointer, too_large, unknown_name

REPEATED: Final = "the name is there more than once, perhaps in another case"

_SENTENCES: Final = {
    "missing": "it is missing",
    "bool_type": "true or false is expected",
    "string_type": "a text is expected",
    "bytes_type": "a text is expected",
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


async def json_object(body: bytes, most_bytes: int) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        Problem: 400 if there is none; 413 if the body has more than *most_bytes*.
    """
    if len(body) > most_bytes:
        raise too_large(most_bytes)
    document = await read_json(body)
    if not isinstance(document, dict):
        raise invalid("", "a JSON object is expected")
    return cast("dict[str, Any]", document)


def refuse_repeated(members: dict[str, Any], names: Mapping[str, str]) -> None:
    """
    Args:
        names: the names as documented, by themselves in lower case.

    Raises:
        PydanticCustomError: a name is there more than once, in whatever case.
    """
    if isinstance(members, RepeatingObject):
        name = min(members.repeated)
        raise PydanticCustomError("repeated_name", REPEATED, {"name": names.get(name, name)})


def field_errors(error: ValidationError, where: str = "", *, known: Sequence[str] = ()) -> Iterator[FieldError]:
    """Turn a validation error into field errors, which never repeat the input. The *known* members are what an
    unknown one may have been meant for."""
    return (_field_error(item, where, known) for item in error.errors(include_url=False, include_input=False))


def _field_error(item: ErrorDetails, where: str, known: Sequence[str]) -> FieldError:
    if item["type"] == "extra_forbidden":
        return unknown_name(str(item["loc"][-1]), "member", known, where)
    if item["type"] == "repeated_name":
        name = str(item.get("ctx", {}).get("name"))[:NAME_SHOWN_CHARS]
        return {"pointer": where + json_pointer([*item["loc"], name]), "detail": REPEATED}
    sentence = _SENTENCES.get(item["type"])
    detail = sentence.format(**item.get("ctx", {})) if sentence else item["msg"].removeprefix("Value error, ")
    return {"pointer": where + json_pointer(item["loc"]), "detail": detail}
