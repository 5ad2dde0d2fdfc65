"""``python -m local.event_grid``: prints ``READY <url>`` once it accepts connections; SIGTERM ends it."""

import argparse
import asyncio
import base64
import logging
import os
import re
import signal
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

from local.event_grid.app import create_app
from local.event_grid.clock import Clock, ManualClock, ScaledClock
from local.event_grid.dead_letters import DeadLetters
from local.event_grid.emulator import Emulator
from local.event_grid.journal import Journal
from local.event_grid.schema import DEAD_LETTERS_VARIABLE, KEY_VARIABLE
from local.event_grid.server import Server, listen


def main() -> None:
    options = _parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("local.event_grid").setLevel(logging.INFO)
    # When uvicorn has shut down, it raises the signal that ended it once more. By then the work is done.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(options))


async def _serve(options: argparse.Namespace) -> None:
    account = options.dead_letter_connection_string
    try:
        journal = Journal(options.data_dir and options.data_dir / f"{options.topic.lower()}.sqlite3")
        dead_letters = DeadLetters(account) if account else None
        listener, url = listen(options.port)
    except (sqlite3.Error, OSError, ValueError) as error:
        sys.exit(f"The Event Grid emulator cannot start: {error}")
    emulator = Emulator(
        options.topic,
        url=url,
        clock=_clock(options.time_scale, journal.latest_time_s()),
        journal=journal,
        dead_letters=dead_letters,
    )
    server = Server(create_app(emulator, key=options.key), on_ready=lambda: print(f"READY {url}", flush=True))
    await server.serve(sockets=[listener])


def _clock(scale: float, start_s: float) -> Clock:
    running = ScaledClock(scale or 1.0, start_s=start_s)
    return running if scale else ManualClock(running.now())


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m local.event_grid", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--topic", type=_topic, required=True, help="the topic's name")
    parser.add_argument(
        "--key",
        type=_key,
        default=os.environ.get(KEY_VARIABLE),
        required=KEY_VARIABLE not in os.environ,
        help=f"the key that publishers must hold, in Base64 as Azure's are; or in {KEY_VARIABLE}, which no list of "
        "processes shows",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="the folder in which events and subscriptions survive a restart"
    )
    parser.add_argument(
        "--dead-letter-connection-string",
        default=os.environ.get(DEAD_LETTERS_VARIABLE),
        help=f"of a storage account, for subscriptions that want dead letters; or in {DEAD_LETTERS_VARIABLE}",
    )
    parser.add_argument(
        "--time-scale", type=_scale, default=1.0, help="how fast time passes; 0: it only moves by hand"
    )
    return parser.parse_args()


def _topic(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{3,50}", text):
        raise argparse.ArgumentTypeError("a topic's name is 3 to 50 letters, digits and hyphens")
    return text


def _key(text: str) -> str:
    try:
        secret = base64.b64decode(text, validate=True)
    except ValueError:
        secret = b""
    if not secret:
        raise argparse.ArgumentTypeError("must be in Base64, as the keys of Azure's topics are")
    return text


def _scale(text: str) -> float:
    scale = float(text)
    if not 0 <= scale <= 1_000_000:
        raise argparse.ArgumentTypeError("must be between 0 and 1000000")
    return scale


if __name__ == "__main__":
    main()
