"""The whole local stack: Redis, Azurite, the Event Grid emulator, the function app on its host, the sample model, and
the local gateway if it is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx

from local.azurite import Azurite
from local.event_grid.schema import DEAD_LETTERS_VARIABLE, KEY_VARIABLE, topic_id
from local.gateway.process import CALLERS, OPERATORS, GatewayProcess
from local.processes import START_TIMEOUT_S, ChildProcess, LocalStackError, free_port
from local.redis_server import RedisCluster, RedisServer

ROOT = Path(__file__).resolve().parent.parent
TOPIC = "backbone"
SUBSCRIPTION = "backend-webhook"
DEAD_LETTERS = "dead-letters"
DISPATCH_EVENT, LEGACY_EVENT = "backbone.task.dispatch", "task"
MODEL_PREFIX = "/v1/landcover"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of the stack, which speaks plain HTTP: to load the certificates takes each client 40 ms of CPU."""
MAX_BODY_BYTES = 100 * 1024 * 1024
"""The largest body that the app takes, unless a setting says less."""
CONSOLE = {"read": "ConsoleRead", "content": "ConsoleContent", "operate": "ConsoleOperate"}
"""The functions of the console by the role that their keys give."""
_CALL_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.05


class PolledProcess(ChildProcess):
    """A program that prints no ``READY`` line, since it is not of the stack's own making: it is asked whether it is.

    Parameters:
        port: where it listens.
        health: the path that it answers 200 once it is ready.
    """

    def __init__(self, name: str, command: Sequence[str | Path], *, port: int, health: str, **options: Any) -> None:
        super().__init__(name, command, **options)
        self._address = f"http://127.0.0.1:{port}"
        self._health = health

    @property
    def url(self) -> str:
        """The address, which is known from the start."""
        return self._address

    def is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}{self._health}", timeout=5, verify=NO_TLS).status_code == 200
        return False


class FuncHost(PolledProcess):
    """The function app under Azure Functions Core Tools, if these are installed."""

    _stop_signal = signal.SIGINT  # Core Tools end as at Ctrl-C: the port closes, requests in flight end

    def __init__(self, directory: Path, port: int, environment: Mapping[str, str]) -> None:
        if shutil.which("func") is None:
            raise LocalStackError("Azure Functions Core Tools are not installed: there is no program func on PATH.")
        super().__init__(
            "func start",
            ["func", "start", "--port", str(port)],
            port=port,
            health="/api/v1/health",
            log_path=directory / "func.log",
            # Core Tools use the Python of the active virtual environment.
            environment={
                **environment,
                "VIRTUAL_ENV": sys.prefix,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "FUNCTIONS_WORKER_RUNTIME": "python",
            },
        )


