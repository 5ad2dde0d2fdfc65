#!/usr/bin/env python3
"""Everything a developer runs, on a fresh machine: makes .venv, installs into it, then runs one command.

Standard library only, and readable by an old Python, even 2.7, so that it can say that it is too old.
"""

from __future__ import print_function

import difflib
import glob
import hashlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
SDK = os.path.join("sdk", "pyproject.toml")  # which requirements-dev.txt installs as it lies there
ON_TOP = {  # of them, for some commands
    "bench": "requirements-bench.txt",
    "browser": "requirements-browser.txt",
    "screenshots": "requirements-browser.txt",
}
OLDEST = (3, 11)
TO_FETCH_MB, ON_DISK_GB = 225, 0.9  # about, of requirements-dev.txt
CHILD_ENDS_WITHIN_S = 10

# By name: the arguments, one line, and the options. Shown without anything installed, so not asked of the commands.
COMMANDS = {
    "demo": (
        "[OPTIONS]",
        "send five photographs through a real model, an unsupervised segmentation, and back",
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
  --backend PATH=URL[,lease_s=N][,limit=N]
                     register a model service of your own, with the seconds that a task may go without an update,
                     and how many tasks an endpoint gets at a time; may be repeated
  --pipeline PATH=STEP,STEP
                     give a pipeline through endpoints a name; may be repeated
  --set NAME=VALUE   give the app a setting of docs/settings.md; may be repeated
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
        "lint docs/openapi.json, try the clients that generators make of it, judge alerts and dashboards",
        """
  What this needs on top goes into .local/judges, once: 450 MB. It takes four to eight minutes.
""",
    ),
    "browser": (
        "[ARGUMENTS]",
        "run the console in a real browser, against the real stack",
        """
  ARGUMENTS          go to pytest

  The browser is Debian's Chromium: it is installed where this is root, and the tests are skipped where there is none.
""",
    ),
    "screenshots": ("", "take the pictures of the console that the pages show, in docs/images", ""),
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
    if command == "help" or asks_for_help(command):
        command, arguments = ([name for name in arguments if not asks_for_help(name)][:1] or [""])[0], ["--help"]
        if not command:
            print(overview())
            return 0
    if command not in COMMANDS:
        print(overview())
        sys.stdout.flush()
        near = difflib.get_close_matches(command, list(COMMANDS), 1)
        fail("There is no command {}{}".format(command, ": did you mean {}?".format(near[0]) if near else "."))
        return 2
    if any(map(asks_for_help, arguments)):
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
    if command in ("demo", "up"):
        # A mistake is told before anything is installed for minutes.
        from local.arguments import parse

        options = parse([command] + arguments)
        if command == "demo" and options.results:
            arguments += ["--results", os.path.abspath(options.results)]
    problem = install() or (install_on_top(command) if command in ON_TOP else None)
    if problem:
        return fail(problem)
    if command == "install":
        print("Everything is installed in .venv.")
        return 0
    if command == "check":
        return check()
    if command == "format":
        return reformat()
    os.chdir(ROOT)
    if command == "test":
        chosen = {(): "not slow", ("--slow",): "slow"}.get(tuple(arguments))
        if chosen:
            # Files stay together, since each has its stack.
            arguments = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "-m", chosen]
        return become(["pytest"] + arguments)
    module = {
        "faults": "tests.faults",
        "judges": "tests.judges",
        "bench": "bench",
        "browser": "tests.browser",
        "screenshots": "tests.browser.screenshots",
        "infra": "tests.infra",
        "sdk": "tests.sdk",
        "r": "tests.r",
        "ai4e": "tests.sdk.ai4e",
        "examples": "tests.sdk.examples",
        "new-service": "local.new_service",
    }
    return become([module[command]] if command in module else ["local", command], arguments)


def asks_for_help(argument):
    """Whether it is -h, --help, or as much of --help as parsers of arguments take for it."""
    return argument == "-h" or (len(argument) > 3 and "--help".startswith(argument))


