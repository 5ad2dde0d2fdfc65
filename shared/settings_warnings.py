"""What an operator should know of the settings, though the app can start with them."""

from __future__ import annotations

from typing import Final

from shared.settings import Settings

_HOST_BODY_BYTES_PER_2_GB: Final = 240 * 1024 * 1024
"""How many bytes of bodies the Functions host can hold at a time with 2 GB. With 400 MiB it ran out of memory."""


def warnings_of(settings: Settings) -> list[str]:
    """A sentence for each limit that does not fit the others."""
    found: list[str] = []
    at_a_time, bodies = settings.host_concurrency, settings.host_body_bytes
    waits = settings.most_waits * settings.functions_worker_process_count
    if at_a_time is not None and waits > at_a_time / 2:
        found.append(
            f"{waits} requests may wait (MAX_WAITS, of each worker process), and the instance is given "
            f"{at_a_time} at a time: if more than half of them wait, submits and reports have no room."
        )
    bearable = _HOST_BODY_BYTES_PER_2_GB * settings.instance_memory_mb // 2048
    if bodies is None or bodies > bearable:
        many = "any number of" if at_a_time is None else str(at_a_time)
        found.append(
            f"The Functions host may hold {many} bodies of {settings.functions_request_body_size_limit} bytes "
            f"(FUNCTIONS_REQUEST_BODY_SIZE_LIMIT) at a time, and an instance of {settings.instance_memory_mb} MB "
            f"(INSTANCE_MEMORY_MB) bears {bearable} bytes of them: it may run out of memory (docs/capacity.md)."
        )
    return found
