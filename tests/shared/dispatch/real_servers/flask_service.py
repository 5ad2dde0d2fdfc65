"""A Flask service that refuses as the AI for Earth framework does: in ``before_request``."""

from flask import Flask, abort, request

app = Flask(__name__)


@app.before_request
def refuse() -> None:
    status = request.path.rpartition("/")[2]
    if status.isdigit():
        abort(int(status), "refused by design")


@app.post("/v1/take")
@app.post("/v1/with-slash/")
def take() -> str:
    return str(len(request.get_data()))
