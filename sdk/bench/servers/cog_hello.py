"""cog: https://github.com/replicate/cog"""

from __future__ import annotations

from cog import BasePredictor


class Hello(BasePredictor):
    def predict(self, text: str) -> int:
        return len(text)
