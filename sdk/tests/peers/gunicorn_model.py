"""A model behind gunicorn and Flask: https://gunicorn.org, https://flask.palletsprojects.com"""

from __future__ import annotations

import time

from flask import Flask, request

app = Flask(__name__)


@app.post("/predict")
def predict():
    told = request.get_json()
    if "text" not in told:
        return "text: Field required", 422
    words = told["text"].split()
    if words[:1] == ["sleep"]:
        time.sleep(float(words[1]))
    return {"output": len(words)}
