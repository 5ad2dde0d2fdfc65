"""What the v1 API reads from requests. Each function raises a Problem (400, unless it says otherwise) that names the
header or parameter."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote_plus

import azure.functions as func

from cache_manager.operation_outcomes import UploadUnknown
from cache_manager.outcome_problems import range_not_satisfiable, unknown_endpoint, upload_problem
from shared.dispatch.registry import BackendRegistry, Endpoint, Malformed, UnknownBackend, canonical_path
from shared.http.functions import HOST_PARAMETERS, header, query_string
from shared.http.problems import invalid, no_such_task
from shared.http.times import ms_of
from shared.settings import LONGEST_WAIT_S
from shared.store import ListCursor
from shared.tasks import status_texts
from shared.tasks.ids import is_task_id
from shared.tasks.media import is_content_encoding, is_content_type
from shared.tasks.task import DEFAULT_PRIORITY
from shared.tasks.told_slots import INSTANCE_HEADER, SLOTS_HEADER, BadSlots, ToldSlots

PRIORITY_PATTERN: Final = r"\A([0-9]|(u=[0-7]|i(=\?[01])?)( *, *(u=[0-7]|i(=\?[01])?))*)\Z"
"""A digit; or what browsers send in the same header (RFC 9218), which is ignored."""
UPLOAD_HEADER: Final = "X-Upload"
_FIRST_FINGERPRINTED: Final = ("Content-Encoding", "Pipeline", "Batch", "Upload")
_YES_OR_NO: Final = {"1": True, "true": True, "0": False, "false": False}
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_RANGE: Final = re.compile(r"\s*bytes\s*=\s*(\d{0,4000})\s*-\s*(\d{0,4000})\s*", re.ASCII | re.IGNORECASE)


def submitted_path(req: func.HttpRequest) -> str:
    """The path of the route. The Functions host has decoded it, but for slashes: clients that know it as one
    parameter escape these too."""
    return "/" + _with_slashes(req.route_params.get("path") or "")


def queue_path(req: func.HttpRequest) -> str:
    """The endpoint path of the route; empty if it names none.

    Raises:
        Problem: 404 if it cannot be one.
    """
    path = submitted_path(req).lstrip("/")
    try:
        return canonical_path("/" + path) if path else ""
    except Malformed as error:
        raise unknown_endpoint("/" + path, str(error)) from None


def listed_path(req: func.HttpRequest) -> str | None:
    """The endpoint path whose tasks are to be listed; None: of all paths. It is written as in the other routes, so
    its first slash may be missing.

    Raises:
        Problem: 400 if it cannot be one.
    """
    path = req.params.get("path")
    return path_of(_with_slashes(path), "path") if path else None


def path_of(text: str, name: str) -> str:
    """The endpoint path; its first slash may be missing. The *name* is that of the parameter or member."""
    try:
        return canonical_path("/" + text.lstrip("/"))
    except Malformed as error:
        raise invalid(name, str(error)) from None


def endpoint(path: str, query: str, registry: BackendRegistry) -> Endpoint:
    """The registered endpoint.

    Raises:
        Problem: 404 if there is none.
    """
    try:
        return registry.endpoint(path, query)
    except UnknownBackend as error:
        raise unknown_endpoint(path, str(error)) from None


def backend_query(url: str) -> str:
    """The query string without the parameters that are the host's."""
    return without_host_parameters(query_string(url))


def without_host_parameters(query: str) -> str:
    pairs = query.split("&")
    return "&".join(pair for pair in pairs if pair and _name(pair) not in HOST_PARAMETERS)


def location(req: func.HttpRequest, task_id: str) -> str:
    """The URL of the task's status, below the same root as that of the submit."""
    root = re.split("/v1/(?:submit/|batches|schedules/)", req.url, maxsplit=1, flags=re.IGNORECASE)[0]
    return f"{quote(root, safe=string.punctuation)}/v1/tasks/{task_id}"  # the Functions host sends ASCII only


