"""The legend of a map: a strip with a swatch and a text for each class."""

import pydantic
from PIL import Image, ImageDraw, ImageFont

from local.sample_model.segmentation import WIRE, FoundClass

_ENTRY_WIDTH_PX = 200
_ROW_HEIGHT_PX = 28
_MARGIN_PX = 8
_FONT_SIZE_PX = 14


class MapDescription(pydantic.BaseModel):
    """The data that a map's legend is drawn from. The sizes are those of the map without a legend."""

    model_config = WIRE

    width: int
    height: int
    classes: list[FoundClass]


def draw_legend(described: MapDescription) -> Image.Image:
    """Draws a legend as wide as the map, but never too narrow for one entry."""
    width = max(described.width, _ENTRY_WIDTH_PX + 2 * _MARGIN_PX)
    columns = (width - 2 * _MARGIN_PX) // _ENTRY_WIDTH_PX
    rows = -(-len(described.classes) // columns)
    strip = Image.new("RGB", (width, rows * _ROW_HEIGHT_PX + 2 * _MARGIN_PX), "white")
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(_FONT_SIZE_PX)
    for index, found_class in enumerate(described.classes):
        row, column = divmod(index, columns)
        left, top = _MARGIN_PX + column * _ENTRY_WIDTH_PX, _MARGIN_PX + row * _ROW_HEIGHT_PX
        swatch = (left + 4, top + 5, left + 28, top + 23)
        draw.rounded_rectangle(swatch, radius=4, fill=found_class.map_colour, outline="#666666")
        draw.text((left + 36, top + _ROW_HEIGHT_PX // 2), str(found_class), "#222222", font, anchor="lm")
    return strip


def add_legend(picture: Image.Image, described: MapDescription) -> Image.Image:
    """Returns the map with its legend below. If the map already has a legend, the new one replaces it."""
    strip = draw_legend(described)
    page = Image.new("RGB", (strip.width, described.height + strip.height), "white")
    page.paste(picture.crop((0, 0, described.width, described.height)))
    page.paste(strip, (0, described.height))
    return page
