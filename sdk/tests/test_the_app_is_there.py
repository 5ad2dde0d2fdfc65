from __future__ import annotations

import requests
from conftest import Backbone, Place


def test_the_app_accepts_a_task_for_a_place_where_no_service_is_yet(backbone: Backbone, place: Place) -> None:
    submitted = requests.post(
        f"{backbone.url}/api/v1/submit{place.path}/any",
        data=b"a body",
        headers={"x-functions-key": backbone.key, "Content-Type": "text/plain"},
        timeout=60,
    )

    assert submitted.status_code == 202
    assert submitted.json()["LeaseSeconds"] == place.lease_s