def task_id(req: func.HttpRequest) -> str:
    """
    Raises:
        Problem: 404 if it cannot be one.
    """
    text = req.route_params.get("id") or ""
    if not is_task_id(text):
        raise no_such_task()
    return text


def content_type(req: func.HttpRequest) -> str:
    text = header(req, "content-type") or "application/octet-stream"
    if not is_content_type(text):
        raise invalid("Content-Type", "at most 255 printable ASCII characters are allowed")
    return text


def content_encoding(req: func.HttpRequest) -> str:
    """Empty if the body came without one."""
    text = (header(req, "content-encoding") or "").strip()
    if not is_content_encoding(text):
        raise invalid("Content-Encoding", "names of codings are expected, at most 255 characters")
    return "" if text.lower() == "identity" else text


def idempotency_key(req: func.HttpRequest) -> str | None:
    return key_of(header(req, "idempotency-key"))


def key_of(key: str | None) -> str | None:
    """The idempotency key that a header says."""
    if key is not None and not _HEADER_VALUE.fullmatch(key):
        raise invalid("Idempotency-Key", "1 to 255 printable ASCII characters are allowed")
    return key


def upload_id(req: func.HttpRequest) -> str | None:
    """The upload that the request hands in in place of a body.

    Raises:
        Problem: 404 if there cannot be one of that name; 400 if there is a body beside it.
    """
    text = header(req, UPLOAD_HEADER)
    if text is None:
        return None
    if not is_task_id(text):
        raise upload_problem(UploadUnknown())
    if req.get_body():
        raise invalid(UPLOAD_HEADER, "with it, the request has no body")
    return text


def no_upload(req: func.HttpRequest) -> None:
    """
    Raises:
        Problem: the request hands in an upload, which this operation does not take.
    """
    if header(req, UPLOAD_HEADER) is not None:
        raise invalid(UPLOAD_HEADER, "only a submit and a result take an upload")


def flag(req: func.HttpRequest, name: str) -> bool:
    """Whether the query asks for what *name* stands for.

    Raises:
        Problem: it says neither yes nor no.
    """
    text = req.params.get(name, "0").lower()
    if text not in _YES_OR_NO:
        raise invalid(name, "true or false is expected, or 1 or 0")
    return _YES_OR_NO[text]


def fingerprint(content_type: str, query: str, body: bytes, headers: Mapping[str, str]) -> str:
    """What tells whether two submits with the same idempotency key are the same.

    Args:
        headers: by their names, what further headers of the request ask for. None of the texts has a line break; an
            empty one is the same as an absent one.
    """
    # The first ones in the order that the values had which are kept in records.
    names = [*_FIRST_FINGERPRINTED, *sorted(headers.keys() - {*_FIRST_FINGERPRINTED})]
    lines = [content_type, *(f"{name}: {text}" for name in names if (text := headers.get(name)))]
    digest = hashlib.sha256("".join(f"{line}\n" for line in (*lines, query)).encode())
    digest.update(body)
    return digest.hexdigest()[:32]


def priority(req: func.HttpRequest) -> int:
    text = header(req, "priority")
    return DEFAULT_PRIORITY if text is None else priority_of(text)


def priority_of(text: str) -> int:
    """The priority that a header says."""
    if not re.search(PRIORITY_PATTERN, text):
        raise invalid("Priority", "a digit from 0 to 9 is expected")
    return int(text) if text.isdecimal() else DEFAULT_PRIORITY


def attempt(req: func.HttpRequest) -> int | None:
    text = header(req, "x-task-attempt")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid("X-Task-Attempt", "a number is expected")
    return int(text)


def required_attempt(req: func.HttpRequest) -> int:
    number = attempt(req)
    if number is None:
        raise invalid("X-Task-Attempt", "it is missing")
    return number


