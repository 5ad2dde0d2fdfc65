#!/usr/bin/env python3
"""Everything a developer runs, on a fresh machine: makes .venv, installs into it, then runs one command.

Standard library only, and readable by an old Python, so that it can say that it is too old.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
SDK = os.path.join("sdk", "pyproject.toml")  # which requirements-dev.txt installs as it lies there
BENCH_REQUIREMENTS = "requirements-bench.txt"  # on top of them, for the benchmarks
OLDEST = (3, 11)

# By name: the arguments, one line, and the options. Shown without anything installed, so not asked of the commands.
COMMANDS = {
    "demo": (
        "[OPTIONS]",
        "send real pictures through a real model and back",
        """
  --results DIR      the folder for the result pictures (default: demo-results)
  --json             print JSON lines
  --func             run the app under Azure Functions Core Tools
""",
    ),
    "test": (
        "[ARGUMENTS]",
        "run the tests: all but the slow ones on all cores, or what pytest makes of ARGUMENTS",
        """
  python3 dev.py test --slow                   the slow ones: faults, hours of outage, real servers, fuzzing
  python3 dev.py test tests/test_dev.py        one file
  python3 dev.py test -k position              every test whose name has this word
  .venv/bin/python -m pytest --help            all arguments of pytest
""",
    ),
    "up": (
        "[OPTIONS]",
        "start the local stack and keep it up until Ctrl-C",
        """
  --port N           the app's port (default: 7071)
  --backend PATH=URL register a model service of your own; may be repeated
  --pipeline PATH=STEP,STEP
                     give a pipeline through endpoints a name; may be repeated
  --gateway [PORT]   put the local gateway in front of the app (default: 7080): the policies that go to Azure
  --func             run the app under Azure Functions Core Tools
  --without-app      start all but the app, which a debugger then starts
""",
    ),
    "check": ("", "check format, lint, types, layers, generated files and images, as CI does", ""),
    "format": ("", "put the code into shape: fix what ruff can fix, then format", ""),
    "faults": (
        "[OPTIONS]",
        "break the stack under load, and look whether any task got lost",
        """
  --minutes N        go on for so long (default: one round over all faults)
  --only NAME...     these faults only
  --seed N           repeat the choices of an earlier run
  --json FILE        write all figures there
""",
    ),
    "bench": (
        "[NAME...] [OPTIONS]",
        "run the benchmarks: half an hour",
        """
  NAME...            these benchmarks only
  --quick            all of it in three minutes, and less exact
  --against REV      compare the working tree with a revision, side by side
  --repeats N        with --against: how often each side runs
""",
    ),
    "judges": (
        "",
        "lint docs/openapi.json, and try the clients that generators make of it",
        """
  What this needs on top goes into .local/judges, once: 300 MB. It takes two to four minutes.
""",
    ),
    "infra": (
        "[ARGUMENTS]",
        "judge what goes to Azure: Bicep, policies, the chart, workflows and scripts",
        """
  ARGUMENTS          go to pytest

  The compiler of Bicep has to be on PATH, or BICEP has to name it: its tests are skipped otherwise. What else this
  needs goes into .local/sdk/infra, once.
""",
    ),
    "sdk": (
        "[OPTIONS] [ARGUMENTS]",
        "build the SDK, install it into each Python that it is for, and run its tests there",
        """
  --python VERSION   only this one of 3.9, 3.11 and 3.13; may be repeated
  ARGUMENTS          go to pytest; with them, only the tests are run

  What this needs on top goes into .local/sdk. The Pythons have to be on PATH, or in pyenv.
""",
    ),
    "r": (
        "[ARGUMENTS]",
        "install R, lint and test what is in R, and run services in R before the app",
        """
  ARGUMENTS          go to pytest; with them, only the tests before the app are run

  R comes from Debian's packages, where this is root; where it cannot be installed, this says so and ends well.
