"""Writes ``docs/sdk-reference.md`` from the SDK's docstrings: ``python -m tools.sdk_reference [--check]``.

What a public module names in ``__all__`` is public: it needs a docstring, and so do its methods. If a class says what
it is made of, it says so of all parameters.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import griffe

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "sdk" / "src"
TARGET = ROOT / "docs" / "sdk-reference.md"
_HEAD: Final = """# Reference of the SDK

<!-- Written by `python -m tools.sdk_reference` from the docstrings of sdk/src/taskbackbone. -->

Times that end in `_s` are seconds, sizes that end in `_bytes` are bytes. [Model services](model-services.md) says how
to begin.
"""
_LONGEST_LINE: Final = 100
_KNOWN_METHODS: Final = ("close", "aclose")
_AWAITED: Final = "Async"
"""What the names of classes begin with that have another face: the one from which it is made."""
_LABELS: Final = {
    griffe.DocstringSectionKind.parameters: "Parameters",
    griffe.DocstringSectionKind.attributes: "Attributes",
    griffe.DocstringSectionKind.raises: "Raises",
    griffe.DocstringSectionKind.returns: "Returns",
    griffe.DocstringSectionKind.yields: "Yields",
}


class Reference:
    """The page, and what is missing in the docstrings it is made of."""

    def __init__(self, sources: Path) -> None:
        self.missing: list[str] = []
        package = griffe.load("taskbackbone", search_paths=[sources], docstring_parser="google")
        assert isinstance(package, griffe.Module)
        self._documented: set[str] = set()
        self.page = "\n".join([_HEAD, *(part for module in public(package) for part in self._module(module))])

    def _module(self, module: griffe.Module) -> Iterator[str]:
        yield f"## {module.path}\n"
        yield from self._text(module)
        for name in module.exports or ():
            member = module[str(name)]
            found = member.final_target if isinstance(member, griffe.Alias) else member
            if isinstance(found, griffe.Module) or found.path in self._documented:
                continue
            self._documented.add(found.path)
            yield from self._object(found, str(name), "###")

    def _object(self, found: griffe.Object, name: str, heading: str) -> Iterator[str]:
        yield f"{heading} {name}\n"
        made = found.members.get("__init__") if isinstance(found, griffe.Class) else found
        if isinstance(made, griffe.Function) and (made is found or self._is_made_by_users(found, made)):
            yield f"```python\n{signature(name.rpartition('.')[2], made, of_class=made is not found)}\n```\n"
        yield from self._text(found)
        if not isinstance(found, griffe.Class):
            return
        if name.startswith(_AWAITED):
            other = name.removeprefix(_AWAITED)
            yield f"Its methods are those of {other}, to be awaited.\n"
            return
        members = [each for each in found.members.values() if isinstance(each, griffe.Object) and is_public(each)]
        fields = [each for each in members if isinstance(each, griffe.Attribute) and self._is_shown(each)]
        if fields:
            yield "\n".join(f"- `{each.name}: {each.annotation}`{self._meaning(each)}" for each in fields) + "\n"
        for member in members:
            if isinstance(member, griffe.Function):
                yield from self._object(member, f"{name}.{member.name}", heading + "#")

    def _is_made_by_users(self, found: griffe.Object, made: griffe.Function) -> bool:
        """Whether the docstring says what the class is made of: all of it, then."""
        sections = found.docstring.parse("google", warnings=False) if found.docstring else ()
        if not any(section.kind is griffe.DocstringSectionKind.parameters for section in sections):
            return False
        named = set(re.findall(r"\w+", found.docstring.value if found.docstring else ""))
        parameters = [parameter.name.lstrip("*") for parameter in made.parameters if parameter.name != "self"]
        self.missing += [f"{found.path} does not say what {name} is" for name in parameters if name not in named]
        return True

    def _is_shown(self, field: griffe.Attribute) -> bool:
        """Whether it is a property, or a field with a text of its own."""
        return "property" in field.labels or field.docstring is not None

    def _meaning(self, field: griffe.Attribute) -> str:
        return f": {text_of(field.docstring.value, indented=True)}" if field.docstring else ""

    def _text(self, found: griffe.Object) -> Iterator[str]:
        if found.docstring is None:
            if found.name not in _KNOWN_METHODS:
                self.missing.append(f"{found.path} has no docstring")
            return
        for section in found.docstring.parse("google", warnings=False):
            yield from section_of(section)


def public(package: griffe.Module) -> list[griffe.Module]:
    """The package, and its modules that say what of them is public."""
    modules = [package, *(module for module in package.modules.values() if not module.name.startswith("_"))]
    return [module for module in modules if module.exports]


def is_public(member: griffe.Object) -> bool:
    return not member.name.startswith("_")


def signature(name: str, function: griffe.Function, *, of_class: bool) -> str:
    """A signature as in the source, on several lines if it is long."""
    parts: list[str] = []
    kinds = griffe.ParameterKind
    star_seen = False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls") and not parts:
            continue
        if parameter.kind is kinds.keyword_only and not star_seen:
            star_seen = True
            parts.append("*")
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(parameter.kind or kinds.positional_only, "")
        star_seen = star_seen or stars == "*"
        part = stars + parameter.name.lstrip("*")
        if parameter.annotation is not None:
            part += f": {parameter.annotation}"
        if parameter.default is not None and not stars:
            part += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        parts.append(part)
    result = f" -> {function.returns}" if not of_class and function.returns is not None else ""
    name = name if of_class else f"{'async ' if 'async' in function.labels else ''}def {name}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def section_of(section: griffe.DocstringSection) -> Iterator[str]:
    if section.kind is griffe.DocstringSectionKind.text:
        yield text_of(section.value) + "\n"
    elif section.kind in _LABELS:
        yield f"{_LABELS[section.kind]}:\n"
        yield "\n".join(f"- {item(each)}" for each in section.value) + "\n"
    elif section.kind is griffe.DocstringSectionKind.admonition:
        yield f"{section.title}: {text_of(section.value.description)}\n"
    elif section.kind is griffe.DocstringSectionKind.examples:
        yield "\n".join(text_of(text) for _, text in section.value) + "\n"


def item(each: griffe.DocstringNamedElement | griffe.DocstringElement) -> str:
    name = getattr(each, "name", "") or str(each.annotation or "")
    text = text_of(each.description, indented=True)
    return f"`{name}`: {text}" if name else text


def text_of(docstring: str, *, indented: bool = False) -> str:
    """A docstring's text as Markdown: code that stands below a line with ``::`` or is indented becomes a block."""
    text = re.sub(r"``([^`]+)``", r"`\1`", docstring.strip())
    text = re.sub(r":(?:class|func|meth|mod):`~?([^`]+)`", r"`\1`", text)
    if indented:
        return re.sub(r"\s*\n\s*", " ", text)
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        is_code = all(line.startswith("    ") for line in block.splitlines())
        if is_code and blocks and blocks[-1].startswith("```python"):
            blocks[-1] = f"{blocks[-1][:-4]}\n\n{dedented(block)}\n```"
        elif is_code:
            blocks.append(f"```python\n{dedented(block)}\n```")
        else:
            blocks.append(block.removesuffix(":") if block.endswith("::") else block)
    return "\n\n".join(blocks)


def dedented(block: str) -> str:
    return "\n".join(line[4:] for line in block.splitlines())


def formatted(page: str) -> str:
    """The page with its blocks of code as `dev.py format` leaves them."""
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(ruff, input=page, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sdk_reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    options = parser.parse_args()
    reference = Reference(SOURCES)
    page = formatted(reference.page)
    for sentence in reference.missing:
        print(sentence, file=sys.stderr)
    if options.check:
        is_right = TARGET.exists() and TARGET.read_text() == page
        if not is_right:
            print(f"{TARGET.relative_to(ROOT)} is not up to date: python -m {__spec__.name}", file=sys.stderr)
        return 0 if is_right and not reference.missing else 1
    TARGET.write_text(page)
    return 1 if reference.missing else 0


if __name__ == "__main__":
    sys.exit(main())
