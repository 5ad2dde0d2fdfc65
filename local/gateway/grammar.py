"""What a policy file may hold: elements, their attributes, and where each may stand. Everything else is refused.

The rules are those of API Management's reference, cut down to what the files of ``infra/apim/policies`` use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.parsers import expat

from local.gateway.errors import GatewayError
from local.gateway.expressions import Expression, Expressions, Type

SECTIONS = ("inbound", "backend", "outbound", "on-error")
Value = str | int | bool | Expression
_NAMED_VALUE = re.compile(r"\{\{([A-Za-z0-9._-]+)\}\}")


@dataclass(frozen=True)
class Attribute:
    """What an attribute, or the text of an element, may be.

    Parameters:
        type: of its value.
        dynamic: whether it may be an expression.
        required: whether it has to be there.
        choices: the values that it may have; empty: any.
    """

    type: Type = Type.STRING
    dynamic: bool = True
    required: bool = False
    choices: tuple[str, ...] = ()


def fixed(type_: Type = Type.STRING, *, required: bool = False) -> Attribute:
    return Attribute(type_, dynamic=False, required=required)


def needed(type_: Type = Type.STRING) -> Attribute:
    return Attribute(type_, required=True)


def one_of(*choices: str) -> Attribute:
    return Attribute(dynamic=False, choices=choices)


@dataclass(frozen=True)
class Rule:
    """An element.

    Parameters:
        attributes: by name.
        children: elements that only stand in this one, by name.
        text: what its text may be; None: it has none.
        holds_policies: whether any policy of the section may stand in it.
        sections: where it may stand.
    """

    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    children: Mapping[str, Rule] = field(default_factory=dict)
    text: Attribute | None = None
    holds_policies: bool = False
    sections: tuple[str, ...] = SECTIONS


@dataclass(frozen=True)
class Node:
    """An element that the rules allow."""

    name: str
    attributes: Mapping[str, Value]
    children: tuple[Node, ...]
    text: Value | None
    where: str
    """File and line."""

    def of(self, name: str) -> list[Node]:
        return [child for child in self.children if child.name == name]

    def texts(self, *path: str) -> list[Value]:
        """The texts of the elements that lie along the path."""
        if not path:
            return [] if self.text is None else [self.text]
        return [text for child in self.of(path[0]) for text in child.texts(*path[1:])]


def _list(item: str, **attributes: Attribute) -> Rule:
    return Rule(attributes, children={item: Rule(text=fixed())})


_SET_HEADER = Rule(
    {"name": fixed(required=True), "exists-action": one_of("override", "delete")},
    children={"value": Rule(text=Attribute())},
)
_SET_BODY = Rule(text=Attribute(Type.OBJECT))
_SET_STATUS = Rule({"code": needed(Type.INT), "reason": Attribute()})

RULES: Mapping[str, Rule] = {
    "base": Rule(),
    "cache-lookup-value": Rule(
        {"key": needed(), "variable-name": fixed(required=True), "caching-type": one_of("internal")}
    ),
    "cache-store-value": Rule(
        {
            "key": needed(),
            "value": needed(Type.OBJECT),
            "duration": needed(Type.INT),
            "caching-type": one_of("internal"),
        }
    ),
    "choose": Rule(children={"when": Rule({"condition": needed(Type.BOOL)}, holds_policies=True)}),
    "cors": Rule(
        {"allow-credentials": fixed(Type.BOOL), "terminate-unmatched-request": one_of("false")},
        children={
            "allowed-origins": _list("origin"),
            "allowed-methods": _list("method", **{"preflight-result-max-age": fixed(Type.INT)}),
            "allowed-headers": _list("header"),
            "expose-headers": _list("header"),
        },
        sections=("inbound",),
    ),
    "forward-request": Rule(
        {"timeout": Attribute(Type.INT), "buffer-response": fixed(Type.BOOL)}, sections=("backend",)
    ),
    "include-fragment": Rule({"fragment-id": fixed(required=True)}),
    "quota": Rule(
        {"calls": fixed(Type.INT, required=True), "renewal-period": fixed(Type.INT, required=True)},
        sections=("inbound",),
    ),
    "rate-limit": Rule(
        {"calls": fixed(Type.INT, required=True), "renewal-period": fixed(Type.INT, required=True)},
        sections=("inbound",),
    ),
    "rate-limit-by-key": Rule(
        {"calls": needed(Type.INT), "renewal-period": needed(Type.INT), "counter-key": needed()},
        sections=("inbound",),
    ),
    "return-response": Rule(
        children={"set-status": _SET_STATUS, "set-header": _SET_HEADER, "set-body": _SET_BODY},
    ),
    "rewrite-uri": Rule({"template": needed(), "copy-unmatched-params": fixed(Type.BOOL)}, sections=("inbound",)),
    "set-backend-service": Rule({"backend-id": fixed(required=True)}, sections=("inbound", "backend")),
    "set-body": _SET_BODY,
    "set-header": _SET_HEADER,
    "set-query-parameter": Rule(
        {"name": fixed(required=True), "exists-action": one_of("delete")}, sections=("inbound", "backend")
    ),
    "set-status": Rule(_SET_STATUS.attributes, sections=("outbound", "on-error")),
    "set-variable": Rule({"name": fixed(required=True), "value": needed(Type.OBJECT)}),
    "validate-jwt": Rule(
        {
            "header-name": fixed(required=True),
            "require-scheme": fixed(),
            "failed-validation-httpcode": fixed(Type.INT),
            "output-token-variable-name": fixed(),
        },
        children={"openid-config": Rule({"url": fixed(required=True)}), "audiences": _list("audience")},
        sections=("inbound",),
    ),
}


class Reader:
    """Reads policy files.

    Parameters:
        named_values: what stands for ``{{name}}``. A list makes one element of each of its values.
        expressions: where the expressions are collected.
    """

    def __init__(self, root: Path, named_values: Mapping[str, str | Sequence[str]], expressions: Expressions) -> None:
        self._root = root
        self._named_values = named_values
        self._expressions = expressions

    def policy(self, file: Path) -> dict[str, tuple[Node, ...]]:
        """The sections of a policy file.

        Raises:
            GatewayError: it is no XML, or holds what the rules do not.
        """
        name, root = self._parse(file)
        if root.tag != "policies" or root.attributes:
            raise GatewayError(f"{name}({root.line}): <policies> is expected, without attributes.")
        sections: dict[str, tuple[Node, ...]] = {}
        for child in root.children:
            if child.tag not in SECTIONS or child.attributes or child.tag in sections:
                raise GatewayError(f"{name}({child.line}): <{child.tag}> is no section, or is there twice.")
            sections[child.tag] = self._policies(name, child, child.tag)
        return sections

    def fragment(self, file: Path, section: str) -> tuple[Node, ...]:
        """The policies of a fragment, as if they stood in the section."""
        name, root = self._parse(file)
        if root.tag != "fragment" or root.attributes:
            raise GatewayError(f"{name}({root.line}): <fragment> is expected, without attributes.")
        return self._policies(name, root, section)

    def _parse(self, file: Path) -> tuple[str, _Raw]:
        name = file.relative_to(self._root).as_posix() if file.is_relative_to(self._root) else file.as_posix()
        try:
            return name, _parse(file.read_bytes())
        except OSError as error:
            raise GatewayError(f"{name}: {error.strerror}.") from None
        except expat.ExpatError as error:
            raise GatewayError(f"{name}: no well-formed XML: {error}.") from None

    def _policies(self, file: str, parent: _Raw, section: str) -> tuple[Node, ...]:
        if parent.text.strip():
            raise GatewayError(f"{file}({parent.line}): text stands in <{parent.tag}>.")
        nodes: list[Node] = []
        for child in parent.children:
            rule = RULES.get(child.tag)
            if rule is None or section not in rule.sections:
                raise GatewayError(
                    f"{file}({child.line}): the local gateway knows no policy <{child.tag}> in <{section}>."
                )
            nodes.append(self._node(file, child, rule, section))
        return tuple(nodes)

    def _node(self, file: str, raw: _Raw, rule: Rule, section: str) -> Node:
        where = f"{file}({raw.line})"
        for name in raw.attributes:
            if name not in rule.attributes:
                raise GatewayError(f"{where}: the local gateway knows no attribute {name} of <{raw.tag}>.")
        attributes: dict[str, Value] = {}
        for name, attribute in rule.attributes.items():
            if name in raw.attributes:
                attributes[name] = self._value(file, raw.line, f"{raw.tag} {name}", raw.attributes[name], attribute)
            elif attribute.required:
                raise GatewayError(f"{where}: <{raw.tag}> needs the attribute {name}.")
        text = None
        if rule.text is not None:
            text = self._value(file, raw.line, raw.tag, raw.text, rule.text)
        elif raw.text.strip():
            raise GatewayError(f"{where}: text stands in <{raw.tag}>.")
        if rule.holds_policies:
            children = self._policies(file, raw, section)
        else:
            spread = (one for child in raw.children for one in self._spread(child))
            children = tuple(self._child(file, child, raw, rule, section) for child in spread)
        return Node(raw.tag, attributes, children, text, where)

    def _child(self, file: str, raw: _Raw, parent: _Raw, rule: Rule, section: str) -> Node:
        if raw.tag not in rule.children:
            raise GatewayError(f"{file}({raw.line}): the local gateway knows no <{raw.tag}> in <{parent.tag}>.")
        return self._node(file, raw, rule.children[raw.tag], section)

    def _value(self, file: str, line: int, what: str, text: str, attribute: Attribute) -> Value:
        where = f"{file}({line})"
        text = _NAMED_VALUE.sub(lambda match: self._named_value(match[1], where), text).strip()
        if text.startswith(("@(", "@{")):
            if not attribute.dynamic:
                raise GatewayError(f"{where}: {what} may not be an expression.")
            if text[-1] != {"(": ")", "{": "}"}[text[1]]:
                raise GatewayError(f"{where}: {what} goes on behind the expression.")
            return self._expressions.add(text, attribute.type, file, line)
        if "@(" in text or "@{" in text:
            raise GatewayError(f"{where}: {what} has an expression within text; it has to be all of it.")
        if attribute.choices and text not in attribute.choices:
            raise GatewayError(f"{where}: {what} is {text!r}, and may be {', '.join(attribute.choices)}.")
        try:
            return _LITERALS[attribute.type](text)
        except (KeyError, ValueError):
            raise GatewayError(f"{where}: {what} is {text!r}, which is no {attribute.type}.") from None

    def _spread(self, raw: _Raw) -> Iterator[_Raw]:
        """The element once for each value of the list that its text names, as Bicep writes it."""
        match = _NAMED_VALUE.fullmatch(raw.text.strip())
        values = self._named_values.get(match[1]) if match else None
        if values is None or isinstance(values, str):
            yield raw
        else:
            yield from (replace(raw, text=value) for value in values)

    def _named_value(self, name: str, where: str) -> str:
        value = self._named_values.get(name)
        if not isinstance(value, str):
            raise GatewayError(f"{where}: there is no named value {name}.")
        return value


_LITERALS: Mapping[Type, Callable[[str], Any]] = {
    Type.STRING: str,
    Type.OBJECT: str,
    Type.INT: int,
    Type.BOOL: {"true": True, "false": False}.__getitem__,
}


@dataclass
class _Raw:
    """An element as it stands in a file."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[_Raw] = field(default_factory=list)
    text: str = ""


def _parse(content: bytes) -> _Raw:
    """Reads XML, with the lines of elements, which the standard library's trees do not have."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    top = _Raw("", {}, 0)
    path = [top]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = _Raw(tag, attributes, parser.CurrentLineNumber)
        path[-1].children.append(element)
        path.append(element)

    def end(_: str) -> None:
        path.pop()

    def text(data: str) -> None:
        path[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.Parse(content, True)
    return top.children[0]
