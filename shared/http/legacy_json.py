"""Parses JSON as legacy clients send it: an object or an array of objects, with property names in any case."""

from __future__ import annotations

from typing import Any, Final, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from shared.http.problems import FieldError, invalid, invalid_fields

LEGACY_CONTENT_TYPE: Final = "application/json; charset=utf-8"
"""Of the bodies that legacy clients send as text within JSON."""


class LegacyModel(BaseModel):
    """A request body of the legacy contract. Unknown properties are ignored, as on the legacy platform."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, populate_by_name=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse the object, or the first one of an array.

        Raises:
            Problem: 400 that names what is wrong.
        """
        return cls._validate(_elements(body)[0])

    @classmethod
    def parse_all(cls, body: bytes, limit: int) -> list[Self]:
        """Parse the object, or all objects of an array.

        Raises:
            Problem: 400 that names what is wrong.
        """
        elements = _elements(body)
        if len(elements) > limit:
            raise invalid("", f"at most {limit} objects are taken")
        if len(elements) == 1:
            return [cls._validate(elements[0])]
        return [cls._validate(element, f"/{index}") for index, element in enumerate(elements)]

    @classmethod
    def _validate(cls, element: Any, where: str = "") -> Self:
        if not isinstance(element, dict):
            raise invalid(where, "a JSON object, or an array of them, is expected")
        members = cast("dict[str, Any]", element)
        names = {(field.alias or name).lower(): field.alias or name for name, field in cls.model_fields.items()}
        known = {names[key.lower()]: value for key, value in members.items() if key.lower() in names}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            raise invalid_fields(field_errors(error, where)) from None


def _elements(body: bytes) -> list[Any]:
    if not body.strip():
        raise invalid("", "it is empty; a JSON object is expected")
    try:
        document: Any = from_json(body.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError:
        raise invalid("", "it is not JSON") from None
    if isinstance(document, list):
        return cast("list[Any]", document) or [None]
    return [document]


def field_errors(error: ValidationError, where: str = "") -> list[FieldError]:
    """Turn a validation error into field errors, which never repeat the input."""
    return [
        {
            "pointer": where + "".join(f"/{part}" for part in item["loc"]),
            "detail": item["msg"].removeprefix("Value error, "),
        }
        for item in error.errors(include_url=False, include_input=False)
    ]
