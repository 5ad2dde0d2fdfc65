"""A model behind cog: https://github.com/replicate/cog"""

from __future__ import annotations

import time

from cog import BasePredictor


class Model(BasePredictor):
    def predict(self, text: str) -> int:
        words = text.split()
        if words[:1] == ["sleep"]:
            time.sleep(float(words[1]))
        return len(words)
