"""A large file up, through a model and down again, with the SDK and on the command line: byte for byte, and in how
much memory.

``python -m sdk.bench.large --mib 96 --python PYTHON`` prints the figures as JSON; the service and the callers run in
that Python, and the app in this one. ``bench large`` does it with 2 GiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from local.processes import free_port
from local.stack import Stack
from tests.sdk.environments import clean_environment

_PATIENCE_S: Final = 120.0
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""What the app takes itself, so that a smaller file than 100 MiB is uploaded too."""
_MIB: Final = 1024 * 1024
_INVERSE: Final = bytes(255 - byte for byte in range(256))

SERVICE: Final = """
from pathlib import Path
from taskbackbone import Task, TaskService

service = TaskService()
INVERSE = bytes(255 - byte for byte in range(256))

@service.task("/v1/large/invert")
def invert(body: Path, task: Task) -> Path:
    inverted = task.folder / "inverted.bin"
    with body.open("rb") as source, inverted.open("wb") as target:
        while piece := source.read(1 << 20):
            target.write(piece.translate(INVERSE))
    return inverted

service.run()
"""

# Both callers do something small first, and then look how much memory the rest needs.
_MEMORY: Final = r"""
import sys
from pathlib import Path

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))

def done():
    sys.stderr.write(f"{memory('VmHWM') - idle:.1f}\n")

small, source, target = sys.argv[1:]
"""
_SDK: Final = """
from taskbackbone import TaskClient

client = TaskClient()
client.run("/v1/large/invert", Path(small), timeout_s=600).save(target)
idle = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
client.run("/v1/large/invert", Path(source), timeout_s=3600).save(target)
done()
"""
_COMMAND_LINE: Final = """
from taskbackbone.cli import main

assert main(["submit", "/v1/large/invert", small, "--output", target]) == 0
idle = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
assert main(["submit", "/v1/large/invert", source, "--output", target]) == 0
done()
"""


@dataclass(frozen=True)
class Way:
    """What one way took: seconds, and the peaks of memory above idle in MiB: of the app, the service, the caller."""

    seconds: float
    app_mib: float
    service_mib: float
    caller_mib: float


def measure(size_bytes: int, python: Path) -> dict[str, Way]:
    """Both ways, one after the other.

    Raises:
        AssertionError: what came back is not what the model has made.
    """
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        folder = Path(name)
        expected = _make(folder / "source.bin", size_bytes)
        (folder / "small.bin").write_bytes(b"small")
        port = free_port()
        backend = {"url": f"http://127.0.0.1:{port}", "lease_s": 60, "reference": True}
        settings = {"MAX_BODY_BYTES": str(_MAX_BODY_BYTES)}
        with (
            Stack(folder / "stack", backends={"/v1/large": backend}, with_model=False, settings=settings) as stack,
            _service(folder, python, port, stack) as service,
        ):
            return {
                way: _take(code, folder, python, stack, service, expected)
                for way, code in (("SDK", _SDK), ("command line", _COMMAND_LINE))
            }


def _take(
    code: str, folder: Path, python: Path, stack: Stack, service: subprocess.Popen[bytes], expected: str
) -> Way:
    target = folder / "target.bin"
    arguments = [str(folder / "small.bin"), str(folder / "source.bin"), str(target)]
    app, own = Memory(stack.host.pid), Memory(service.pid)
    began_s = time.monotonic()
    command = [str(python), "-c", _MEMORY + code, *arguments]
    done = subprocess.run(command, env=environment(stack), capture_output=True, text=True, check=False)
    took_s = time.monotonic() - began_s
    assert done.returncode == 0, done.stdout + done.stderr
    assert _sha256(target) == expected, "the result is not what the model has made"
    target.unlink()
    return Way(took_s, app.above_idle_mib(), own.above_idle_mib(), float(done.stderr.split()[-1]))


class Memory:
    """That of a process and of all that it has started, from now on."""

    def __init__(self, pid: int) -> None:
        self._idle_mib = {each: _status(each, "VmRSS") for each in _family(pid)}
        for each in self._idle_mib:
            Path(f"/proc/{each}/clear_refs").write_text("5")  # the peak begins anew

    def above_idle_mib(self) -> float:
        """The sum of their peaks."""
        return sum(_status(each, "VmHWM") - idle for each, idle in self._idle_mib.items())


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _status(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


@contextmanager
def _service(folder: Path, python: Path, port: int, stack: Stack) -> Generator[subprocess.Popen[bytes], None, None]:
    script, log = folder / "large_service.py", folder / "service.log"
    script.write_text(SERVICE)
    own = {**environment(stack), "PORT": str(port), "SERVICE_STORAGE": stack.azurite.url, "TMPDIR": str(folder)}
    with log.open("wb") as sink:
        process = subprocess.Popen([str(python), str(script)], env=own, stdout=sink, stderr=subprocess.STDOUT)
        try:
            give_up_s = time.monotonic() + _PATIENCE_S
            while b"ready: " not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up_s, log.read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait()


def environment(stack: Stack) -> Mapping[str, str]:
    known = {"BACKBONE_URL": stack.url, "BACKBONE_KEY": stack.key}
    return {**clean_environment(), **known}


def _make(path: Path, size_bytes: int) -> str:
    """Write random bytes, and return the SHA-256 of what the model makes of them."""
    whole = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, _MIB):
            piece = os.urandom(min(_MIB, size_bytes - start))
            file.write(piece)
            whole.update(piece.translate(_INVERSE))
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_MIB):
            whole.update(piece)
    return whole.hexdigest()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sdk.bench.large", description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="the size of the file (default: 2048)")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="has the SDK")
    options = parser.parse_args(argv)
    ways = measure(options.mib * _MIB, options.python)
    sys.stdout.write(json.dumps({name: asdict(way) for name, way in ways.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
