"""The gateway as a part of the local stack."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local.gateway.expressions import missing
from local.processes import ChildProcess, LocalStackError

ROOT = Path(__file__).resolve().parents[2]
APIS = ROOT / "infra" / "apim" / "apis.json"
CALLERS, OPERATORS = "callers", "operators"
_CALLS_PER_MINUTE, _CALLS_PER_MONTH = 600, 10_000_000


class GatewayProcess(ChildProcess):
    """The local gateway in front of an app.

    Parameters:
        directory: for its log, and for the program that its expressions become.
        port: where it listens.
        app_url: the app's.
        function_key: a key of the app's functions.
        gateway_key: what the app has as ``GATEWAY_KEY``.
        max_body_bytes: the largest body that the app takes.
        services: the paths of the model services.
        subscriptions: by their keys: an id, and the product that it is for.
        named_values: of the policies, in place of those that fit a local stack.
        tier, owner: the variants of the policies, as ``apis.json`` names them.
        apis: the file ``apis.json``.

    Raises:
        LocalStackError: mono is missing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        app_url: str,
        function_key: str,
        gateway_key: str,
        max_body_bytes: int,
        services: Sequence[str],
        subscriptions: Mapping[str, tuple[str, str]],
        named_values: Mapping[str, str | Sequence[str]] | None = None,
        tier: str = "v2",
        owner: str = "subscription",
        apis: Path = APIS,
    ) -> None:
        if problem := missing():
            raise LocalStackError(problem)
        self._address = f"http://127.0.0.1:{port}"
        self._settings: dict[str, Any] = {
            "apis": str(apis),
            "port": port,
            "app_url": app_url,
            "named_values": {
                "function-key": function_key,
                "gateway-key": gateway_key,
                "gateway-url": self._address,
                "max-body-bytes": str(max_body_bytes),
                "calls-per-minute": str(_CALLS_PER_MINUTE),
                "calls-per-month": str(_CALLS_PER_MONTH),
                "cors-origins": [],
                "openid-configuration-url": "",
                "token-audience": "",
                "owner-claim": "oid",
                **(named_values or {}),
            },
            "subscriptions": [
                {"id": id_, "name": id_, "key": key, "product": product}
                for key, (id_, product) in subscriptions.items()
            ],
            "services": list(services),
            "tier": tier,
            "owner": owner,
            "work": str(directory / "gateway"),
        }
        super().__init__(
            "the local gateway",
            [sys.executable, "-m", "local.gateway"],
            log_path=directory / "gateway.log",
            environment={"PYTHONPATH": str(ROOT), "GATEWAY": json.dumps(self._settings)},
        )

    @property
    def url(self) -> str:
        """The address, which is known from the start."""
        return self._address

    def set_named_value(self, name: str, value: str) -> None:
        """Changes a named value, from the next start on."""
        self._settings["named_values"][name] = value
        self.environment["GATEWAY"] = json.dumps(self._settings)
