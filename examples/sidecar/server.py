"""A model server that knows nothing of the backbone: a body in, the answer out. It predicts the tide at a pier."""

from __future__ import annotations

import math
import time

from flask import Flask, request

MEAN_M, MAIN_M, SUN_M = 3.1, 1.9, 0.6  # mean level, and the two largest constituents: M2 and S2
MAIN_PERIOD_H, SUN_PERIOD_H = 12.4206, 12.0

app = Flask(__name__)


@app.post("/v1/tides/predict")
def predict() -> tuple[object, int]:
    hours = request.get_json()["hours"]
    if len(hours) > 1000:
        return "at most 1000 hours at a time", 400
    time.sleep(0.5)  # as if it computed
    return {"metres": [round(height_m(hour), 2) for hour in hours]}, 200


def height_m(hour: float) -> float:
    main, sun = (math.cos(2 * math.pi * hour / period_h) for period_h in (MAIN_PERIOD_H, SUN_PERIOD_H))
    return MEAN_M + MAIN_M * main + SUN_M * sun