""",
    ),
    "ai4e": (
        "[OPTIONS] [ARGUMENTS]",
        "test the drop-in for the legacy images' tools in each Python that it is for",
        """
  --python VERSION   only this one of 3.7, 3.11 and 3.13; may be repeated
  ARGUMENTS          go to pytest

  What this needs on top goes into .local/sdk. The Pythons have to be on PATH, or in pyenv.
""",
    ),
    "examples": (
        "[NAME...]",
        "run the examples against a stack, and test what they answer",
        """
  NAME...            these examples only: folders of examples/
""",
    ),
    "new-service": (
        "NAME [OPTIONS]",
        "make a model service of a template, in services/NAME, and register it",
        """
  NAME               a DNS label, such as land-cover
  --path PATH        the prefix of its endpoints (default: /v1/NAME)
""",
    ),
    "install": ("", "make .venv and install into it, nothing else", ""),
}


def main():
    command, arguments = (sys.argv[1:2] or ["help"])[0], sys.argv[2:]
    if command in ("help", "-h", "--help"):
        command, arguments = (arguments[:1] or [""])[0], ["--help"]
        if not command:
            print(overview())
            return 0
    if command not in COMMANDS:
        print(overview())
        return 2
    if "-h" in arguments or "--help" in arguments:
        print(help_of(command))
        return 0
    if os.name != "posix":
        return fail("The local stack needs Linux or macOS (on Windows: WSL).")
    if sys.version_info < OLDEST:
        return fail(
            "Python {}.{} or newer is needed, and this is {}.{}: run dev.py with a newer one.".format(
                *(OLDEST + tuple(sys.version_info[:2]))
            )
        )
    problem = install() or (install_for_bench() if command == "bench" else None)
    if problem:
        return fail(problem)
    if command == "install":
        print("Everything is installed in .venv.")
        return 0
    if command == "check":
        return check()
    if command == "format":
        return reformat()
    if command == "test":
        chosen = {(): "not slow", ("--slow",): "slow"}.get(tuple(arguments))
        if chosen:
            # Files stay together, since each has its stack.
            arguments = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "-m", chosen]
        return run("-m", "pytest", *arguments)
    os.chdir(ROOT)
    module = {
        "faults": ["tests.faults"],
        "judges": ["tests.judges"],
        "bench": ["bench"],
        "infra": ["tests.infra"],
        "sdk": ["tests.sdk"],
        "r": ["tests.r"],
        "ai4e": ["tests.sdk.ai4e"],
        "examples": ["tests.sdk.examples"],
        "new-service": ["local.new_service"],
    }.get(command, ["local", command])
    os.execv(PYTHON, [PYTHON, "-m", *module, *arguments])


def overview():
    usages = ["{} {}".format(name, COMMANDS[name][0]) for name in COMMANDS]
    width = max(map(len, usages))
    lines = ["  python3 dev.py {}  {}".format(usage.ljust(width), COMMANDS[usage.split()[0]][1]) for usage in usages]
    return "\n".join(
        [
            "Everything a developer runs. The first time, it makes .venv and installs into it.",
            "",
            *lines,
            "",
            "python3 dev.py COMMAND --help lists a command's options.",
        ]
    )


def help_of(command):
    usage, does, options = COMMANDS[command]
    return "python3 dev.py {} {}\n\n{}.\n{}".format(command, usage, does[0].upper() + does[1:], options).rstrip()


def install():
    """Make .venv what the requirements say, unless it is. Returns what went wrong, in one sentence."""
    marker, wanted = os.path.join(VENV, "installed"), fingerprint(*REQUIREMENTS, SDK)
    if is_marked(marker, wanted):
        return None
    print("Installing into .venv (a minute or two, this time only) ...", file=sys.stderr, flush=True)
    made = quietly(sys.executable, "-m", "venv", "--clear", VENV)
    if made:
        return "No virtual environment could be made (on Debian and Ubuntu: apt install python3-venv): " + made
    return install_from(REQUIREMENTS[1], marker, wanted)


def install_for_bench():
    """Install what the benchmarks need on top, likewise."""
    marker, wanted = os.path.join(VENV, "installed-bench"), fingerprint(*REQUIREMENTS, SDK, BENCH_REQUIREMENTS)
    if is_marked(marker, wanted):
        return None
    print("Installing what the benchmarks need into .venv (this time only) ...", file=sys.stderr, flush=True)
    return install_from(BENCH_REQUIREMENTS, marker, wanted)


def install_from(requirements, marker, wanted):
    pip = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off")
    failed = watched(Progress(sys.stderr), *pip, "-r", os.path.join(ROOT, requirements))
    if failed:
        return "The requirements could not be installed (is there a network?): " + failed
    with open(marker, "w") as file:
        file.write(wanted)
    return None


class Progress:
    """Shows what pip is doing: on a terminal one line that changes, elsewhere a line for each package."""

    FETCHED = re.compile(
        r"(?:Downloading|Using cached) (?:\S*/)?([\w.]+)-([^-\s]+?)(?:-\S*)?\.(?:whl|tar\.gz)( \(.+\))?$"
    )

    def __init__(self, stream):
        self.stream = stream
        self.is_live = stream.isatty()
        self.fetched = 0

    def see(self, line):
        """Take notice of a line that pip printed."""
        fetched = self.FETCHED.match(line)
        if fetched:
            self.fetched += 1
            self.show("{} {}{}".format(fetched.group(1).replace("_", "-"), fetched.group(2), fetched.group(3) or ""))
        elif line.startswith("Collecting ") and self.is_live:
            self.show("looking for " + re.split(r"[^\w.-]", line[len("Collecting ") :])[0])
        elif line.startswith("Installing collected packages: "):
            self.show("installing {} packages".format(line.count(",") + 1))
        elif line.startswith("WARNING: Retrying"):
            self.show("no answer, trying again")

    def show(self, text):
        if self.is_live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r" + "  {} fetched: {}".format(self.fetched, text)[:width].ljust(width))
        else:
            self.stream.write("  " + text + "\n")
        self.stream.flush()

    def end(self):
        if self.is_live:
            self.stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self.stream.flush()


def watched(progress, *command):
    """Run pip under the eyes of *progress*; returns its error if it failed."""
    # Pip takes a folder in a file of requirements as relative to where it runs.
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    last = error = ""
    for raw in process.stdout or ():
        line = raw.decode(errors="replace").strip()
        progress.see(line)
        last = line or last
        error = line if line.startswith("ERROR: ") else error
    progress.end()
    code = process.wait()
    return (error or last or "exit code {}".format(code)) if code else None


def fingerprint(*requirements):
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for name in requirements:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_marked(marker, wanted):
    if not os.path.exists(marker):
        return False
    with open(marker) as file:
        return file.read() == wanted


def check():
    for tool in (
        ("-m", "ruff", "format", "--check"),
        ("-m", "ruff", "check"),
        ("-m", "basedpyright"),
        (os.path.join(VENV, "bin", "lint-imports"), "--no-cache"),
        (os.path.join("sdk", "tools", "unasync.py"), "--check"),
        ("-m", "tools.sdk_reference", "--check"),
    ):
        code = run(*tool)
        if code:
            return code
    images = glob.glob(os.path.join(ROOT, "images", "*.Dockerfile"))
    made = glob.glob(os.path.join(ROOT, "services", "*", "Dockerfile"))
    linter = os.path.join(VENV, "bin", "hadolint")
    return subprocess.call([linter, *sorted(images), *sorted(made)], cwd=ROOT)


def reformat():
    unfixed = run("-m", "ruff", "check", "--fix")
    return run("-m", "ruff", "format") or unfixed


def run(*arguments):
    # The tests start many processes. Each would compile the app and the tests again.
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.call([PYTHON, *arguments], cwd=ROOT, env=environment)


def quietly(*command):
    """Run a command; returns the last line it printed if it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "exit code {}".format(done.returncode)


def fail(sentence):
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
