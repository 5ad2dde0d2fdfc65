"""The server of a pod with a sidecar: gunicorn runs it."""

from __future__ import annotations

from flask import Flask, request
from words import NoSuchWord, work

app = Flask(__name__)


@app.post("/model")
def model():
    try:
        return work(request.get_data(), float(request.args.get("seconds", "0")))
    except NoSuchWord as error:
        return str(error), 422, {"Content-Type": "text/plain"}
