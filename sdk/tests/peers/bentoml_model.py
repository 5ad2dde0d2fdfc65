"""A model behind BentoML: https://github.com/bentoml/BentoML"""

from __future__ import annotations

import time

import bentoml


@bentoml.service(workers=1, traffic={"max_concurrency": 1})
class Model:
    @bentoml.api
    def predict(self, text: str) -> dict:
        words = text.split()
        if words[:1] == ["sleep"]:
            time.sleep(float(words[1]))
        return {"output": len(words)}
