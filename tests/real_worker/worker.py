"""Azure Functions' own Python worker as a process in its own virtual environment, for tests to call."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent.parent
RUNTIME = "azure-functions-runtime==1.3.0"
DRIVER = Path(__file__).with_name("driver.py")
VENV = ROOT / ".local" / "worker-venv"


def find_python() -> str | None:
    """A CPython 3.13, which this release of the worker needs, from PATH or from pyenv."""
    candidates = [shutil.which("python3.13")]
    if shutil.which("pyenv"):
        pyenv = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        versions = Path(pyenv.stdout.strip() or os.devnull) / "versions"
        candidates += [str(python) for python in sorted(versions.glob("3.13*/bin/python"))]
    probe = "import sys; sys.exit(sys.version_info[:2] != (3, 13))"
    for candidate in candidates:
        # pyenv's shim is on PATH even if its version is not selected.
        if candidate and not subprocess.run([candidate, "-c", probe], capture_output=True, check=False).returncode:
            return candidate
    return None


def prepared_python(base: str) -> Path:
    """The Python of an environment with the app's requirements and the worker. Creates the environment if it is
    missing or outdated. Several processes may call this at once."""
    VENV.parent.mkdir(exist_ok=True)
    python, marker = VENV / "bin" / "python", VENV / "made-from"
    requirements = ROOT / "requirements.txt"
    fingerprint = hashlib.sha256(requirements.read_bytes() + RUNTIME.encode() + base.encode()).hexdigest()
    with _locked(VENV.with_suffix(".lock")):
        if not marker.exists() or marker.read_text() != fingerprint:
            _run(base, "-m", "venv", "--clear", str(VENV))
            pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            _run(*pip, "--requirement", str(requirements), RUNTIME)
            marker.write_text(fingerprint)
    return python


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Answer:
    """A response. Its header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RealWorker:
    """The app in the worker. ``indexed`` is the worker's report of the app's functions.

    Args:
        environment: the app's settings. Of this process's environment, only PATH is added.
    """

    def __init__(self, python: Path, environment: Mapping[str, str], log_path: Path) -> None:
        self._log_path = log_path
        with log_path.open("w") as log:
            self._process = subprocess.Popen(
                [python, str(DRIVER)],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.indexed: dict[str, Any] = self._read()

    def http(
        self,
        function: str,
        method: str,
        path: str,
        *,
        body: bytes | str | Mapping[str, Any] = b"",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        traceparent: str = "",
    ) -> Answer:
        """Invoke an HTTP function. *params* are the parameters that the host reads from the route, *traceparent* is
        its trace context."""
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        url = f"https://backbone.test/api/{path}"
        answer = self._ask(
            {
                "function": function,
                "traceparent": traceparent,
                "http": {
                    "method": method,
                    "url": url,
                    "headers": {name.lower(): value for name, value in (headers or {}).items()},
                    "params": dict(params or {}),
                    "query": dict(parse_qsl(urlsplit(url).query)),
                    "body": base64.b64encode(data).decode(),
                },
            }
        )
        return Answer(answer["status"], answer["headers"], base64.b64decode(answer["body"]))

    def timer(self, function: str) -> None:
        schedule = {"AdjustForDST": True}
        status = dict.fromkeys(("Last", "Next", "LastUpdated"), "2026-11-22T10:12:44.0000000+00:00")
        self._ask(
            {"function": function, "timer": {"Schedule": schedule, "ScheduleStatus": status, "IsPastDue": False}}
        )

    def flush(self, *, metrics: bool) -> None:
        """Export the telemetry that waits."""
        self._ask({"flush": metrics})

    def _ask(self, call: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps(call), file=self._process.stdin, flush=True)
        answer = self._read()
        assert answer["ok"], f"{call.get('function')} failed in the worker:\n{answer['error']}\n{self._log()}"
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the worker has ended. Its log:\n{self._log()}"
        return json.loads(line)

    def _log(self) -> str:
        return self._log_path.read_text()[-5000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=PATIENCE_S)  # the worker ends when its input ends
        finally:
            self._process.kill()
