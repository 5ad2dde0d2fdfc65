"""``python -m tests.sdk.stack FOLDER``: the app for tests whose Python is not the app's.

Once it is up, it prints a line of JSON: ``{"url", "key", "storage", "places": {path: {"port", "lease_s"}},
"callbacks": {"port", "secret"}}``. It knows a model service at each place, and calls back at that port if a task
names the destination ``tests``; nothing listens there yet. The lines ``kill`` and ``start`` of its standard input do
so to the app, and are repeated when it is done. It ends with its standard input, so with whoever started it.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from local.processes import LocalStackError, free_port
from local.stack import Stack
from tests.conftest import IN_A_HURRY

PLACES = 40
"""Of each kind."""
LEASES_S = {"/v1/test": 60.0, "/v1/brief": 5.0, "/v1/large": 60.0}
"""By kind: how long a task may be silent there."""
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
"""Of the destination of callbacks."""
REFERENCES = "/v1/large"
"""The kind that takes the URL of a body in its place."""


def main() -> int:
    places = {
        f"{kind}/{number}": {"port": free_port(), "lease_s": lease_s}
        for kind, lease_s in LEASES_S.items()
        for number in range(PLACES)
    }
    backends = {
        path: {
            "url": f"http://127.0.0.1:{place['port']}",
            "lease_s": place["lease_s"],
            "reference": path.startswith(REFERENCES),
        }
        for path, place in places.items()
    }
    callbacks = {"port": free_port(), "secret": SECRET}
    destination = {"url": f"http://127.0.0.1:{callbacks['port']}/ended", "secret_setting": "TESTS_SECRET"}
    settings = {**IN_A_HURRY, "CALLBACKS": json.dumps({"tests": destination}), "TESTS_SECRET": SECRET}
    try:
        with Stack(Path(sys.argv[1]), backends=backends, with_model=False, settings=settings) as stack:
            told = {"url": stack.url, "key": stack.key, "storage": stack.azurite.url, "places": places}
            told["callbacks"] = callbacks
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            for line in sys.stdin:
                {"kill": stack.host.kill, "start": stack.host.start}[line.strip()]()
                sys.stdout.write(line)
                sys.stdout.flush()
    except LocalStackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
