"""A task's function and HTTP: its arguments from body and query, and the result from what it returns.

Everything here runs where the model runs, so a body that is hard to decode keeps no heartbeat from being sent.
"""

from __future__ import annotations

import enum
import inspect
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import (
    IO,
    Any,
    BinaryIO,
    Callable,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import parse_qsl

from ._attempts import Completed, Data

DECODED_BYTES = 1 << 30
"""How much a compressed body may become, unless the task has a limit of its own."""
_CHUNK_BYTES = 256 * 1024
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class BadInput(Exception):
    """The body or the query is not what the function takes. The text is for the caller."""


class Result:
    """What a task's function may return to say more than a body.

    Parameters:
        body: bytes, str, anything that JSON can tell, the path of a file, or None for no result.
        content_type: of the body; without it, what fits its type.
        status: what the caller reads beside the word *completed*.
        content_encoding: such as ``gzip``, if the body is compressed already.
    """

    def __init__(
        self,
        body: Any = None,
        content_type: str | None = None,
        status: str = "",
        *,
        content_encoding: str = "",
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.status = status
        self.content_encoding = content_encoding


class Given(NamedTuple):
    """What came with a request."""

    body: Data
    content_type: str
    content_encoding: str
    query: str
    limit_bytes: int | None
    folder: Callable[[], Path]
    """Makes the attempt's folder."""


class Signature:
    """What a function takes: a body and a `Task` by position, both optional, and keywords from the query.

    Raises:
        TypeError: it takes anything else, and so cannot be a task's function.
    """

    def __init__(self, function: Callable[..., Any], task_type: type) -> None:
        name = getattr(function, "__qualname__", repr(function))
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"{name}: a task's function is a plain one, without async and yield")
        try:
            hints = get_type_hints(function)
        except Exception as error:
            raise TypeError(f"{name}: its annotations cannot be read in this Python: {error}") from error
        self._order: list[str] = []
        self._body: _Decoder | None = None
        self._keywords: dict[str, _Keyword] = {}
        self._takes_any_keyword = False
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_KEYWORD:
                self._takes_any_keyword = True
            elif parameter.kind is parameter.VAR_POSITIONAL:
                raise TypeError(f"{name}: *{parameter.name} is not possible")
            elif parameter.kind is parameter.KEYWORD_ONLY:
                self._keywords[parameter.name] = _Keyword.of(f"{name}: {parameter.name}", hint, parameter)
            elif _plain(hint) is task_type or (hint is Any and parameter.name == "task"):
                self._order.append("task")
            elif self._body is not None:
                raise TypeError(
                    f"{name}: {parameter.name} is one too many. What comes from the query stands after a *"
                )
            else:
                self._body = _decoder(f"{name}: {parameter.name}", hint)
                self._order.append("body")

    def bind(self, task: Any, given: Given) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for the function.

        Raises:
            BadInput: it cannot be called with what is given.
        """
        keywords = self._bind_keywords(given.query)
        decode = self._body
        arguments = [task if what == "task" or decode is None else decode(given) for what in self._order]
        return arguments, keywords

    def _bind_keywords(self, query: str) -> dict[str, Any]:
        texts: dict[str, list[str]] = {}
        for name, text in parse_qsl(query, keep_blank_values=True) if query else ():
            texts.setdefault(name, []).append(text)
        unknown = [name for name in texts if name not in self._keywords]
        if unknown and not self._takes_any_keyword:
            raise BadInput(f"{unknown[0]} is no parameter of this task")
        bound: dict[str, Any] = {name: texts[name][-1] for name in unknown}
        for name, keyword in self._keywords.items():
            if name in texts:
                bound[name] = keyword.value(name, texts[name])
            elif keyword.is_required:
                raise BadInput(f"the parameter {name} is missing")
        return bound


_Decoder = Callable[[Given], Any]


def _decoder(what: str, hint: Any) -> _Decoder:
    kind = _plain(hint)
    base = get_origin(kind) or kind
    if kind is Any or kind is bytes:
        return _bytes
    if kind is str:
        return _text
    if kind is Path:
        return _file
    if kind is BinaryIO or base is IO:
        return _stream
    if hasattr(kind, "model_validate_json"):
        return lambda given: _model(kind, given)
    if isinstance(base, type) and issubclass(base, (dict, list, Mapping)):
        wanted = list if issubclass(base, list) else dict
        return lambda given: _json(given, wanted)
    raise TypeError(f"{what}: a body is bytes, str, dict, list, Path, BinaryIO or a pydantic model, not {hint}")


def _bytes(given: Given) -> bytes:
    chunks = list(_decoded(given))
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _text(given: Given) -> str:
    charset = _charset(given.content_type) or "utf-8"
    try:
        return _bytes(given).decode("utf-8-sig" if charset.lower() in ("utf-8", "utf8") else charset)
    except LookupError:
        raise BadInput(f"the charset {charset} is unknown") from None
    except UnicodeDecodeError:
        raise BadInput(f"the body is not {charset.upper()} text") from None


def _json(given: Given, wanted: type) -> Any:
    try:
        value = json.loads(_text(given))
    except ValueError as error:
        raise BadInput(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadInput("the body is JSON nested too deeply") from None
    if not isinstance(value, wanted):
        raise BadInput(f"the body must be a JSON {'array' if wanted is list else 'object'}")
    return value


def _model(kind: Any, given: Given) -> Any:
    text = _text(given)
    try:
        return kind.model_validate_json(text)
    except ValueError as error:
        raise BadInput(f"the body is not what is expected: {error}") from None


def _file(given: Given) -> Path:
    if isinstance(given.body, Path) and _encoding(given) is None:
        return given.body
    path = given.folder() / ("body" if isinstance(given.body, bytes) else "body.decoded")
    with path.open("wb") as file:
        file.writelines(_decoded(given))
    return path


def _stream(given: Given) -> BinaryIO:
    if isinstance(given.body, Path):
        return _file(given).open("rb")
    return io.BytesIO(_bytes(given))


def _charset(content_type: str) -> str:
    match = re.search(r';\s*charset\s*=\s*"?([^";\s]+)', content_type, re.I)
    return match.group(1) if match else ""


def _encoding(given: Given) -> str | None:
    encoding = given.content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return encoding
    raise BadInput(f"the content encoding {encoding} is not supported: gzip, deflate or none is")


def _decoded(given: Given) -> Iterator[bytes]:
    """The body in chunks, without its content encoding."""
    encoding = _encoding(given)
    if encoding is None:
        yield given.body.read_bytes() if isinstance(given.body, Path) else given.body
        return
    limit, inflate, size = given.limit_bytes or DECODED_BYTES, None, 0
    try:
        for chunk in _chunks(given.body):
            if inflate is None:
                inflate = zlib.decompressobj(_window(encoding, chunk))
            while chunk:
                plain = inflate.decompress(chunk, _CHUNK_BYTES)
                size += len(plain)
                if size > limit:
                    raise BadInput(f"the body has more than {limit:,} bytes without its {encoding}")
                yield plain
                chunk = inflate.unconsumed_tail
                if inflate.eof and encoding != "deflate" and inflate.unused_data:  # gzip has one member or more
                    chunk, inflate = inflate.unused_data, zlib.decompressobj(_window(encoding, b""))
    except zlib.error:
        raise BadInput(f"the body is not {encoding}") from None
    if inflate is None or not inflate.eof:
        raise BadInput(f"the body breaks off: it is not whole {encoding}")


def _window(encoding: str, head: bytes) -> int:
    """What zlib calls `wbits`. There are clients that send `deflate` without zlib's two bytes at its head."""
    if encoding != "deflate":
        return zlib.MAX_WBITS | 16
    is_zlib = len(head) >= 2 and head[0] & 15 == 8 and (head[0] << 8 | head[1]) % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


def _chunks(body: Data) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    with body.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


class _Keyword(NamedTuple):
    """A parameter of the query."""

    parse: Callable[[str], Any]
    expected: str
    is_list: bool
    is_required: bool

    @classmethod
    def of(cls, what: str, hint: Any, parameter: inspect.Parameter) -> _Keyword:
        kind = _plain(hint)
        is_list = kind is list or get_origin(kind) is list
        if is_list:
            kind = _plain((get_args(kind) or (str,))[0])
        if kind is Any:
            kind = str
        is_required = parameter.default is parameter.empty
        if get_origin(kind) is Literal:
            words = {str(word): word for word in get_args(kind)}
            return cls(words.__getitem__, "one of " + ", ".join(words), is_list, is_required)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            members = {str(member.value): member for member in kind}
            return cls(members.__getitem__, "one of " + ", ".join(members), is_list, is_required)
        for known, parse, expected in _SCALARS:
            if kind is known:
                return cls(parse, expected, is_list, is_required)
        raise TypeError(
            f"{what}: a parameter is int, float, bool, str, Literal, an Enum or a list of one, not {hint}"
        )

    def value(self, name: str, texts: list[str]) -> Any:
        if len(texts) > 1 and not self.is_list:
            raise BadInput(f"the parameter {name} is there {len(texts)} times")
        try:
            values = [self.parse(text) for text in texts]
        except (ValueError, KeyError):
            raise BadInput(f"the parameter {name} must be {self.expected}") from None
        return values if self.is_list else values[0]


def _integer(text: str) -> int:
    if not _INTEGER.match(text.strip()):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    return _BOOLEANS[text.strip().lower()]


_SCALARS: tuple[tuple[type, Callable[[str], Any], str], ...] = (
    (int, _integer, "a whole number"),
    (float, _number, "a number"),
    (bool, _boolean, "true or false"),
    (str, str, "a text"),
)


def _plain(hint: Any) -> Any:
    """`Optional[X]` and `X | None` are X."""
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        rest = [kind for kind in get_args(hint) if kind is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


_JSON: tuple[type, ...] = (dict, list, tuple, int, float, Mapping)


def completed(value: Any) -> Completed:
    """What a function's return value stands for.

    Raises:
        TypeError: it is nothing that can be a result.
        ValueError: it is no JSON, or its content type cannot stand in a header.
        FileNotFoundError: it is the path of no file.
    """
    result = value if isinstance(value, Result) else Result(value)
    body, content_type = encoded(result.body)
    content_type = result.content_type or content_type
    for header in (content_type, result.content_encoding):
        if len(header) > 255 or not (header.isascii() and header.isprintable() and header == header.strip()):
            raise ValueError(f"{header[:80]!r} cannot stand in a header")
    return Completed(body, content_type, result.content_encoding, str(result.status or ""))


def encoded(value: Any) -> tuple[Data | None, str]:
    """Its bytes, or the file that has them, and its content type. Raises as `completed`."""
    if value is None:
        return None, ""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), "application/octet-stream"
    if isinstance(value, memoryview):
        return value.tobytes(), "application/octet-stream"
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    if isinstance(value, Path):
        import mimetypes

        if not value.is_file():
            raise FileNotFoundError(f"the result is to be the file {value}, which is not there")
        return value.absolute(), mimetypes.guess_type(value.name)[0] or "application/octet-stream"
    if hasattr(value, "model_dump_json"):
        return value.model_dump_json().encode(), "application/json"
    if isinstance(value, _JSON) or hasattr(value, "tolist"):
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_jsonable).encode(), "application/json"
    kind = type(value).__name__
    raise TypeError(f"a task returns bytes, str, what JSON can tell, a Path, a Result or None, not {kind}")


def _jsonable(value: Any) -> Any:
    """What JSON can tell of arrays and numbers of NumPy, of tensors and of models."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "items"):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON can tell")
