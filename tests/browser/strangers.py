"""What a stranger would write to have a script run in an operator's browser. Each calls ``canary`` if it does."""

from __future__ import annotations

import base64
from typing import Final

_HIT: Final = "canary('ran')"

TEXTS: Final = (
    f"<script>{_HIT}</script>",
    f"</script><script>{_HIT}</script>",
    f"<img src=x onerror={_HIT}>",
    f'"><img src=x onerror="{_HIT}">',
    f"'><svg onload={_HIT}>",
    f"<svg><script>{_HIT}</script></svg>",
    f"<svg/onload={_HIT}>",
    f"<svg><animate onbegin={_HIT} attributeName=x dur=1s>",
    f"<iframe srcdoc='<script>parent.{_HIT}</script>'></iframe>",
    f'<iframe src="javascript:parent.{_HIT}"></iframe>',
    f"<details open ontoggle={_HIT}>",
    f"<body onload={_HIT}>",
    f"<input autofocus onfocus={_HIT}>",
    f"<video><source onerror={_HIT}></video>",
    f"<audio src=x onerror={_HIT}>",
    f"<math><mtext></p><img src=x onerror={_HIT}></mtext></math>",
    f"<style>@import 'javascript:{_HIT}'</style><img src=x onerror={_HIT}>",
    f"<link rel=stylesheet href=x onerror={_HIT}>",
    f'<object data="data:text/html,<script>parent.{_HIT}</script>"></object>',
    f'<embed src="javascript:{_HIT}">',
    f'<a href="javascript:{_HIT}" autofocus onfocus={_HIT}>link</a>',
    f'<form action="javascript:{_HIT}"><button autofocus onfocus={_HIT}>x</button></form>',
    f'<meta http-equiv=refresh content="0;url=javascript:{_HIT}"><img src=x onerror={_HIT}>',
    f"<template><script>{_HIT}</script></template><img src=x onerror={_HIT}>",
    f'<noscript><p title="</noscript><img src=x onerror={_HIT}>">',
    f"<!--><img src=x onerror={_HIT}>-->",
    f'<xmp><p title="</xmp><img src=x onerror={_HIT}>">',
    f"javascript:{_HIT}",
    f'${{{_HIT}}} {{{{constructor.constructor("{_HIT}")()}}}}',
    f"\u202e<img src=x onerror={_HIT}>\u2066",
    f"\u2028{_HIT}\u2029//",
    f"&lt;img src=x onerror={_HIT}&gt;&#60;script>{_HIT}</script>",
    f"<ScRiPt >{_HIT}</sCrIpT >",
    f"%3Cscript%3E{_HIT}%3C/script%3E",
    f'<base href="javascript:/a/-{_HIT}//"><a href=x autofocus onfocus={_HIT}>x</a>',
    f"=cmd|'/c calc'!A1 <img src=x onerror={_HIT}>",
)
"""Texts: of statuses, names, problems, bodies and filters."""
RUNNING: Final = (2, 3, 10, 14, 16)
"""Of those, some that run a script as HTML: the tests see that they would notice."""

_PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n"
_HTML: Final = f"<html><body><script>top.{_HIT};{_HIT}</script><img src=x onerror={_HIT}></body></html>".encode()
_SVG: Final = f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"top.{_HIT}\"><script>{_HIT}</script></svg>".encode()
_JS: Final = f"{_HIT}; export default {_HIT}".encode()
_PDF: Final = (
    b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(" + _HIT.encode() + b")>>>>endobj\ntrailer<<>>"
)
_XHTML: Final = (
    b"<?xml version='1.0'?><?xml-stylesheet type='text/xsl' href='#x'?>"
    b"<html xmlns='http://www.w3.org/1999/xhtml'><script>" + _HIT.encode() + b"</script></html>"
)
_URL: Final = b"data:text/html;base64," + base64.b64encode(_HTML)

CONTENTS: Final = (
    _HTML,
    _SVG,
    _JS,
    _PDF,
    _XHTML,
    _URL,
    b'{"a": "' + _HTML.replace(b'"', b'\\"') + b'", "__proto__": {"toString": "x"}}',
    _PNG_HEAD + _HTML,
    b"GIF89a/*" + _HTML + b"*/=1;" + _JS,
    b"BM" + _SVG,
    b"\xff\xd8\xff\xe0" + _HTML,
    b"RIFF\x00\x00\x00\x00WEBP" + _SVG,
    b"\x00\x00\x00\x20ftypavif" + _HTML,
    b"\xef\xbb\xbf" + _HTML,
    "+ADw-script+AD4-canary('ran')+ADw-/script+AD4-".encode("utf-7"),
    _HTML.decode().encode("utf-16"),
)
"""Bodies and results."""
TYPES: Final = (
    "text/html",
    "image/svg+xml",
    "application/xhtml+xml",
    "text/javascript",
    "application/pdf",
    "text/xml",
    "image/png",
    "image/jpeg",
    "application/json",
    "text/html; charset=utf-7",
    "multipart/x-mixed-replace; boundary=x",
    "application/octet-stream",
    'image/png"><script>canary(1)</script>',
    "text/x-component",
)
"""What is said of their type."""
