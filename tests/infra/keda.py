"""How KEDA and the autoscaler of Kubernetes that it makes compute replicas from a ScaledObject, by their source.

KEDA 2.20: `scale_scaledobjects.go`, `fallback.go`, `metrics_api_scaler.go`, `formula.go`. Kubernetes:
`horizontal.go`, `replica_calculator.go`. Only what a ScaledObject of the chart says is here; the rest is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from local.stack import NO_TLS

SYNC_S = 15
"""How often the autoscaler looks, unless the cluster says otherwise."""
_TOLERANCE = 0.1
_COOLDOWN_S, _POLLING_S, _MAX_REPLICAS = 300, 30, 100
_SCALE_DOWN_WINDOW_S = 300

Read = Callable[[dict[str, Any]], float]


class Failing(Exception):
    """Raised when a trigger's value cannot be had."""


def read_by_http(trigger: dict[str, Any], authentication: dict[str, Any], secrets: Mapping[str, str]) -> float:
    """What KEDA's `metrics-api` scaler reads, with *secrets* for those that the TriggerAuthentication names.

    Raises:
        Failing: the answer is not 200, or has no number there.
    """
    metadata = trigger["metadata"]
    spec = authentication["spec"]
    named = spec.get("secretTargetRef") or spec["azureKeyVault"]["secrets"]
    given = {
        each["parameter"]: secrets[f"{each['name']}/{each['key']}" if "key" in each else each["name"]]
        for each in named
    }
    if metadata["authMode"] != "apiKey" or metadata["method"] != "header":
        raise AssertionError(f"not known here: {metadata}")
    headers = {metadata.get("keyParamName", "X-API-KEY"): given["apiKey"]}
    seconds = float(metadata["timeout"].removesuffix("s"))
    try:
        answer = httpx.get(metadata["url"], headers=headers, timeout=seconds, verify=NO_TLS)
    except httpx.HTTPError as error:
        raise Failing(str(error)) from None
    if answer.status_code != 200:
        raise Failing(f"{answer.status_code}")
    value: Any = answer.json()
    for key in metadata["valueLocation"].split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Failing(f"{metadata['valueLocation']} is {value!r}")
    return float(value)


