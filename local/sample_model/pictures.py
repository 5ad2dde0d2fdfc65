"""Real photographs for trying the model: scikit-learn and scikit-image ship them."""

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

_PHOTOGRAPHS = {
    "china.jpg": ("sklearn", "datasets/images"),
    "flower.jpg": ("sklearn", "datasets/images"),
    "coffee.png": ("skimage", "data"),
    "chelsea.png": ("skimage", "data"),
    "rocket.jpg": ("skimage", "data"),
}
"""A temple, a flower, a cup of coffee, a cat and a launch: which package has each, and where in it."""
_WIDTH_PX = 1600
_CONTENT_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    name: str
    content_type: str
    data: bytes


def photograph(name: str) -> Path:
    """The file of one of the photographs.

    Raises:
        FileNotFoundError: the package that ships it is not installed.
    """
    package, folder = _PHOTOGRAPHS[name]
    found = find_spec(package)  # importing it would take seconds
    if found is None or found.origin is None:
        raise FileNotFoundError(name)
    return Path(found.origin).parent / folder / name


def sample_pictures() -> list[Picture]:
    """Returns five different photographs: JPEG pictures byte for byte as they are shipped, of 0.1 to 0.2 MB, and PNG
    pictures as large as a camera makes them, of 1 to 2 MB, so that the model takes seconds.
    """
    return [
        Picture(name, _CONTENT_TYPES[file.suffix], _enlarged(file) if file.suffix == ".png" else file.read_bytes())
        for name, file in ((name, photograph(name)) for name in _PHOTOGRAPHS)
    ]


def _enlarged(file: Path) -> bytes:
    picture = Image.open(file)
    encoded = io.BytesIO()
    picture.resize((_WIDTH_PX, _WIDTH_PX * picture.height // picture.width)).save(encoded, "PNG")
    return encoded.getvalue()
