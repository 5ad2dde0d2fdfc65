"""A fake of the Azure CLI, for the hooks: no call leaves this machine. It knows the calls that the hooks make, and
refuses any other; it keeps what they make in a file, and writes down each call.

What it cannot know is whether Azure answers so. Its answers follow the documentation of ``az`` and of Azure Resource
Manager, as far as the hooks look at them.
"""

from __future__ import annotations

import json
import os
import re
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
FUNCTIONS = json.loads((ROOT / "tests" / "snapshots" / "bindings.json").read_text()).keys()
STATE = Path(os.environ["FAKE_AZ_STATE"])
EMPTY: dict[str, Any] = {"calls": [], "secrets": {}, "keys": {}, "deployments": {}, "refreshed": 0, "failures": {}}
"""``failures``: the number of a call → whether it fails ``before`` it does something, ``after`` that, or for good."""


def main(arguments: list[str]) -> None:
    state = {**EMPTY, **json.loads(STATE.read_text())} if STATE.exists() else EMPTY
    state["calls"].append(arguments)
    failure = state["failures"].get(str(len(state["calls"])))
    answer = None
    try:
        if failure != "before":
            answer = answered(arguments, state)
    finally:
        STATE.write_text(json.dumps(state))
    if failure:
        end(1, "ERROR: (InternalServerError) The service is not available now.")
    if answer is not None:
        print(answer)  # noqa: T201


def answered(arguments: list[str], state: dict[str, Any]) -> str | None:
    words = [*takewhile(lambda word: not word.startswith("-"), arguments)]
    options = dict(zip(arguments[len(words) :: 2], arguments[len(words) + 1 :: 2], strict=False))
    match " ".join(words):
        case "account show":
            return None
        case "rest":
            return of_rest(options, state)
        case "functionapp keys list":
            return of_key(state, "*", key_of(options["--query"], "functionKeys."))
        case "functionapp function keys list":
            return of_key(state, function_of(options), key_of(options["--query"], ""))
        case "functionapp keys set":
            assert options["--key-type"] == "functionKeys"
            state["keys"].setdefault("*", {})[options["--key-name"]] = value_of(options["--key-value"])
        case "functionapp function keys set":
            value = value_of(options["--key-value"])
            state["keys"].setdefault(function_of(options), {})[options["--key-name"]] = value
        case "deployment group create":
            deploy(arguments[3:], state)
        case other:
            end(2, f"The fake does not know az {other}.")
    return None


def of_rest(options: dict[str, str], state: dict[str, Any]) -> str | None:
    method = options["--method"]
    path, _, query = options["--url"].partition("?")
    assert path.startswith("/subscriptions/"), "az completes such a URL by itself"
    assert re.fullmatch(r"api-version=\d{4}-\d\d-\d\d", query)
    if secret := re.fullmatch(r".*/providers/Microsoft.KeyVault/vaults/kv-1/secrets/([\w-]+)", path):
        name = secret[1]
        if method == "put":
            state["secrets"][name] = json.loads(value_of(options["--body"]))["properties"]["value"]
        elif method != "get":
            end(2, f"The fake does not know {method}.")
        elif name not in state["secrets"]:
            end(1, 'ERROR: Not Found({"error":{"code":"SecretNotFound","message":"A secret was not found."}})')
        # Azure Resource Manager shows no values.
    elif method == "post" and path.endswith("/config/configreferences/appsettings/refresh"):
        state["refreshed"] += 1
    elif method == "post" and path.endswith("/service/apim-1/subscriptions/smoke/listSecrets"):
        assert options["--query"] == "primaryKey"
        return "the-key-of-the-subscription"
    else:
        end(2, f"The fake does not know {method} {path}.")
    return None


def of_key(state: dict[str, Any], function: str, key: str) -> str:
    return state["keys"].get(function, {}).get(key, "")


def key_of(query: str, before: str) -> str:
    found = re.fullmatch(re.escape(before) + r'"([\w-]+)"', query)
    assert found, "a name with a hyphen needs quotes in JMESPath"
    return found[1]


def function_of(options: dict[str, str]) -> str:
    name = options["--function-name"]
    if name not in FUNCTIONS:
        end(1, f"ERROR: Operation returned an invalid status 'Not Found': {name}")
    return name


def value_of(argument: str) -> str:
    """az reads any argument from the file that it names by a sign before it."""
    assert argument.startswith("@"), "a list of processes would show the value"
    return Path(argument[1:]).read_text()


def deploy(arguments: list[str], state: dict[str, Any]) -> None:
    at = arguments.index("--parameters")
    options = dict(zip(arguments[0:at:2], arguments[1:at:2], strict=False))
    given: list[str] = []
    for word in arguments[at + 1 :]:
        if word.startswith("--"):
            break
        given.append(word)
    rest = arguments[at + 1 + len(given) :]
    options |= dict(zip(rest[::2], rest[1::2], strict=False))
    parameters: dict[str, Any] = {}
    for each in given:
        if each.startswith("@"):
            document = json.loads(Path(each[1:]).read_text())
            parameters |= {name: value["value"] for name, value in document["parameters"].items()}
        else:
            name, _, value = each.partition("=")
            parameters[name] = value
    template = (ROOT / options["--template-file"]).read_text()
    known = dict(re.findall(r"^param (\w+) ?(.*)$", template, re.MULTILINE))
    if {*parameters} - {*known} or {name for name, rest in known.items() if "=" not in rest} - {*parameters}:
        end(1, "ERROR: InvalidTemplate: the parameters are not those of the template.")
    name = options["--name"]
    named = [*json.loads(parameters.get("secrets", "[]")), *json.loads(parameters.get("callbackSecrets", "[]"))]
    if name == "access" and not {*named} <= {*state["secrets"]}:
        end(1, "ERROR: (ResourceNotFound) There is no such secret.")
    if name == "gateway" and not {"gateway-key", "function-key"} <= {*state["secrets"]}:
        end(1, "ERROR: (ValidationError) There is no such secret.")
    if name == "event-subscription" and not shakes_hands(parameters, state):
        end(1, "ERROR: (Url validation) Webhook validation handshake failed for https://app/?code=abc.")
    state["deployments"][name] = parameters


def shakes_hands(parameters: dict[str, Any], state: dict[str, Any]) -> bool:
    url, _, key = parameters["endpointUrl"].partition("?code=")
    assert url == "https://func-1.example.org/api/BackendWebhook"
    if (STATE.parent / "deaf").exists():
        return False
    return bool(parameters["audience"]) or key == state["keys"].get("BackendWebhook", {}).get("event-grid")


def end(code: int, words: str) -> NoReturn:
    print(words, file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
