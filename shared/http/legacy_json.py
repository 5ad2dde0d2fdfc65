"""Parses JSON as legacy clients send it: an object or an array of objects, with property names in any case, and with
numbers and booleans where a text is meant."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Final, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from shared.http.bounded_json import Fraction, Integer, RepeatingObject, read_json
from shared.http.problems import invalid, invalid_fields, too_large
from shared.http.validation import REPEATED, field_errors

LEGACY_CONTENT_TYPE: Final = "application/json; charset=utf-8"
"""Of the bodies that legacy clients send as text within JSON."""


def as_text(value: Any) -> Any:
    """A text from a number as it is written, or from a boolean: the legacy platform's parser read them so."""
    match value:
        case bool():
            return "true" if value else "false"
        case Integer() | Fraction():
            return value.written
        case bytes():
            raise ValueError("it is too long")
        case _:
            return value


def _as_utf8(value: Any) -> Any:
    text = value if isinstance(value, bytes) else as_text(value)
    return text.encode() if isinstance(text, str) else text


LegacyText = Annotated[str, BeforeValidator(as_text, json_schema_input_type=str | float | bool)]
LegacyTextBytes = Annotated[bytes, BeforeValidator(_as_utf8, json_schema_input_type=str | float | bool)]
"""A text of any length, in UTF-8."""


class LegacyModel(BaseModel):
    """A request body of the legacy contract. Unknown properties are ignored, as on the legacy platform."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, populate_by_name=False, use_attribute_docstrings=True
    )

    most_bytes: ClassVar[int | None] = None
    """How large a body may be. None: as large as the Functions host takes."""

    @classmethod
    async def parse(cls, body: bytes) -> Self:
        """Parse the object, or the first one of an array.

        Raises:
            Problem: 400 that names what is wrong; 413 if the body is too large.
        """
        return cls._validate((await cls._elements(body))[0], "")

    @classmethod
    async def parse_all(cls, body: bytes, limit: int) -> list[Self]:
        """Parse the object, or all objects of an array.

        Raises:
            Problem: 400 that names what is wrong; 413 if the body is too large.
        """
        elements = await cls._elements(body)
        if len(elements) > limit:
            raise invalid("", f"at most {limit} objects are taken")
        return [
            cls._validate(element, f"/{index}" if len(elements) > 1 else "") for index, element in enumerate(elements)
        ]

    @classmethod
    async def _elements(cls, body: bytes) -> list[Any]:
        if cls.most_bytes is not None and len(body) > cls.most_bytes:
            raise too_large(cls.most_bytes)
        document = await read_json(body)
        return (cast("list[Any]", document) or [None]) if isinstance(document, list) else [document]

    @classmethod
    def _validate(cls, element: Any, where: str) -> Self:
        if not isinstance(element, dict):
            raise invalid(where, "a JSON object, or an array of them, is expected")
        members = cast("dict[str, Any]", element)
        names = cls._names()
        if isinstance(element, RepeatingObject) and (repeated := element.repeated & names.keys()):
            raise invalid_fields(
                {"pointer": f"{where}/{names[name]}", "detail": REPEATED} for name in sorted(repeated)
            )
        known = {names[name.lower()]: value for name, value in members.items() if name.lower() in names}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            raise invalid_fields(field_errors(error, where)) from None

    @classmethod
    @cache
    def _names(cls) -> dict[str, str]:
        """The names of the properties, by themselves in lower case."""
        return {(field.alias or name).lower(): field.alias or name for name, field in cls.model_fields.items()}