class Stack:
    """All parts. Each part keeps its port, so you can kill it and start it again.

    Parameters:
        directory: holds data and logs; a new stack continues with the data that an earlier one left there.
        port: the function app's port; 0 takes a free one.
        settings: app settings in addition to those that connect the parts.
        backends: registry entries in addition to the sample model, in the form of ``BACKENDS``.
        with_model: whether the sample model is part of the stack.
        with_app: whether the app is part of it. If not, somebody starts it on *port*, with ``app_environment``.
        redis: a running server to use; without one, the stack starts its own.
        azurite: likewise.
        gateway_port: where the local gateway listens, 0 for a free port; None: there is no gateway.
        core_tools: run the app under ``func start`` instead of the development host.
        time_scale: how fast Event Grid's time passes.
        delivery_headers: headers that Event Grid sends with each delivery, such as a token.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        backends: Mapping[str, object] | None = None,
        with_model: bool = True,
        with_app: bool = True,
        redis: RedisServer | RedisCluster | None = None,
        azurite: Azurite | None = None,
        gateway_port: int | None = None,
        core_tools: bool = False,
        time_scale: float = 1.0,
        delivery_headers: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # it is somebody else's
            directory.chmod(0o700)  # Redis and Azurite keep bodies and secrets in files that all may read
        self.directory = directory
        self._with_app = with_app
        self.key = _kept_key(directory, "key")
        self.console_keys = {role: _kept_key(directory, f"console-{role}-key") for role in CONSOLE}
        # In the form of Azure's: SDKs decode a topic's key to sign tokens with it.
        topic_key = base64.b64encode(hashlib.sha256(self.key.encode()).digest()).decode()
        self._delivery_headers = dict(delivery_headers or {})
        self.redis = redis or RedisServer(directory / "redis")
        self.azurite = azurite or Azurite(directory / "azurite")
        self._owned = [part for part, given in ((self.redis, redis), (self.azurite, azurite)) if given is None]
        grid_port, model_port, host_port = free_port(), free_port(), port or free_port()
        self.url = f"http://127.0.0.1:{host_port}"
        self.event_grid = _python_part(
            directory,
            "local.event_grid",
            "the Event Grid emulator",
            *("--port", str(grid_port), "--topic", TOPIC),
            *("--data-dir", str(directory / "event-grid"), "--time-scale", str(time_scale)),
            # Everybody on the machine can read a process' arguments.
            environment={KEY_VARIABLE: topic_key, DEAD_LETTERS_VARIABLE: self.azurite.connection_string},
        )
        self.event_grid_url = f"http://127.0.0.1:{grid_port}"
        registry: dict[str, object] = dict(backends or {})
        self.model: ChildProcess | None = None
        if with_model:
            registry[MODEL_PREFIX] = {"url": f"http://127.0.0.1:{model_port}", "lease_s": 60}
            self.model = PolledProcess(
                "the sample model",
                [sys.executable, "-m", "local.sample_model"],
                port=model_port,
                health="/readyz",
                log_path=directory / "sample_model.log",
                environment={
                    "PYTHONPATH": str(ROOT),
                    "PORT": str(model_port),
                    "WORKERS": "2",
                    "SERVICE_CLUSTER": "local",
                    "BACKBONE_URL": self.url,
                    "BACKBONE_KEY": self.key,
                },
            )
        self.app_environment = {
            "REDIS_CONNECTION_STRING": self.redis.url,
            "EVENT_GRID_TOPIC_URI": f"{self.event_grid_url}/{TOPIC}/api/events",
            "EVENT_GRID_KEY": topic_key,
            # The emulator's topic takes both schemas. In Azure, completions need their own topic, with CloudEvents.
            "COMPLETIONS_TOPIC_URI": f"{self.event_grid_url}/{TOPIC}/api/events",
            "COMPLETIONS_KEY": topic_key,
            "EVENT_GRID_TOPIC_ID": topic_id(TOPIC),
            "EVENT_GRID_SUBSCRIPTION": SUBSCRIPTION,
            "BACKENDS": json.dumps(registry),
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "AzureWebJobsStorage": self.azurite.connection_string,
            # Stacks that share an Azurite hold leases of their own.
            "AzureFunctionsWebHost__hostid": hashlib.sha256(self.key.encode()).hexdigest()[:16],
            "LOCAL_HOST_KEY": self.key,
            "LOCAL_MASTER_KEY": self.key + "-master",
            "LOCAL_EVENTGRID_KEY": self.key + "-eventgrid",
            "LOCAL_FUNCTION_KEYS": json.dumps({CONSOLE[role]: key for role, key in self.console_keys.items()}),
            **(settings or {}),
        }
        self.gateway: GatewayProcess | None = None
        if gateway_port is not None:
            self.gateway_key = self.app_environment.setdefault("GATEWAY_KEY", _kept_key(directory, "gateway-key"))
            self.subscription_key = _kept_key(directory, "subscription-key")
            self.operator_key = _kept_key(directory, "operator-key")
            self.gateway = GatewayProcess(
                directory,
                port=gateway_port or free_port(),
                app_url=self.url,
                function_key=self.key,
                gateway_key=self.gateway_key,
                max_body_bytes=_whole("MAX_BODY_BYTES", self.app_environment.get("MAX_BODY_BYTES"), MAX_BODY_BYTES),
                services=[path for path in registry if path.startswith("/")],
                subscriptions={
                    self.subscription_key: ("local-caller", CALLERS),
                    self.operator_key: ("local-operator", OPERATORS),
                },
            )
        self.host: ChildProcess = (
            FuncHost(directory, host_port, self.app_environment)
            if core_tools
            else _python_part(
                directory,
                "local.functions_host",
                "the functions host",
                *("--script-root", str(ROOT), "--port", str(host_port)),
                environment=self.app_environment,
            )
        )

    @property
    def parts(self) -> list[ChildProcess | RedisCluster]:
        """All parts, in the order in which they start."""
        app = [self.host] if self._with_app else []
        gateway = [self.gateway] if self.gateway else []
        return [*self._owned, self.event_grid, *app, *([self.model] if self.model else []), *gateway]

    def function_url(self, name: str) -> str:
        return f"{self.url}/api/{name}?code={self.key}"

    def console_url(self, role: str) -> str:
        """The link that opens the console signed in, by the key of one function. Whoever has the link has the key."""
        return f"{self.url}/api/console/index.html#key={self.console_keys[role]}&role={role}"

    def start(self) -> None:
        """Start all parts; returns when the stack can run a task from submit to result, but for the app if it is
        apart.

        Raises:
            LocalStackError: a part does not start.
        """
        try:
            processes = [part for part in self.parts if isinstance(part, ChildProcess)]
            for part in self.parts:
                if isinstance(part, RedisCluster):
                    part.start()
                else:
                    part.spawn()
            for part in processes:
                part.wait_until_ready()
            address = self._put_subscription(
                SUBSCRIPTION,
                endpoint=self.function_url("BackendWebhook"),
                deadLetterContainer=DEAD_LETTERS,
                deliveryHeaders=self._delivery_headers,
                includedEventTypes=[DISPATCH_EVENT, LEGACY_EVENT],
            )
            if self._with_app:
                self._wait_until_active(address)
                self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """
        Raises:
            LocalStackError: a part has ended by itself.
        """
        for part in self.parts:
            if isinstance(part, ChildProcess):
                part.check()

    def stop(self) -> None:
        """Ask all parts to end, one after the other. If that is interrupted, kill what is left."""
        try:
            for part in reversed(self.parts):
                part.stop()
        except BaseException:
            for part in reversed(self.parts):
                part.kill()
            raise

    def set_faults(self, faults: Mapping[str, object]) -> None:
        """Replace the Event Grid emulator's fault switches; an empty mapping turns all of them off."""
        httpx.post(
            f"{self.event_grid_url}/control/faults", json=faults, timeout=_CALL_TIMEOUT_S, verify=NO_TLS
        ).raise_for_status()

    def run_function(self, name: str) -> None:
        """Run a timer function now."""
        httpx.post(
            f"{self.url}/admin/functions/{name}",
            json={"input": ""},
            headers={"x-functions-key": f"{self.key}-master"},
            timeout=_CALL_TIMEOUT_S,
            verify=NO_TLS,
        ).raise_for_status()

    def client(self) -> httpx.Client:
        """A client of the app that holds its key."""
        return httpx.Client(
            base_url=self.url, headers={"x-functions-key": self.key}, timeout=_CALL_TIMEOUT_S, verify=NO_TLS
        )

    def subscribe(self, name: str, **settings: object) -> None:
        """Create or change a subscription, with settings of the emulator's control API; returns when it is active.

        Raises:
            LocalStackError: the endpoint does not answer the handshake.
        """
        self._wait_until_active(self._put_subscription(name, **settings))

    def _put_subscription(self, name: str, **settings: object) -> str:
        """Returns the subscription's address. Event Grid repeats the handshake until the endpoint answers it."""
        address = f"{self.event_grid_url}/control/topics/{TOPIC}/subscriptions/{name}"
        httpx.put(address, json=settings, timeout=_CALL_TIMEOUT_S, verify=NO_TLS).raise_for_status()
        return address

    def _wait_until_active(self, address: str) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while httpx.get(address, timeout=_CALL_TIMEOUT_S, verify=NO_TLS).json()["state"] != "Active":
            self.check()
            if time.monotonic() > deadline_s:
                name = address.rpartition("/")[2]
                raise LocalStackError(
                    f"The Event Grid subscription {name} did not become active: its handshake fails."
                )
            time.sleep(_POLL_INTERVAL_S)

    def _wait_until_healthy(self) -> None:
        """The app loads the clients of its parts at their first use and answers nothing meanwhile: get that over."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        reached: dict[str, str] = {}
        while not (reached.get("Redis") == reached.get("BlobStorage") == "ok"):
            self.check()
            if time.monotonic() > deadline_s:
                raise LocalStackError(f"The function app does not reach its parts: {reached}.")
            time.sleep(_POLL_INTERVAL_S)
            with suppress(httpx.TransportError):
                reached = httpx.get(f"{self.url}/api/v1/health", timeout=_CALL_TIMEOUT_S, verify=NO_TLS).json()[
                    "Dependencies"
                ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _python_part(
    directory: Path, module: str, name: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> ChildProcess:
    return ChildProcess(
        name,
        [sys.executable, "-m", module, *arguments],
        log_path=directory / f"{module.rpartition('.')[2]}.log",
        environment={"PYTHONPATH": str(ROOT), **(environment or {})},
    )


def _whole(name: str, value: str | None, default: int) -> int:
    try:
        return default if value is None else int(value)
    except ValueError:
        raise LocalStackError(f"{name} must be a whole number, and is {value!r}.") from None


def _kept_key(directory: Path, name: str) -> str:
    """One of the stack's keys, which stay with its data: the subscription's endpoint has that of the functions."""
    file = directory / name
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))
    return file.read_text()
