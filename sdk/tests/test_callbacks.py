"""Callbacks on the side that is called: what is taken, and what is refused."""

from __future__ import annotations

import base64
import json
import pickle
import time
from datetime import datetime, timedelta, timezone
from email.message import Message
from typing import Any

import pytest
from standardwebhooks import Webhook
from starlette.datastructures import Headers
from werkzeug.datastructures import Headers as WerkzeugHeaders

from taskbackbone import errors, verify_callback

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()
TASK = {"TaskId": "0b5c4a1e", "BackendStatus": "completed", "Status": "completed - très bien"}
BODY = json.dumps(TASK, ensure_ascii=False)


def signed(*secrets: str, body: str = BODY, ago_s: float = 0.0, name: str = "msg_1") -> dict[str, str]:
    """The headers by which a library of others signs it."""
    moment = datetime.now(timezone.utc) - timedelta(seconds=ago_s)
    signatures = " ".join(Webhook(secret).sign(name, moment, body) for secret in secrets or (SECRET,))
    seconds = str(int(moment.timestamp()))
    return {"webhook-id": name, "webhook-timestamp": seconds, "webhook-signature": signatures}


def refused(headers: Any, body: Any = BODY, secret: Any = SECRET) -> str:
    with pytest.raises(errors.InvalidCallback) as caught:
        verify_callback(headers, body, secret)
    text = f"{caught.value} {caught.value!r}"
    assert SECRET[6:] not in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value.reason


class TestWhatIsTaken:
    @pytest.mark.parametrize("body", [BODY, BODY.encode(), bytearray(BODY.encode())])
    def test_what_another_library_has_signed_is_the_task(self, body: Any) -> None:
        assert verify_callback(signed(), body, SECRET) == TASK

    def test_the_headers_of_any_framework_will_do(self) -> None:
        headers = signed()
        message = Message()
        for name, value in headers.items():
            message[name.title()] = value
        in_capitals = {name.upper(): value for name, value in headers.items()}
        for each in (Headers(headers), WerkzeugHeaders(headers), message, in_capitals):
            assert verify_callback(each, BODY, SECRET) == TASK

    def test_either_of_two_secrets_will_do_while_one_is_replaced(self) -> None:
        for signers in ((SECRET,), (OTHER,), (SECRET, OTHER), (OTHER, SECRET)):
            assert verify_callback(signed(*signers), BODY, [SECRET, OTHER]) == TASK
        assert verify_callback(signed(SECRET, OTHER), BODY, OTHER) == TASK

    def test_a_secret_may_be_bytes_or_have_no_prefix_or_a_line_end(self) -> None:
        for secret in (bytes(range(32)), SECRET[6:], SECRET + "\n"):
            assert verify_callback(signed(), BODY, secret) == TASK

    @pytest.mark.parametrize("ago_s", [-290.0, 290.0])
    def test_clocks_may_differ_by_five_minutes(self, ago_s: float) -> None:
        assert verify_callback(signed(ago_s=ago_s), BODY, SECRET) == TASK

    def test_the_tolerance_may_be_another(self) -> None:
        assert verify_callback(signed(ago_s=3000), BODY, SECRET, tolerance_s=3600) == TASK


class TestWhatIsRefused:
    @pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    def test_one_that_lacks_a_header(self, missing: str) -> None:
        headers = signed()
        assert refused({name: value for name, value in headers.items() if name != missing}) == "unsigned"
        assert refused({**headers, missing: ""}) == "unsigned"

    def test_one_that_somebody_else_has_signed(self) -> None:
        assert refused(signed(OTHER)) == "signature"

    @pytest.mark.parametrize("body", [BODY + " ", BODY.replace("completed", "cancelled"), "", "{}"])
    def test_one_whose_body_was_changed(self, body: str) -> None:
        assert refused(signed(), body) == "signature"

    def test_one_whose_id_or_time_was_changed(self) -> None:
        headers = signed()
        later = str(int(headers["webhook-timestamp"]) + 1)
        assert refused({**headers, "webhook-id": "msg_2"}) == "signature"
        assert refused({**headers, "webhook-timestamp": later}) == "signature"

    @pytest.mark.parametrize(
        "change", [lambda one: "v1a," + one[3:], lambda one: one[3:], lambda one: one[:-2], lambda one: "v1,é"]
    )
    def test_one_with_another_kind_of_signature(self, change: Any) -> None:
        headers = signed()
        assert refused({**headers, "webhook-signature": change(headers["webhook-signature"])}) == "signature"

    @pytest.mark.parametrize("ago_s", [-320.0, 320.0, 86_400.0])
    def test_one_of_long_ago_or_of_the_future(self, ago_s: float) -> None:
        assert refused(signed(ago_s=ago_s)) == "time"

    @pytest.mark.parametrize("moment", ["now", "1e9", "-5", "٣", "9" * 30])
    def test_one_whose_time_is_none(self, moment: str) -> None:
        key = base64.b64decode(SECRET[6:])
        assert refused(_by_hand(key, moment)) == "time"

    @pytest.mark.parametrize("body", ["[]", "text", "", "[" * 100_000])
    def test_one_whose_body_is_no_object(self, body: str) -> None:
        assert refused(signed(body=body), body) == "body"

    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_***", b"", [], [SECRET, ""]])
    def test_a_secret_that_is_none_lets_nothing_pass(self, secret: Any) -> None:
        with pytest.raises(ValueError, match="secret"):
            verify_callback(signed(), BODY, secret)


def _by_hand(key: bytes, moment: str) -> dict[str, str]:
    import hmac

    content = f"msg_1.{moment}.{BODY}".encode()
    signature = base64.b64encode(hmac.digest(key, content, "sha256")).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": moment, "webhook-signature": f"v1,{signature}"}


def test_it_is_of_the_package_and_loads_no_client() -> None:
    import subprocess
    import sys

    code = "from taskbackbone import verify_callback; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert {"taskbackbone._core", "taskbackbone.client", "requests", "aiohttp"} & set(run.stdout.split()) == set()


def test_the_time_that_counts_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    headers, now_s = signed(), time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 299)
    assert verify_callback(headers, BODY, SECRET) == TASK
    monkeypatch.setattr(time, "time", lambda: now_s + 302)
    assert refused(headers) == "time"
