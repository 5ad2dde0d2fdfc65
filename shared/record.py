"""Values that are made many times a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots, to the type checker. At run time it is not frozen: to make one would take three
    times as long."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
