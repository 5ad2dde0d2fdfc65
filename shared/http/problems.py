"""Errors as clients see them: RFC 9457 problem documents."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12

NAME_SHOWN_CHARS: Final = 100
_MOST_ERRORS: Final = 20
"""In an answer. A caller chooses how many there are."""


class FieldError(TypedDict):
    """What is wrong with one member, named by a JSON pointer, or with a header or query parameter, named as such."""

    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457). Some kinds have further members. No member has the name of another in another case, since
    many clients read names in any case."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[FieldError] = ()
    """What is wrong with the request. Absent if nothing is."""
    task_id: str = Field(default="", serialization_alias="TaskId")
    """Of the task that has no result, or that an earlier request with the same key has created. Absent otherwise."""


class Problem(Exception):
    """Raised if a request is answered by an error: ``application/problem+json``, never with a secret."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        problem = ProblemDocument(
            type=f"urn:task-backbone:problem:{slug}", title=title, status=status, detail=detail, errors=errors
        )
        self.document: dict[str, Any] = {**problem.model_dump(exclude_defaults=True), **(members or {})}


def invalid(pointer: str, detail: str) -> Problem:
    return invalid_fields([{"pointer": pointer, "detail": detail}])


def invalid_fields(errors: Iterable[FieldError]) -> Problem:
    errors = [*islice(errors, _MOST_ERRORS)]
    detail = "; ".join(f"{error['pointer'].removeprefix('/') or 'body'}: {error['detail']}" for error in errors)
    return Problem(400, "invalid-request", "The request is not valid.", detail, errors=errors)


def json_pointer(parts: Iterable[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def unknown_name(name: str, what: str, known: Collection[str], where: str | None = None) -> FieldError:
    """What is wrong with a *name* that is none of the *known* ones: what the nearest of them is, or all of them.

    Args:
        where: the pointer to the object that has it as a member, if it is one.
    """
    name = name[:NAME_SHOWN_CHARS]
    near = difflib.get_close_matches(name.lower(), [each.lower() for each in known], n=1)
    nearest = next((each for each in known if each.lower() in near), None)
    hint = f"did you mean {nearest}?" if nearest else f"this request takes {', '.join(known) or 'none'}"
    pointer = name or '""' if where is None else where + json_pointer([name])
    return {"pointer": pointer, "detail": f"there is no such {what}; {hint}"}


def too_large(limit_bytes: int) -> Problem:
    return Problem(413, "too-large", "The body is too large.", f"At most {limit_bytes} bytes are taken.")


def length_required() -> Problem:
    return Problem(
        411,
        "length-required",
        "The body has no Content-Length.",
        "A body that is sent in chunks does not arrive. Send it in one piece.",
    )


def no_such_task() -> Problem:
    return Problem(404, "no-such-task", "There is no such task.", "The id is unknown, or the task is past retention.")


def too_many_reporters(what: str) -> Problem:
    detail = f"There are as many {what} as are kept. One that is silent makes room."
    return Problem(429, "too-many-reporters", "There are too many reporters.", detail)


def no_sas(reason: str) -> Problem:
    return Problem(501, "no-sas", "Clients cannot use Blob Storage themselves.", f"No SAS can be made: {reason}.")


def overloaded(what: str) -> Problem:
    return Problem(
        503,
        "overloaded",
        "The app is overloaded.",
        f"It has as many {what} in flight as it may. Try again.",
        headers={"Retry-After": "2"},
    )


def too_many_endpoints(detail: str) -> Problem:
    return Problem(
        429,
        "too-many-endpoints",
        "The backend has tasks at too many endpoints.",
        f"{detail[:1].upper()}{detail[1:]}.",
        headers={"Retry-After": "60"},
    )


def unavailable(what: str) -> Problem:
    return Problem(
        503,
        "unavailable",
        "A dependency does not answer.",
        f"{what} cannot be reached at the moment. Try again.",
        headers={"Retry-After": "5"},
    )
