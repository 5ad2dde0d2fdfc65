"""Real pictures for trying the model, made from the photographs that scikit-learn ships."""

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Picture:
    name: str
    content_type: str
    data: bytes


def photograph(name: str) -> Path:
    """One of the photographs that scikit-learn ships.

    Raises:
        FileNotFoundError: scikit-learn is not installed.
    """
    found = find_spec("sklearn")  # importing it would take seconds
    if found is None or found.origin is None:
        raise FileNotFoundError(name)
    return Path(found.origin).parent / "datasets" / "images" / name


def sample_pictures() -> list[Picture]:
    """Returns two photographs byte for byte, and three PNG pictures made from them: a copy, a part, an enlargement.

    Each has 0.1 to 3 MB.
    """
    temple = photograph("china.jpg").read_bytes()
    flower = photograph("flower.jpg").read_bytes()
    temple_image = Image.open(io.BytesIO(temple))
    large_flower = Image.open(io.BytesIO(flower)).resize((1920, 1281), Image.Resampling.LANCZOS)
    return [
        Picture("china.jpg", "image/jpeg", temple),
        Picture("flower.jpg", "image/jpeg", flower),
        Picture("china.png", "image/png", _png(temple_image)),
        Picture("china-roofs.png", "image/png", _png(temple_image.crop((120, 90, 520, 390)))),
        Picture("flower-large.png", "image/png", _png(large_flower)),
    ]


def _png(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()
