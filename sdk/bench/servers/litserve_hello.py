"""LitServe: https://github.com/Lightning-AI/LitServe"""

from __future__ import annotations

import os

import litserve


class Hello(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["text"]

    def predict(self, text):
        return len(text)

    def encode_response(self, output):
        return {"characters": output}


if __name__ == "__main__":
    server = litserve.LitServer(Hello(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
