"""gunicorn and Flask: https://gunicorn.org, https://flask.palletsprojects.com"""

from __future__ import annotations

from flask import Flask, request

app = Flask(__name__)


@app.post("/v1/hello")
def hello():
    return {"characters": len(request.get_data(as_text=True))}
