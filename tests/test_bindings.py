"""The app's bindings as the Functions host gets them: a snapshot of routes, schedules and key levels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = Path(__file__).with_name("snapshots") / "bindings.json"
SETTINGS = {
    "REDIS_CONNECTION_STRING": "redis://127.0.0.1:6379",
    "EVENT_GRID_TOPIC_URI": "https://topic.invalid/api/events",
    "BACKEND_BASE_URL": "https://models.example.com",
}

# Runs in a separate process, since an app can be enumerated only once.
ENUMERATE = """
import json, function_app
functions = {
    function.get_function_name(): sorted(map(json.loads, function.get_raw_bindings()), key=lambda b: b["name"])
    for function in function_app.app.get_functions()
}
print(json.dumps(functions, indent=2, sort_keys=True))
"""


def bindings() -> str:
    """The app's functions with the bindings that ``get_raw_bindings`` gives the host, as JSON."""
    command = [sys.executable, "-c", ENUMERATE]
    done = subprocess.run(command, cwd=ROOT, env=SETTINGS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bindings_match_the_snapshot() -> None:
    assert bindings() == SNAPSHOT.read_text(), (
        "The bindings differ from tests/snapshots/bindings.json. If the change is intended: "
        "python -m tests.test_bindings writes them anew; commit the file."
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(bindings())
