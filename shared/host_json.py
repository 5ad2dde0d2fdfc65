"""The settings that the Functions host reads from ``host.json``, as far as the app goes by them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

_FILE: Final = Path(__file__).parent.parent / "host.json"
_NAMES: Final = ("functionTimeout", "telemetryMode", "extensions__http__maxConcurrentRequests")


def read_host_json() -> Mapping[str, Any]:
    """The app's own ``host.json``."""
    try:
        return json.loads(_FILE.read_text())
    except (OSError, ValueError):  # what is wrong with it, the Functions host says
        return {}


def settings_of(host_json: Any) -> dict[str, Any]:
    """The settings that ``host.json`` has, under the names by which the environment replaces them, in lower case."""
    found: dict[str, Any] = {}
    for name in _NAMES:
        value = host_json
        for part in name.split("__"):
            value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else None
        if value is not None:
            found[f"azurefunctionsjobhost__{name.lower()}"] = value
    return found


def of_time_span(time_span: str) -> float | None:
    """The seconds of a time span as .NET writes it, ``[d.]hh:mm:ss``; None if it is none, such as ``-1``, which means
    no end."""
    match = re.fullmatch(r"(?:(\d+)\.)?(\d+):(\d+)(?::(\d+(?:\.\d+)?))?", time_span.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
