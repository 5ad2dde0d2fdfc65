"""Writes a long text into a JSON document: piece by piece, with turns for others, and without being text as a whole.

As text it may take four times its bytes, and twice that while it becomes JSON.
"""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import Final

_PIECE_BYTES: Final = 64 * 1024
_encode: Final = json.JSONEncoder(ensure_ascii=False).encode


async def with_text(document: bytes, member: str, text: bytes) -> bytes:
    """The JSON object *document* with *text*, which is UTF-8, as its *member*, which is an empty text there.

    Beside the two, it takes as many bytes as it returns.
    """
    place = f'"{member}":""'.encode()  # such quotes stand in no text
    before, found, after = document.partition(place)
    assert found
    whole = BytesIO()  # gives what it has without a copy
    whole.write(before + place[:-1])
    at = 0
    while at < len(text):
        end = min(at + _PIECE_BYTES, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        whole.write(_encode(text[at:end].decode())[1:-1].encode())
        at = end
        await asyncio.sleep(0)
    whole.write(place[-1:] + after)
    return whole.getvalue()
