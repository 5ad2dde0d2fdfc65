"""Values that are made many times a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make *cls* a dataclass with slots that is compared and hashed by its fields.

    Type checkers refuse to assign to its fields. Nothing refuses at run time: a frozen dataclass takes three times
    as long to make.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


def altered(original: T, **changes: Any) -> T:
    """As ``dataclasses.replace`` of a value, which takes three times as long where there are many fields."""
    kind = type(original)
    new = kind(*_values_of(kind)(original))
    for name, changed in changes.items():
        setattr(new, name, changed)
    return new


@cache
def _values_of(kind: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """What reads the fields of a value, which has more than one."""
    return attrgetter(*(each.name for each in fields(kind)))
