"""JSON as the existing clients send it: an object or an array of one, property names in any case."""

from __future__ import annotations

from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from shared.problems import FieldError, invalid, invalid_fields


class LegacyModel(BaseModel):
    """A request body of the existing contract. Unknown properties are ignored, as they always were."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, populate_by_name=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """
        Raises:
            Problem: 400 that names what is wrong.
        """
        members = cls._members(body)
        names = {(field.alias or name).lower(): field.alias or name for name, field in cls.model_fields.items()}
        known = {names[key.lower()]: value for key, value in members.items() if key.lower() in names}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            raise invalid_fields(field_errors(error)) from None

    @classmethod
    def _members(cls, body: bytes) -> dict[str, Any]:
        if not body.strip():
            raise invalid("", "it is empty; a JSON object is expected")
        try:
            document: Any = from_json(body.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
        except ValueError:
            raise invalid("", "it is not JSON") from None
        if isinstance(document, list):
            elements = cast("list[Any]", document)
            document = elements[0] if elements else None
        if not isinstance(document, dict):
            raise invalid("", "a JSON object, or an array of one, is expected")
        return cast("dict[str, Any]", document)


def field_errors(error: ValidationError) -> list[FieldError]:
    """A validation error as field errors; never repeats the input."""
    return [
        {
            "pointer": "".join(f"/{part}" for part in item["loc"]),
            "detail": item["msg"].removeprefix("Value error, "),
        }
        for item in error.errors(include_url=False, include_input=False)
    ]