@dataclass
class Autoscaler:
    """Replicas of the target of a ScaledObject. ``poll`` is KEDA's loop, ``sync`` the autoscaler's.

    Parameters:
        scaled_object: as rendered.
        read: the value of a trigger, or :class:`Failing`.
    """

    scaled_object: dict[str, Any]
    read: Read
    replicas: int = 0
    _last_active_s: float | None = None
    _failures: dict[str, int] = field(default_factory=dict)
    _recommended: list[tuple[float, int]] = field(default_factory=list)

    @property
    def _spec(self) -> dict[str, Any]:
        return self.scaled_object["spec"]

    @property
    def polling_s(self) -> int:
        return self._spec.get("pollingInterval", _POLLING_S)

    @property
    def _fewest(self) -> int:
        return self._spec.get("minReplicaCount", 0)

    def poll(self, now_s: float) -> None:
        values = [self._value(trigger) for trigger in self._spec["triggers"]]
        is_error = None in values
        fallback = self._spec.get("fallback")
        if self._is_active(values):
            if self.replicas == 0:
                self.replicas = max(1, self._fewest)
                self._last_active_s = now_s
            elif not is_error:
                self._last_active_s = now_s
        elif is_error and (fallback is None or fallback["replicas"] != 0):
            pass  # the autoscaler falls back
        elif self.replicas > 0 and self._fewest == 0:
            cooldown_s = self._spec.get("cooldownPeriod", _COOLDOWN_S)
            if self._last_active_s is None or self._last_active_s + cooldown_s < now_s:
                self.replicas = 0
        elif self.replicas < self._fewest:
            self.replicas = self._fewest

    def sync(self, now_s: float) -> None:
        if self.replicas == 0:
            return  # the autoscaler rests while there are none
        proposed = [each for each in map(self._proposed, self._metrics()) if each is not None]
        if not proposed:
            return
        most = self._spec.get("maxReplicaCount", _MAX_REPLICAS)
        self._recommended.append((now_s, max(proposed)))
        self.replicas = self._behaved(max(proposed), now_s, max(1, self._fewest), most)

    def _is_active(self, values: list[float | None]) -> bool:
        formula = self._modifiers()
        if formula is not None:
            known = [value for value in values if value is not None]
            return len(known) == len(values) and sum(known) > 0
        activation = [float(each["metadata"].get("activationTargetValue", 0)) for each in self._spec["triggers"]]
        return any(value is not None and value > least for value, least in zip(values, activation, strict=True))

    def _metrics(self) -> list[tuple[float, float]]:
        """The values that the autoscaler gets, each with its target; none for one that fails."""
        triggers = self._spec["triggers"]
        values = {each["name"]: self._value(each) for each in triggers}
        modifiers = self._modifiers()
        targets = {each["name"]: float(each["metadata"]["targetValue"]) for each in triggers}
        got = {name: (value, targets[name]) for name, value in values.items() if value is not None}
        for name in values.keys() - got.keys():
            kept = self._fallen_back(name)
            if kept is not None:
                target = float(modifiers["target"]) if modifiers else targets[name]
                if modifiers:
                    return [(kept * target, target)]  # the formula is left out
                got[name] = (kept * target, target)
        if modifiers is None:
            return list(got.values())
        if len(got) < len(values):
            return []
        return [(sum(value for value, _ in got.values()), float(modifiers["target"]))]

    def _modifiers(self) -> dict[str, Any] | None:
        modifiers = self._spec.get("advanced", {}).get("scalingModifiers")
        names = [each["name"] for each in self._spec["triggers"]]
        if modifiers and re.split(r"\s*\+\s*", modifiers["formula"]) != names:
            raise AssertionError(f"not known here: {modifiers['formula']}")
        return modifiers

    def _value(self, trigger: dict[str, Any]) -> float | None:
        """KEDA counts the failures of both loops together."""
        try:
            value = self.read(trigger)
        except Failing:
            self._failures[trigger["name"]] = self._failures.get(trigger["name"], 0) + 1
            return None
        self._failures[trigger["name"]] = 0
        return value

    def _fallen_back(self, name: str) -> int | None:
        """The replicas that hold while a trigger fails; None: not yet, or never."""
        fallback = self._spec.get("fallback")
        if fallback is None or self._failures[name] <= fallback["failureThreshold"]:
            return None
        fixed = fallback["replicas"]
        return {
            "static": fixed,
            "currentReplicas": self.replicas,
            "currentReplicasIfHigher": max(self.replicas, fixed),
            "currentReplicasIfLower": min(self.replicas, fixed),
        }[fallback.get("behavior", "static")]

    def _proposed(self, metric: tuple[float, float]) -> int | None:
        """AverageValue: the whole by the target, unless it is near enough."""
        value, target = metric
        if abs(1 - value / (target * self.replicas)) <= _TOLERANCE:
            return self.replicas
        return math.ceil(value / target)

    def _behaved(self, proposed: int, now_s: float, fewest: int, most: int) -> int:
        advanced = self._spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
        up, down = (advanced.get("behavior", {}).get(each, {}) for each in ("scaleUp", "scaleDown"))
        if up.get("stabilizationWindowSeconds", 0) or {*up, *down} - {"stabilizationWindowSeconds", "selectPolicy"}:
            raise AssertionError(f"not known here: {up}, {down}")
        window_s = down.get("stabilizationWindowSeconds", _SCALE_DOWN_WINDOW_S)
        recent = [each for at_s, each in self._recommended if at_s > now_s - window_s]
        # Never fewer than was right at some time of the window, unless there are fewer already.
        stable = max([proposed, *recent]) if proposed < self.replicas else proposed
        stable = min(stable, self.replicas) if proposed < self.replicas else stable
        if stable < self.replicas and down.get("selectPolicy") == "Disabled":
            stable = self.replicas
        fast = max(self.replicas + 4, self.replicas * 2)
        return max(fewest, min(stable, most, fast))
