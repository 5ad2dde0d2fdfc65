"""A FastAPI app with a route of its own, and a task of the backbone beside it."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from taskbackbone import Task, TaskService

service = TaskService()


class Bands(BaseModel):
    """Reflectances of the same pixels, 0 to 1, in red and in near infrared."""

    red: list[float]
    near_infrared: list[float]


@service.task("/v1/ndvi/summary")
def summarize(body: Bands, task: Task) -> dict:
    """Returns what the vegetation index (NDVI) of the pixels is like."""
    red, near_infrared = np.array(body.red), np.array(body.near_infrared)
    ndvi = (near_infrared - red) / (near_infrared + red)
    task.progress(0.9, "summarizing")
    return {"mean": round(float(ndvi.mean()), 3), "green": round(float((ndvi > 0.4).mean()), 3)}


app = FastAPI(title="Vegetation", lifespan=service.asgi.lifespan)


@app.get("/")
def about() -> dict:
    return {"model": "NDVI", "version": 1}


app.mount("/", service.asgi)  # last: it takes every path that is left
