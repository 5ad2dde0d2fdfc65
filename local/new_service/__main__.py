"""``python -m local.new_service NAME``: a folder in ``services/``, an entry in the list of services."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from local.stack import ROOT

TEMPLATE = Path(__file__).with_name("template")
REGISTRY = Path("infra") / "services.json"
GATEWAY = Path("infra") / "apim" / "apis.json"
DOCKERFILE = Path("images") / "service.Dockerfile"
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_PATH = re.compile(r"(?:/(?!\.+(?:/|\Z))[A-Za-z0-9._~-]+)+")

_TOLD = """\
services/{name} is a model service, and infra/services.json knows it. Try it:

  .venv/bin/python -m pytest services/{name}
  python3 dev.py up --backend {path}=http://127.0.0.1:8081

and in another terminal:

  export BACKBONE_URL=http://127.0.0.1:7071 BACKBONE_KEY=$(cat .local/up/key)
  PORT=8081 .venv/bin/python services/{name}/service.py

and in a third one, a task for it:

  curl -H "x-functions-key: $(cat .local/up/key)" -H 'Content-Type: application/json' -H 'Prefer: wait=30' \\
    -d '[1, 2, 6]' http://127.0.0.1:7071/api/v1/submit{path}/predict

Put your model in place of the mean. Then three steps publish it:

1. The entry in infra/services.json, which is there. The app's BACKENDS and the gateway's APIs are made of it:
     azd up
2. The image:
     az acr build --registry REGISTRY --image {name}:1 --file services/{name}/Dockerfile .
3. The release, with REGISTRY in services/{name}/values.yaml replaced:
     helm upgrade --install {name} charts/model-service --namespace models --create-namespace \\
       --values services/deployment.yaml --values services/{name}/values.yaml

docs/add-a-service.md says how services/deployment.yaml is made, once for all services, and has the rest."""


class Refused(Exception):
    """Raised when no service can be made of what was asked for."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py new-service", description="Make a model service of a template.")
    parser.add_argument("name", metavar="NAME", help="a DNS label, such as land-cover")
    parser.add_argument("--path", help="the prefix of its endpoints (default: /v1/NAME)")
    options = parser.parse_args()
    path = options.path or f"/v1/{options.name}"
    try:
        make_service(ROOT, options.name, path)
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    sys.stdout.write(_TOLD.format(name=options.name, path=path) + "\n")
    return 0


def make_service(root: Path, name: str, path: str) -> Path:
    """Make the folder of a service in *root*, and its entry in the list of services there. Returns the folder.

    Raises:
        Refused: the name or the path is none, or is taken.
    """
    folder = root / "services" / name
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is no name: up to 40 small letters, digits and hyphens, and a letter first.")
    if not _PATH.fullmatch(path):
        raise Refused(f"{path!r} is no path prefix such as /v1/{name}.")
    if folder.exists():
        raise Refused(f"services/{name} exists.")
    registry = json.loads((root / REGISTRY).read_text())
    for service in registry["services"]:
        # The gateway does not tell small letters from large ones.
        for taken, wanted in ((service["name"], name), (service["path"], path)):
            if taken.lower() == wanted.lower():
                raise Refused(f"{REGISTRY} has {taken} already.")
    for api in json.loads((root / GATEWAY).read_text())["apis"]:
        if api["name"] == name or f"{path}/".lower().startswith(f"/{api['path']}/".lower()):
            raise Refused(f"The gateway has {api['name']} at /{api['path']} already.")
    # One gateway is in front of all services.
    url = registry["services"][0]["url"]
    registry["services"].append({"name": name, "path": path, "url": url, "endpoints": [f"{path}/predict"]})

    ours = {"/v1/NAME": path, "NAME": name, "HOST": urlsplit(url).hostname or ""}
    folder.mkdir(parents=True)
    for file in sorted(TEMPLATE.iterdir()):
        if file.is_file():
            # All at once: a path may have such words too.
            text = re.sub("/v1/NAME|NAME|HOST", lambda word: ours[word[0]], file.read_text())
            # Modules of tests need names of their own, for pytest to run those of two services together.
            own = file.name.replace("test_service", "test_" + name.replace("-", "_"))
            (folder / own).write_text(text)
    (folder / "Dockerfile").write_text(_dockerfile(root, name))
    (root / REGISTRY).write_text(json.dumps(registry, indent=2, ensure_ascii=False) + "\n")
    return folder


def _dockerfile(root: Path, name: str) -> str:
    """That of all services in Python, with this one's folder. It is the service's own from here on."""
    _, _, instructions = (root / DOCKERFILE).read_text().partition("\nFROM ")
    text = "FROM " + instructions.replace("ARG SERVICE=examples/hello", f"ARG SERVICE=services/{name}")
    return f"# From the top of the repository: docker build -f services/{name}/Dockerfile -t {name} .\n{text}"


if __name__ == "__main__":
    sys.exit(main())
