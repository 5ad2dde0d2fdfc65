"""ASP.NET route templates: find the function that a method and a path belong to.

The host supports literals, `{a}`, `{a?}`, `{a=x}`, `{*rest}` and the constraints `:int`, `:guid` and `:alpha`. It
refuses any other template, rather than match it differently from the real host.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from local.functions_host.errors import HostError

_PARAMETER = re.compile(r"\{(\*{0,2})([^{}*:=?/]+)((?::[^{}:=?]+)*)(?:=([^{}?]*))?(\?)?\}")
_RESERVED = ("admin", "runtime")
_GUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def _is_int32(value: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", value) is not None and -(2**31) <= int(value) < 2**31


_CONSTRAINTS: dict[str, Callable[[str], object]] = {
    "int": _is_int32,
    "guid": re.compile(rf"[0-9a-f]{{32}}|{_GUID}|\{{{_GUID}\}}|\({_GUID}\)", re.IGNORECASE).fullmatch,
    "alpha": re.compile(r"[a-z]*", re.IGNORECASE).fullmatch,
}


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    is_catch_all: bool
    constraints: tuple[str, ...]
    default: str | None
    is_omittable: bool

    def accepts(self, value: str) -> bool:
        return all(_CONSTRAINTS[constraint](value) for constraint in self.constraints)


@dataclass(frozen=True, slots=True)
class _Route:
    function: str
    written: str
    methods: frozenset[str] | None
    """None: every method."""
    pattern: re.Pattern[str]
    parameters: tuple[_Parameter, ...]
    precedence: tuple[int, ...]
    """Per segment: literal 1, constrained parameter 2, parameter 3, constrained catch-all 4, catch-all 5."""

    def allows(self, method: str) -> bool:
        return self.methods is None or method in self.methods

    def overlaps(self, other: "_Route") -> bool:
        return self.written.lower() == other.written.lower() and (
            self.methods is None or other.methods is None or not self.methods.isdisjoint(other.methods)
        )

    def values(self, path: str) -> dict[str, str] | None:
        """The values of the parameters, without those that the path leaves out; None if the path does not match."""
        match = self.pattern.fullmatch(path)
        if match is None:
            return None
        values: dict[str, str] = {}
        for parameter, captured in zip(self.parameters, match.groups(), strict=True):
            value = captured or parameter.default
            if value is None:
                continue
            if not parameter.accepts(value):
                return None
            values[parameter.name] = value
        return values


class Router:
    """The functions' routes below `prefix` (host.json's `routePrefix`)."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.strip("/")
        self._routes: list[_Route] = []
        self._literal: dict[str, list[_Route]] = {}
        self._with_parameters: list[_Route] = []

    def add(self, function: str, route: str, methods: Collection[str] | None) -> None:
        """Adds a route. Raises `HostError` if the host refuses the template or another function already has it."""
        written = route.strip("/")
        if written.lower().startswith(_RESERVED):
            raise HostError(f"{function}: the route {route!r} conflicts with the host's built-in routes.")
        template = f"/{self._prefix}/{route}" if self._prefix else f"/{route.removeprefix('/')}"
        added = _compile(function, written, template, frozenset(m.upper() for m in methods) if methods else None)
        for other in self._routes:
            if added.overlaps(other):
                raise HostError(
                    f"{function}: the route {route!r} conflicts with that of the function {other.function}."
                )
        self._routes.append(added)
        if added.parameters:
            self._with_parameters.append(added)
            self._with_parameters.sort(key=lambda each: each.precedence)
        else:
            self._literal.setdefault(template.rstrip("/").lower(), []).append(added)

    def match(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        """Returns the function's name and its route parameters.

        A route with another method does not match. If no other route matches, the answer is 404, never 405.
        """
        for route in self._literal.get(path.removesuffix("/").lower(), ()):
            if route.allows(method):
                return route.function, {}
        for route in self._with_parameters:
            if route.allows(method) and (values := route.values(path)) is not None:
                return route.function, values
        return None


def _compile(function: str, written: str, template: str, methods: frozenset[str] | None) -> _Route:
    def refused(reason: str) -> HostError:
        return HostError(f"{function}: the route {template.removeprefix('/')!r} {reason}.")

    segments = [_parse_segment(segment, refused) for segment in template.removeprefix("/").rstrip("/").split("/")]
    parameters = [segment for segment in segments if isinstance(segment, _Parameter)]
    names = [parameter.name.lower() for parameter in parameters]
    if len(set(names)) < len(names):
        raise refused("names a parameter twice")
    if any(isinstance(segment, _Parameter) and segment.is_catch_all for segment in segments[:-1]):
        raise refused("has something after its catch-all parameter")

    pattern, ends_omittable = "", True
    for segment in reversed(segments):
        if isinstance(segment, str):
            pattern, ends_omittable = f"/{re.escape(segment)}{pattern}", False
        elif segment.is_omittable and ends_omittable:
            pattern = f"(?:/{'(.*)' if segment.is_catch_all else '([^/]+)'}{pattern})?"
        elif segment.is_omittable and segment.default is None:
            raise refused(f"has something after its optional parameter {segment.name}")
        else:
            pattern, ends_omittable = f"/([^/]+){pattern}", False
    if not (parameters and parameters[-1].is_catch_all):
        pattern += "/?"
    return _Route(
        function=function,
        written=written,
        methods=methods,
        pattern=re.compile(pattern, re.IGNORECASE | re.DOTALL),
        parameters=tuple(parameters),
        precedence=tuple(map(_segment_precedence, segments)),
    )


def _parse_segment(segment: str, refused: Callable[[str], HostError]) -> str | _Parameter:
    if not segment:
        raise refused("has an empty segment")
    if "{" not in segment and "}" not in segment:
        return segment
    match = _PARAMETER.fullmatch(segment)
    if match is None:
        raise refused(f"has the segment {segment!r}, which is not one parameter or one literal")
    stars, name, constraint_list, default, optional = match.groups()
    constraints = tuple(constraint_list.lower().split(":")[1:])
    for constraint in constraints:
        if constraint not in _CONSTRAINTS:
            raise refused(f"has the constraint {constraint!r}, which the development host does not support")
    if optional and (default is not None or stars):
        raise refused(f"makes the parameter {name} optional twice")
    return _Parameter(name, bool(stars), constraints, default, bool(stars or optional) or default is not None)


def _segment_precedence(segment: str | _Parameter) -> int:
    if isinstance(segment, str):
        return 1
    return (5 if segment.is_catch_all else 3) - bool(segment.constraints)