def completion_text(req: func.HttpRequest) -> str | None:
    """What ``X-Task-Complete`` says, percent-encoded UTF-8; None if the task is not completed."""
    text = header(req, "x-task-complete")
    if text is None:
        return None
    try:
        return status_texts.completion(text)
    except ValueError as error:
        raise invalid("X-Task-Complete", str(error)) from None


def told_slots(req: func.HttpRequest) -> ToldSlots | None:
    """What an instance of a model service tells of itself with a report."""
    slots, instance = header(req, SLOTS_HEADER), header(req, INSTANCE_HEADER)
    if slots is None and instance is None:
        return None
    try:
        return ToldSlots.parse(slots, instance)
    except BadSlots as error:
        raise invalid(error.header, error.expected) from None


def preferred_wait_s(req: func.HttpRequest) -> int | None:
    """``Prefer: wait=N`` (RFC 7240), which says to ignore a preference that cannot be understood."""
    text = header(req, "prefer")
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", text, re.IGNORECASE) if text else None
    return min(LONGEST_WAIT_S, int(match[1])) if match else None


def wait_s(req: func.HttpRequest) -> float:
    text = req.params.get("wait")
    if text is None:
        return 0
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text, re.ASCII):
        raise invalid("wait", "a number of seconds is expected")
    return min(LONGEST_WAIT_S, float(text))


def time_ms(text: str | None, name: str) -> int | None:
    """The Unix milliseconds of a time, if there is one. The *name* is that of the parameter or member."""
    if text is None:
        return None
    try:
        return ms_of(text)
    except ValueError as error:
        raise invalid(name, str(error)) from None


def list_cursor(req: func.HttpRequest) -> ListCursor | None:
    return cursor_of(req.params.get("cursor"), "cursor")


def cursor_of(text: str | None, name: str) -> ListCursor | None:
    """What :func:`cursor_text` has written; None of an empty text. The *name* is that of the parameter or member."""
    match = re.fullmatch(r"([0-9a-f]{1,12})-(.+)", text or "")
    if text and (match is None or not is_task_id(match[2])):
        raise invalid(name, "the NextCursor of a former page is expected")
    return ListCursor(int(match[1], 16), match[2]) if match else None


def cursor_text(cursor: ListCursor) -> str:
    """What :func:`list_cursor` reads. The end of a millisecond is told by the least of all ids."""
    return f"{cursor.created_ms:x}-{cursor.id or '-'}"


def queue_cursor(req: func.HttpRequest) -> str:
    """The path behind which a page of queues begins; empty for the first page."""
    text = req.params.get("cursor") or ""
    try:
        return text and canonical_path(text)
    except Malformed:
        raise invalid("cursor", "the NextCursor of a former page is expected") from None


def no_page(req: func.HttpRequest) -> None:
    """
    Raises:
        Problem: 400 if a page is asked for where there is one queue.
    """
    for name in ("limit", "cursor", "all"):
        if name in req.params:
            raise invalid(name, "only the list of all queues takes it")


def byte_range(req: func.HttpRequest, size_bytes: int, etag: str) -> range | None:
    """Which of the bytes of a result a GET asks for; None: all of them, as for what cannot be understood (RFC 9110).

    Raises:
        Problem: 416 if it asks for none that there are.
    """
    match = _RANGE.fullmatch(header(req, "range") or "")
    if req.method != "GET" or match is None or header(req, "if-range") not in (None, etag):
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(size_bytes, int(last) + 1) if last else size_bytes
        if last and int(last) < start:
            return None
    elif last:
        if not size_bytes and int(last):  # the end of an empty result is all of it, which no Content-Range can say
            return None
        start, stop = size_bytes - min(size_bytes, int(last)), size_bytes
    else:
        return None
    if start >= size_bytes:
        raise range_not_satisfiable(size_bytes)
    return range(start, stop)


def _with_slashes(path: str) -> str:
    return re.sub("%2F", "/", path, flags=re.IGNORECASE)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0]).lower()
