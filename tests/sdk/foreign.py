"""``python -m tests.sdk.foreign NAME``: prints the Python of an environment with somebody else's server of models.

``sdk/bench/servers`` has a script for each. The environment is made when it is first asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.sdk.environments import Failure, environment

REQUIREMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "cog": ("cog==0.23.1",),
    "litserve": ("litserve==0.2.19",),
    "bentoml": ("bentoml==1.4.40",),
    "gunicorn": ("gunicorn==23.0.0", "flask==3.1.2"),
}


def python_with(name: str) -> Path:
    """The Python of the environment for this server.

    Raises:
        Failure: it cannot be installed.
    """
    return environment(f"with-{name}", sys.executable, REQUIREMENTS[name])


if __name__ == "__main__":
    try:
        with_it = python_with(sys.argv[1])
    except Failure as failure:
        sys.exit(str(failure))
    print(with_it)
