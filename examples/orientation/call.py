"""Draws a page of text, turns it, and asks which way up it is."""

import io

from PIL import Image, ImageDraw, ImageFont
from taskbackbone import TaskClient

TURN = 90  # degrees, clockwise

page = Image.new("RGB", (700, 900), "white")
line = "it was the best of times, it was the worst of times, it was the age of wisdom"
for top in range(40, 860, 36):
    ImageDraw.Draw(page).text((40, top), line, "black", ImageFont.load_default(22))
encoded = io.BytesIO()
page.rotate(-TURN, expand=True).save(encoded, "PNG")

task = TaskClient().submit("/v1/pages/orientation", encoded.getvalue(), content_type="image/png")
print(task.result(timeout_s=60).json())
