"""A TCP relay between a store and Redis that records each command, and loses or forges answers on request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

Command = tuple[bytes, ...]
SCRIPTS = (b"EVALSHA", b"EVAL")
STEPS = (*SCRIPTS, b"GET", b"HGET")
OPENING = (b"EVAL", b"return 1")
"""How a client asks at its beginning what the server is."""


class Wire:
    """One relay in front of each Redis node.

    Attributes:
        ports: the relays' ports by the nodes' ports.
        commands: the commands that were sent, in order, with names in upper case. Those of a client's beginning are
            neither scripts nor steps here.
        lose_requests: how many of the next steps never arrive: the connection is cut instead.
        lose_answers: how many of the next steps run while the connection is cut instead of their answer.
        forged_answer: a RESP reply that is sent instead of running a step.
    """

    def __init__(self, node_ports: Sequence[int]) -> None:
        self._node_ports = node_ports
        self._relays: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.ports: dict[int, int] = {}
        self.commands: list[Command] = []
        self.lose_requests = 0
        self.lose_answers = 0
        self.forged_answer: bytes | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.ports[self._node_ports[0]]}"

    @property
    def scripts(self) -> list[Command]:
        return [command for command in self.commands if command[0] in SCRIPTS and command[:2] != OPENING]

    async def __aenter__(self) -> Self:
        for node_port in self._node_ports:

            async def relay(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node_port: int = node_port
            ) -> None:
                connection = asyncio.ensure_future(self._relay(reader, writer, node_port))
                self._connections.add(connection)
                with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
                    await connection
                writer.transport.abort()

            server = await asyncio.start_server(relay, "127.0.0.1", 0, limit=2**20)
            self._relays.append(server)
            self.ports[node_port] = server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._relays:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node_port: int) -> None:
        from_node, to_node = await asyncio.open_connection("127.0.0.1", node_port)
        cut = False

        async def answer() -> None:
            while data := await from_node.read(2**16):
                if cut:
                    break
                writer.write(data)
            writer.transport.abort()

        answering = asyncio.ensure_future(answer())
        try:
            while True:
                command, raw = await _read_command(reader)
                self.commands.append(command)
                is_step = command[0] in STEPS and command[:2] != OPENING
                if is_step and self.forged_answer is not None:
                    writer.write(self.forged_answer)
                    continue
                if is_step and self.lose_requests:
                    self.lose_requests -= 1
                    return
                if is_step and self.lose_answers:
                    self.lose_answers -= 1
                    cut = True
                to_node.write(raw)
        finally:
            if not cut:
                answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            to_node.close()


async def _read_command(reader: asyncio.StreamReader) -> tuple[Command, bytes]:
    """The next command, parsed and as raw bytes: an array of bulk strings."""
    raw = [await reader.readuntil(b"\n")]
    assert raw[0][:1] == b"*", raw
    words: list[bytes] = []
    for _ in range(int(raw[0][1:])):
        raw.append(await reader.readuntil(b"\n"))
        raw.append(await reader.readexactly(int(raw[-1][1:]) + 2))
        words.append(raw[-1][:-2])
    return (words[0].upper(), *words[1:]), b"".join(raw)
