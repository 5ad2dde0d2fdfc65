"""Reads a function app's directory as `func start` does: local.settings.json, host.json, function_app.py."""

import importlib
import json
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import azure.functions as func

from local.functions_host.errors import HostError

_APP_FILE = "function_app.py"
_OVERRIDE = "azurefunctionsjobhost__"


def load_local_settings(script_root: Path, environment: MutableMapping[str, str]) -> None:
    """Puts the `Values` of local.settings.json, if it exists, into `environment`; variables there have precedence."""
    path = script_root / "local.settings.json"
    if not path.exists():
        return
    settings = _read_json_object(path)
    if settings.get("IsEncrypted"):
        raise HostError("local.settings.json is encrypted; run `func settings decrypt`.")
    for name, value in (settings.get("Values") or {}).items():
        if not isinstance(value, str):
            raise HostError(f"local.settings.json: the value of {name} is not a string.")
        environment.setdefault(name, value)


def load_host_json(script_root: Path, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Returns host.json. A variable such as `AzureFunctionsJobHost__extensions__http__maxConcurrentRequests` has
    precedence over the value that it names.
    """
    path = script_root / "host.json"
    if not path.exists():
        raise HostError(f"There is no host.json in {script_root}.")
    host_json = _read_json_object(path)
    if host_json.get("version") != "2.0":
        raise HostError('host.json: "version" must be "2.0".')
    for name, value in environment.items():
        if name.lower().startswith(_OVERRIDE):
            try:
                _override(host_json, name.split("__")[1:], value)
            except (AttributeError, TypeError) as error:
                raise HostError(f"{name} names a part of a setting of host.json that has none.") from error
    return host_json


def import_function_app(script_root: Path) -> func.FunctionRegister:
    """Returns the one function app that function_app.py defines."""
    if not (script_root / _APP_FILE).exists():
        raise HostError(f"There is no {_APP_FILE} in {script_root}.")
    sys.path.insert(0, str(script_root))
    try:
        module = importlib.import_module(Path(_APP_FILE).stem)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        raise HostError(f"{_APP_FILE} cannot be imported: {reason}.") from error
    apps = [value for value in vars(module).values() if isinstance(value, func.FunctionRegister)]
    if len(apps) != 1:
        raise HostError(f"{_APP_FILE} must define one function app at its top level, not {len(apps)}.")
    return apps[0]


def _override(section: dict[str, Any], path: list[str], value: str) -> None:
    name = next((name for name in section if name.lower() == path[0].lower()), path[0])
    if len(path) > 1:
        _override(section.setdefault(name, {}), path[1:], value)
    else:
        section[name] = int(value) if value.removeprefix("-").isdecimal() else value


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise HostError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise HostError(f"{path.name} is not a JSON object.")
    return content