def become(module, arguments=()):
    """Let a module take over this process, so that a signal has one process to end."""
    if module[0] == "local":
        # A Ctrl-C waits until the module is there to handle it. What an exec does not keep is a handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    os.execve(PYTHON, [PYTHON, "-m"] + list(module) + list(arguments), environment())


def overview():
    usages = ["{} {}".format(name, COMMANDS[name][0]) for name in COMMANDS]
    width = max(map(len, usages))
    lines = ["  python3 dev.py {}  {}".format(usage.ljust(width), COMMANDS[usage.split()[0]][1]) for usage in usages]
    return "\n".join(
        [
            "Everything a developer runs. The first time, it makes .venv and installs into it.",
            "",
        ]
        + lines
        + ["", "python3 dev.py COMMAND --help lists a command's options."]
    )


def help_of(command):
    usage, does, options = COMMANDS[command]
    return "python3 dev.py {} {}\n\n{}.\n{}".format(command, usage, does[0].upper() + does[1:], options).rstrip()


def install():
    """Make .venv what the requirements say, unless it is. Returns what went wrong, in one sentence."""
    marker, wanted = os.path.join(VENV, "installed"), fingerprint(REQUIREMENTS + (SDK,))
    if is_marked(marker, wanted):
        return None
    for folder in (ROOT, VENV):
        if os.path.lexists(folder) and not os.access(folder, os.W_OK):
            return "{} cannot be written to, and what is installed goes there: {}.".format(
                folder, "put a copy of the folder where you may write" if folder == ROOT else "remove it"
            )
    print(
        "Installing into .venv, this time only: a minute or two. About {} MB are fetched, and take {} GB here "
        "...".format(TO_FETCH_MB, ON_DISK_GB),
        file=sys.stderr,
    )
    sys.stderr.flush()
    from importlib.util import find_spec  # Python 2 has none

    if find_spec("ensurepip") is None:
        return "This Python makes no virtual environments: install what it lacks ({}).".format(
            "on Debian and Ubuntu: apt install python{}.{}-venv".format(*sys.version_info[:2])
        )
    made = watched(None, [sys.executable, "-m", "venv", "--clear", VENV])
    if made:
        return "No virtual environment could be made: " + made
    return install_from(REQUIREMENTS[1], marker, wanted)


def install_on_top(command):
    """Install what a command needs on top, likewise."""
    requirements = ON_TOP[command]
    name = os.path.splitext(requirements)[0].split("-")[1]
    marker, wanted = (
        os.path.join(VENV, "installed-" + name),
        fingerprint(REQUIREMENTS + (SDK, requirements)),
    )
    if is_marked(marker, wanted):
        return None
    print("Installing what {} needs into .venv (this time only) ...".format(command), file=sys.stderr)
    sys.stderr.flush()
    return install_from(requirements, marker, wanted)


def install_from(requirements, marker, wanted):
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    failed = watched(Progress(sys.stderr), pip + ["-r", os.path.join(ROOT, requirements)])
    if failed:
        hint = "" if "[Errno" in failed else " (is there a network?)"
        return "The requirements could not be installed{}: {}".format(hint, failed)
    with open(marker, "w") as file:
        file.write(wanted)
    return None


MB_OF = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


