"""Runs a server and the sidecar before it in one container: ``python served.py COMMAND…``, the server's command.

The sidecar gets what ``SIDECAR`` has, such as ``--upstream http://127.0.0.1:8000 --slots 2``. When the container is
stopped, the sidecar drains first, for which it needs the server. When one of the two ends by itself, the other ends
too, and the container with them: who started it will start it again.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading

_STOP_S = 10.0


def main() -> int:
    sidecar_command = [sys.executable, "-m", "taskbackbone", "sidecar", *shlex.split(os.environ.get("SIDECAR", ""))]
    over, told = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        told.set()
        over.set()

    def watch(process: subprocess.Popen[bytes]) -> None:
        process.wait()
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server, sidecar = subprocess.Popen(sys.argv[1:]), subprocess.Popen(sidecar_command)
    for process in (server, sidecar):
        threading.Thread(target=watch, args=(process,), daemon=True).start()
    over.wait()
    sidecar.terminate()
    code = sidecar.wait()
    server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    return code if told.is_set() else code or server.returncode or 1


if __name__ == "__main__":
    sys.exit(main())
