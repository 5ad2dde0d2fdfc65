"""Parses JSON as legacy clients send it: an object or an array of objects, with property names in any case, and with
numbers and booleans where a text is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Final, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import from_json

from shared.http.problems import invalid, invalid_fields
from shared.http.validation import BYTE_ORDER_MARK, field_errors

LEGACY_CONTENT_TYPE: Final = "application/json; charset=utf-8"
"""Of the bodies that legacy clients send as text within JSON."""

_AsWritten = Callable[[str | None], str]
"""The text of a field's number, as the context of the validation has it."""


def as_text(value: Any, info: ValidationInfo) -> Any:
    """A text from a number as it is written, or from a boolean: the legacy platform's parser read them so."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return cast("_AsWritten", info.context)(info.field_name)
    return value


LegacyText = Annotated[str, BeforeValidator(as_text, json_schema_input_type=str | float | bool)]


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
        return cls._validate(_Document(body), 0)

    @classmethod
    def parse_all(cls, body: bytes, limit: int) -> list[Self]:
        """Parse the object, or all objects of an array.

        Raises:
            Problem: 400 that names what is wrong.
        """
        document = _Document(body)
        count = len(document.elements)
        if count > limit:
            raise invalid("", f"at most {limit} objects are taken")
        return [cls._validate(document, index, f"/{index}" if count > 1 else "") for index in range(count)]

    @classmethod
    def _validate(cls, document: _Document, index: int, where: str = "") -> Self:
        element = document.elements[index]
        if not isinstance(element, dict):
            raise invalid(where, "a JSON object, or an array of them, is expected")
        members = cast("dict[str, Any]", element)
        names = cls._names()
        keys = {names[key.lower()]: key for key in members if key.lower() in names}

        def as_written(field: str | None) -> str:
            name = field or ""
            return document.as_written(index)[keys[cls.model_fields[name].alias or name]]

        try:
            return cls.model_validate({name: members[key] for name, key in keys.items()}, context=as_written)
        except ValidationError as error:
            raise invalid_fields(field_errors(error, where)) from None

    @classmethod
    @cache
    def _names(cls) -> dict[str, str]:
        """The names of the properties, by themselves in lower case."""
        return {(field.alias or name).lower(): field.alias or name for name, field in cls.model_fields.items()}


class _Document:
    """The elements of a request body.

    Raises:
        Problem: 400 if it is not JSON.
    """

    def __init__(self, body: bytes) -> None:
        if not body.strip():
            raise invalid("", "it is empty; a JSON object is expected")
        self._text = body.removeprefix(BYTE_ORDER_MARK)
        try:
            self.elements = _elements(from_json(self._text, allow_inf_nan=False))
        except ValueError:
            raise invalid("", "it is not JSON") from None
        self._as_written: list[Any] | None = None

    def as_written(self, index: int) -> dict[str, str]:
        """One of the objects, with each number as it is written."""
        if self._as_written is None:
            self._as_written = _elements(json.loads(self._text, parse_int=str, parse_float=str))
        return self._as_written[index]


def _elements(document: Any) -> list[Any]:
    if isinstance(document, list):
        return cast("list[Any]", document) or [None]
    return [document]