class Progress:
    """Shows what pip is doing: on a terminal one line that changes, elsewhere a line for each package."""

    FETCHED = re.compile(
        r"(?:Downloading|Using cached|Processing) (\S*/)?([\w.]+)-([^-\s]+?)(?:-\S*)?\.(?:whl|tar\.gz)"
        r"(?: \(([\d.]+) (bytes|kB|MB|GB)\))?(?: \(from .*\))?$"
    )

    def __init__(self, stream):
        self.stream = stream
        self.is_live = stream.isatty()
        self.started_s = time.time()
        self.fetched = 0
        self.fetched_mb = 0.0
        self.to_install = 0
        self.shown = ""

    def see(self, line):
        """Take notice of a line that pip printed."""
        fetched = self.FETCHED.match(line)
        if fetched:
            _, name, version, size, unit = fetched.groups()
            self.fetched += 1
            self.fetched_mb += float(size) * MB_OF[unit] if size else 0
            self.show(
                "{} {}{}".format(name.replace("_", "-"), version, " ({} {})".format(size, unit) if size else "")
            )
        elif line.startswith("Collecting ") and self.is_live:
            self.show("looking for " + re.split(r"[^\w.-]", line[len("Collecting ") :])[0])
        elif line.startswith("Installing collected packages: "):
            self.to_install = line.count(",") + 1
            self.show("installing {} packages, {:.0f} MB".format(self.to_install, self.fetched_mb))
        elif line.startswith("WARNING: Retrying"):
            self.show("no answer, trying again")

    def tick(self):
        """Show that time goes on, and how many packages pip has unpacked."""
        if self.is_live and self.to_install:
            there = len(glob.glob(os.path.join(VENV, "lib", "python3*", "site-packages", "*.dist-info")))
            self.shown = "installing package {} of {}".format(min(there, self.to_install), self.to_install)
        if self.is_live:
            self.show(self.shown)

    def show(self, text):
        self.shown = text
        if self.is_live:
            width = shutil.get_terminal_size().columns - 1
            spent = int(time.time() - self.started_s)
            so_far = "  {}:{:02} {} fetched, {:.0f} MB: ".format(
                spent // 60, spent % 60, self.fetched, self.fetched_mb
            )
            self.stream.write("\r" + (so_far + text)[:width].ljust(width))
        else:
            self.stream.write("  " + text + "\n")
        self.stream.flush()

    def end(self):
        if self.is_live:
            self.stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self.stream.flush()


def watched(progress, command):
    """Run a command under the eyes of *progress*, if there is one; returns its error if it failed."""
    # In a group of its own, all of which is ended with this program. pip takes a folder in a file of requirements as
    # relative to where it runs.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    last = error = ""
    try:
        for line in lines_of(process.stdout, progress.tick if progress else None):
            if progress:
                progress.see(line)
            last = line or last
            error = line if line.startswith("ERROR: ") else error
        code = process.wait()
    except BaseException:
        end(process, of_group=True)
        raise
    finally:
        if progress:
            progress.end()
    return (error or last or "exit code {}".format(code)) if code else None


def lines_of(pipe, tick):
    """The lines that come out of a pipe. Meanwhile, *tick* is called every second."""
    waiting = b""
    while True:
        if not select.select([pipe], [], [], 1)[0]:
            if tick:
                tick()
            continue
        read = os.read(pipe.fileno(), 65536)
        lines = (waiting + read).split(b"\n")
        waiting = lines.pop()
        for line in lines if read else [waiting]:
            yield line.decode("utf-8", "replace").strip()
        if not read:
            return


def end(process, of_group=False):
    """End a child, and kill it if it takes long; with *of_group*, its children too."""
    tell = os.killpg if of_group else os.kill
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            tell(process.pid, number)
        except OSError:  # it has ended
            pass
        try:
            process.wait(CHILD_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue
        if not of_group:
            return


def fingerprint(requirements):
    # What is installed names the folder: it does not move with it.
    digest = hashlib.sha256(repr((sys.version_info[:2], ROOT)).encode())
    for name in requirements:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_marked(marker, wanted):
    # The Python that .venv was made with may have been removed since.
    if not (os.path.exists(marker) and os.access(PYTHON, os.X_OK)):
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
    return call([linter] + sorted(images) + sorted(made))


def reformat():
    unfixed = run("-m", "ruff", "check", "--fix")
    return run("-m", "ruff", "format") or unfixed


def run(*arguments):
    return call([PYTHON] + list(arguments))


def call(command):
    """Run a command and return its exit code. It ends with this program."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    try:
        return process.wait()
    except BaseException:
        end(process)
        raise


def environment():
    # The tests start many processes. Each would compile the app and the tests again.
    return {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def fail(sentence):
    print(sentence, file=sys.stderr)
    return 1


def start():
    try:
        # A process that is told to end has to end what it has started, too.
        for number in (signal.SIGTERM, signal.SIGHUP) if os.name == "posix" else ():
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, signal.default_int_handler)
        return main()
    except KeyboardInterrupt:
        fail("Stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(start())
