"""The app's version. ``pyproject.toml``, which is not deployed, has the same; a test compares them."""

from typing import Final

VERSION: Final = "0.1.0"
