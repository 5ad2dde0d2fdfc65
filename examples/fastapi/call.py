"""Submits three pixels, and prints the summary of their vegetation index."""

from taskbackbone import TaskClient

bands = {"red": [0.05, 0.08, 0.3], "near_infrared": [0.5, 0.45, 0.35]}
print(TaskClient().submit("/v1/ndvi/summary", bands).result(timeout_s=60).json())
