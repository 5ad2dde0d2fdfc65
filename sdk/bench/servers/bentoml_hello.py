"""BentoML: https://github.com/bentoml/BentoML"""

from __future__ import annotations

import bentoml


@bentoml.service(workers=1)
class Hello:
    @bentoml.api
    def hello(self, text: str) -> dict:
        return {"characters": len(text)}
