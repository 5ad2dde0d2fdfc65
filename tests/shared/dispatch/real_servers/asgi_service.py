"""An ASGI service without a framework."""

from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    status = scope["path"].rpartition("/")[2]
    if status.isdigit():
        await _answer(send, int(status), b"refused by design")
        return
    size_bytes, is_more = 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size_bytes += len(message.get("body", b""))
        is_more = message.get("more_body", False)
    await _answer(send, 200, str(size_bytes).encode())


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
