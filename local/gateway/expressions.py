"""Policy expressions: collected from the files, compiled as C# by mono's compiler, and run by one mono process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from local.gateway.errors import GatewayError, PolicyFailed

APT_COMMAND = (
    "apt-get install --no-install-recommends mono-mcs mono-runtime libnewtonsoft-json5.0-cil "
    "libmono-system-core4.0-cil libmono-system-xml-linq4.0-cil"
)
_SOURCES = Path(__file__).with_name("csharp")
_NEWTONSOFT = (
    Path("/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll"),  # Debian's libnewtonsoft-json5.0-cil
    Path("/usr/lib/mono/gac/Newtonsoft.Json/6.0.0.0__b9a188c8922137c6/Newtonsoft.Json.dll"),
)
_NAMESPACES = (
    "System",
    "System.Collections.Generic",
    "System.Linq",
    "System.Net",
    "System.Text",
    "System.Text.RegularExpressions",
    "Newtonsoft.Json",
    "Newtonsoft.Json.Linq",
)
_LINE_LIMIT_BYTES = 256 * 1024 * 1024  # of a message: a body in Base64 is one line


class Type(StrEnum):
    """What an expression has to be."""

    STRING = "string"
    INT = "int"
    BOOL = "bool"
    OBJECT = "object"


@dataclass(frozen=True)
class Expression:
    """One expression in a policy file.

    Parameters:
        number: which of all it is.
        source: as it stands there, ``@(…)`` or ``@{…}``.
        type: what it has to be.
        line: where its element begins in the file.
    """

    number: int
    source: str
    type: Type
    file: str
    line: int

    @property
    def reads_request_body(self) -> bool:
        return re.search(r"\bRequest\s*\.\s*Body\s*\??\s*\.\s*As\b", self.source) is not None

    @property
    def reads_response_body(self) -> bool:
        return re.search(r"\bResponse\s*\.\s*Body\s*\??\s*\.\s*As\b", self.source) is not None

    @property
    def method(self) -> str:
        """It as a method in C#. ``#line`` makes the compiler name the policy file in its errors."""
        text = self.source[2:-1]
        body = f"return {text}\n;" if self.source[1] == "(" else text
        head = f"public static {self.type} Expression{self.number}(IProxyContext context)"
        return f'{head}\n{{\n#line {self.line} "{self.file}"\n{body}\n#line default\n}}\n'


class Expressions:
    """All expressions of a gateway's policies."""

    def __init__(self) -> None:
        self._all: list[Expression] = []

    def add(self, source: str, type_: Type, file: str, line: int) -> Expression:
        expression = Expression(len(self._all), source, type_, file, line)
        self._all.append(expression)
        return expression

    def compile(self, directory: Path) -> Path:
        """Makes a program of them in *directory*, unless it is there; returns it.

        Raises:
            GatewayError: mono is not here, or C# does not take an expression: with the compiler's errors.
        """
        newtonsoft = _newtonsoft()
        sources = sorted(_SOURCES.glob("*.cs"))
        usings = "".join(f"using {name};\n" for name in _NAMESPACES)
        methods = "\n".join(expression.method for expression in self._all)
        text = f"{usings}\npublic static class Expressions\n{{\n{methods}}}\n"
        digest = hashlib.sha256("".join([text, *(source.read_text() for source in sources)]).encode()).hexdigest()
        program = directory / f"expressions-{digest[:16]}.exe"
        if program.exists():
            return program
        directory.mkdir(parents=True, exist_ok=True)
        generated = program.with_suffix(".cs")
        generated.write_text(text)
        made = program.with_suffix(".new.exe")
        command = ["mcs", "-langversion:7", "-warn:0", f"-out:{made}", f"-r:{newtonsoft}", *sources, generated]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode != 0:
            errors = [line for line in (compiled.stdout + compiled.stderr).splitlines() if ": error" in line]
            raise GatewayError("\n".join(["Expressions in the policies are no valid C#:", *errors]))
        made.rename(program)
        return program


def missing() -> str | None:
    """What is not here of what expressions need, in one sentence; None if all is."""
    absent = [program for program in ("mcs", "mono") if shutil.which(program) is None]
    if not any(path.exists() for path in _NEWTONSOFT):
        absent.append("Newtonsoft.Json")
    if not absent:
        return None
    how = (
        f"on Debian and Ubuntu: {APT_COMMAND}" if sys.platform == "linux" else "with mono, and Newtonsoft.Json in it"
    )
    lacking = ", ".join(absent)
    return f"The local gateway runs the C# of the policies by mono, of which this machine lacks {lacking} ({how})."


def _newtonsoft() -> Path:
    if problem := missing():
        raise GatewayError(problem)
    return next(path for path in _NEWTONSOFT if path.exists())


class Evaluator:
    """The mono process that runs the expressions. It keeps the variables of each request, as C# objects."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """
        Raises:
            GatewayError: it does not start.
        """
        self._process = await asyncio.create_subprocess_exec(
            "mono",
            str(self._program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT_BYTES,
            env={"MONO_PATH": str(_newtonsoft().parent), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        )
        await self._receive()

    async def ended(self) -> None:
        """Returns when the process has ended, by itself or not."""
        assert self._process is not None
        await self._process.wait()

    async def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # which ends it
            await self._process.wait()

    async def evaluate(
        self, request: str, expression: Expression, context: dict[str, Any], variable: str | None = None
    ) -> tuple[Any, list[str]]:
        """Returns the value, and which bodies are used up: of ``request`` and ``response``. With a *variable*, the
        value stays in it.

        Raises:
            PolicyFailed: the expression has thrown an exception.
        """
        message = {"op": "evaluate", "request": request, "expression": expression.number, "context": context}
        answer = await self._ask({**message, "variable": variable} if variable else message)
        if "error" in answer:
            raise PolicyFailed(
                500,
                "expression",
                "ExpressionValueEvaluationFailure",
                "Expression evaluation failed.",
                detail=f"{expression.file}({expression.line}): {answer['error']}",
            )
        value = answer.get("value")
        return base64.b64decode(value["base64"]) if isinstance(value, dict) else value, answer["consumed"]

    async def assign(self, request: str, variable: str, value: object) -> None:
        await self._ask({"op": "assign", "request": request, "variable": variable, "value": value})

    async def assign_token(self, request: str, variable: str, header: object, claims: object) -> None:
        message = {"op": "token", "request": request, "variable": variable, "header": header, "claims": claims}
        await self._ask(message)

    async def end(self, request: str) -> None:
        """Forgets the request's variables."""
        await self._ask({"op": "end", "request": request})

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        # Shielded: a cancelled request must not leave its answer to the next one.
        return await asyncio.shield(self._exchange(process.stdin, message))

    async def _exchange(self, stdin: asyncio.StreamWriter, message: dict[str, Any]) -> dict[str, Any]:
        async with self._turn:
            stdin.write(json.dumps(message).encode() + b"\n")
            await stdin.drain()
            return await self._receive()

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise GatewayError("The mono process that runs the expressions has ended.")
        return json.loads(line)
