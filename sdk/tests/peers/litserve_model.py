"""A model behind LitServe: https://github.com/Lightning-AI/LitServe"""

from __future__ import annotations

import os
import time

import litserve
from fastapi import HTTPException


class Model(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        if "text" not in request:
            raise HTTPException(422, "text: Field required")
        return request["text"]

    def predict(self, text):
        words = text.split()
        if words[:1] == ["sleep"]:
            time.sleep(float(words[1]))
        return len(words)

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Model(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
