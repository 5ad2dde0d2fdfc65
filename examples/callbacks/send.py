"""Calls a receiver as the backbone does, rightly, twice, and with a forged signature: python send.py URL"""

from __future__ import annotations

import base64
import hmac
import json
import os
import sys
import time

import requests

task = {"TaskId": "0b5c4a1e", "BackendStatus": "completed", "Status": "completed"}
body = json.dumps(task).encode()
secret = base64.b64decode(os.environ["CALLBACK_SECRETS"].split()[0].partition("whsec_")[2])
name, moment = "msg_1", str(int(time.time()))
signature = base64.b64encode(hmac.digest(secret, f"{name}.{moment}.".encode() + body, "sha256")).decode()
headers = {"webhook-id": name, "webhook-timestamp": moment, "webhook-signature": f"v1,{signature}"}
forged = {**headers, "webhook-signature": "v1," + "A" * 43 + "="}

for sent in (headers, headers, forged):
    print(requests.post(sys.argv[1], body, headers=sent, timeout=30).status_code)
print(requests.get(sys.argv[1], timeout=30).json())
