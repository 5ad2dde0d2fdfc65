"""Real photographs for trying the model: scikit-learn and scikit-image ship them."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_PHOTOGRAPHS = {
    "china.jpg": ("sklearn", "datasets/images"),
    "flower.jpg": ("sklearn", "datasets/images"),
    "coffee.png": ("skimage", "data"),
    "chelsea.png": ("skimage", "data"),
    "rocket.jpg": ("skimage", "data"),
}
"""A temple, a flower, a cup of coffee, a cat and a launch: which package has each, and where in it."""
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
    """Returns five different photographs, byte for byte as the packages ship them: 0.1 to 0.5 MB each."""
    return [Picture(name, _CONTENT_TYPES[Path(name).suffix], photograph(name).read_bytes()) for name in _PHOTOGRAPHS]
