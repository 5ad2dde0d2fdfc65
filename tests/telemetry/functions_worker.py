"""The app in a process that stands for the Functions worker, and what it sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from local.stack import ROOT
from tests.telemetry.ingestion_double import IngestionDouble

# No export happens on its own during a test.
ONLY_WHEN_FLUSHED = {
    "OTEL_BSP_SCHEDULE_DELAY": "600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "600000",
}
# The exporter's reports about itself go to endpoints of Microsoft's own, and nobody pays for them.
NOT_ABOUT_ITSELF = {
    f"APPLICATIONINSIGHTS_{name}": "true"
    for name in ("STATSBEAT_DISABLED_ALL", "SDKSTATS_DISABLED", "CONTROLPLANE_DISABLED")
}


def settings_for(insights: IngestionDouble, redis_url: str) -> dict[str, str]:
    return {
        "REDIS_CONNECTION_STRING": redis_url,
        "EVENT_GRID_TOPIC_URI": "http://127.0.0.1:1/topic/api/events",
        "EVENT_GRID_KEY": "key",
        "BACKENDS": '{"/v1/test": "http://127.0.0.1:9"}',
        "ALLOW_LOOPBACK_BACKENDS": "true",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": insights.connection_string,
        "OTEL_TRACES_SAMPLER": "always_on",
        **ONLY_WHEN_FLUSHED,
        **NOT_ABOUT_ITSELF,
    }


class FunctionsWorker:
    """The process. With *configuring*, the worker configures the exporter, on the root logger."""

    def __init__(self, settings: Mapping[str, str], log_path: Path, *, configuring: bool = False) -> None:
        self.log_path = log_path
        self._log = log_path.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.telemetry.worker_process", *(["configuring"] if configuring else [])],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def timer(self, function: str) -> None:
        self._ask(timer=function)

    def post(
        self,
        function: str,
        *,
        route: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: str = "{}",
        traceparent: str | None = None,
    ) -> int:
        """Invoke an HTTP function, and return its status. *traceparent* is the trace context of the host."""
        answer = self._ask(
            http=function, route=route or {}, headers=headers or {}, body=body, traceparent=traceparent
        )
        return answer["status"]

    def log(self, logger: str, level: int, text: str) -> None:
        self._ask(log=logger, level=level, text=text)

    def flush(self, *, metrics: bool = False) -> None:
        assert self._ask(flush=metrics)["ended"], "each export makes another"

    def _ask(self, **request: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the worker has ended:\n{self.log_path.read_text()[-5000:]}"
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=30)
        finally:
            self._process.kill()
            self._log.close()
