"""Task ids. Clients may choose their own."""

from __future__ import annotations

import re
import uuid

TASK_ID_PATTERN = "^[A-Za-z0-9_.-]{1,128}$"
_TASK_ID = re.compile(TASK_ID_PATTERN)


def is_task_id(text: str) -> bool:
    return _TASK_ID.fullmatch(text) is not None


def new_task_id() -> str:
    return str(uuid.uuid4())
