"""What may stand in the headers of a body or a result. Whatever is stored goes out again as a header."""

from __future__ import annotations

import re
from typing import Final

MAX_HEADER_CHARS: Final = 255
CODINGS_PATTERN: Final = r"([A-Za-z0-9!#$%&'*+.^_`|~-]+( *, *[A-Za-z0-9!#$%&'*+.^_`|~-]+)*)?"
HEADER_PATTERN: Final = r"^[\x20-\x7e]{1,255}$"
_VALUE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_CODINGS: Final = re.compile(CODINGS_PATTERN)


def is_content_type(text: str) -> bool:
    return _VALUE.fullmatch(text) is not None


def is_content_encoding(text: str) -> bool:
    """Whether it names codings; empty if there is none."""
    return len(text) <= MAX_HEADER_CHARS and _CODINGS.fullmatch(text) is not None
