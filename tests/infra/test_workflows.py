"""The workflows: what actionlint finds in them, shellcheck in their commands, and what it does not look for.

Nothing here runs a workflow: whether a runner has what a step needs, and whether Azure believes its token, only a run
shows.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.stack import ROOT
from tests.infra.conftest import Run

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
Workflow = dict[Any, Any]

of_each = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)


def read(file: Path) -> Workflow:
    return yaml.safe_load(file.read_text())


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    return read(file)["jobs"]


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(file).values() for step in job["steps"]]


def test_there_are_the_workflows_that_the_docs_name() -> None:
    assert {"ci.yml", "deploy.yml", "images.yml", "release.yml"} == {file.name for file in WORKFLOWS}


def test_actionlint_finds_nothing(judge: Run) -> None:
    done = judge("actionlint", "-pyflakes", "", *WORKFLOWS)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_actionlint_finds_what_shellcheck_does(judge: Run, tmp_path: Path) -> None:
    file = tmp_path / "unquoted.yml"
    job = {"runs-on": "ubuntu-24.04", "steps": [{"run": "A='x y'\nls $A"}]}
    file.write_text(yaml.safe_dump({"on": "push", "jobs": {"one": job}}))
    done = judge("actionlint", "-pyflakes", "", file)
    assert "SC2086" in done.stdout


@of_each
def test_it_follows_the_schema_of_workflows(judge: Run, file: Path) -> None:
    done = judge("check-jsonschema", "--builtin-schema", "vendor.github-workflows", file)
    assert done.returncode == 0, done.stdout


def test_the_file_that_renews_the_pins_follows_its_schema(judge: Run) -> None:
    done = judge("check-jsonschema", "--builtin-schema", "vendor.dependabot", ROOT / ".github" / "dependabot.yml")
    assert done.returncode == 0, done.stdout


@of_each
def test_the_page_on_workflows_names_it(file: Path) -> None:
    assert f"| `{file.name}` |" in (ROOT / "docs" / "workflows.md").read_text()


@of_each
def test_each_action_is_pinned_to_a_commit_and_says_its_version(file: Path) -> None:
    used = re.findall(r"^ +- (?:name: .+\n +)?uses: (.+)$", file.read_text(), re.MULTILINE)
    assert len(used) == len([step for step in steps(file) if "uses" in step])
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


def test_the_same_action_is_pinned_to_the_same_commit_everywhere() -> None:
    commits: dict[str, set[str]] = {}
    for file in WORKFLOWS:
        for step in steps(file):
            action, _, commit = step.get("uses", "").partition("@")
            commits.setdefault(action, set()).add(commit)
    assert {action: found for action, found in commits.items() if len(found) > 1} == {}


ALLOWED = {
    ("deploy.yml", "preview"): {"contents": "read", "id-token": "write"},
    ("deploy.yml", "deploy"): {"contents": "read", "id-token": "write"},
    ("release.yml", "publish"): {"contents": "write"},
}
"""The jobs that may do more than read the repository."""


@of_each
def test_each_job_may_do_no_more_than_it_must(file: Path) -> None:
    of_all = read(file)["permissions"]
    assert of_all in ({}, {"contents": "read"})
    for name, job in jobs(file).items():
        allowed = ALLOWED.get((file.name, name), {"contents": "read"})
        assert job.get("permissions", of_all) == allowed, name


@of_each
def test_no_job_leaves_its_token_in_the_clone_or_runs_without_end(file: Path) -> None:
    for step in steps(file):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert [name for name, job in jobs(file).items() if "timeout-minutes" not in job] == []


@of_each
def test_runs_of_one_subject_do_not_overlap_and_only_those_of_pull_requests_are_cancelled(file: Path) -> None:
    concurrency = read(file)["concurrency"]
    assert "${{" in concurrency["group"]
    assert concurrency["cancel-in-progress"] in (False, "${{ github.event_name == 'pull_request' }}")


@of_each
def test_nothing_that_others_write_gets_into_a_command(file: Path) -> None:
    # An expression in a command is text of the command. In `env` it is text of a variable.
    assert [step["run"] for step in steps(file) if "${{" in step.get("run", "")] == []


@of_each
def test_no_secret_is_used_but_the_runs_own_token(file: Path) -> None:
    assert re.findall(r"secrets\.\w+", file.read_text()) == []


def test_what_is_deployed_was_checked_and_shown_before_and_is_tried_afterwards() -> None:
    deploy = jobs(ROOT / ".github" / "workflows" / "deploy.yml")
    assert deploy["preview"]["needs"] == "check"
    assert deploy["deploy"]["needs"] == "preview"
    commands = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in deploy.items()}
    assert "python3 dev.py check" in commands["check"]
    assert "python3 dev.py infra" in commands["check"]
    assert "az deployment sub what-if" in commands["preview"]
    ordered = ["azd auth login", "azd env new", "azd provision", "azd deploy", "sh infra/smoke.sh"]
    positions = [commands["deploy"].index(command) for command in ordered]
    assert positions == sorted(positions)


def test_the_preview_and_the_deployment_are_of_one_preset_that_exists() -> None:
    file = ROOT / ".github" / "workflows" / "deploy.yml"
    [options] = re.findall(r"options: \[(.+)\]", file.read_text())
    presets = {each.name.partition(".")[0] for each in (ROOT / "infra").glob("*.bicepparam")}
    assert {*options.split(", ")} == presets
    deploy = jobs(file)
    # az reads the file of the preset, and azd the parameters, which take their values from these variables.
    assert "infra/$AZURE_ENV_NAME.bicepparam" in deploy["preview"]["steps"][-1]["run"]
    # One that were missing would take back what an operator has chosen.
    given = {*deploy["deploy"]["env"]} - {"AZURE_SUBSCRIPTION_ID"}
    assert given == {*re.findall(r"\$\{(\w+)", (ROOT / "infra" / "main.parameters.json").read_text())}
    for preset in presets:
        read = re.findall(r"readEnvironmentVariable\('(\w+)'", (ROOT / "infra" / f"{preset}.bicepparam").read_text())
        assert {*deploy["preview"]["env"]} == {*read}
    assert (
        deploy["deploy"]["env"]["PRESET"] == deploy["preview"]["env"]["AZURE_ENV_NAME"] == "${{ inputs.environment }}"
    )


def test_the_pages_tell_every_variable_that_a_deployment_uses() -> None:
    used = {*re.findall(r"vars\.(\w+)", (ROOT / ".github" / "workflows" / "deploy.yml").read_text())}
    needed = {*re.findall(r"gh variable set (\w+) --env", (ROOT / "docs" / "workflows.md").read_text())}
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE)
    chosen = {*re.findall(r"\w+", " ".join(rows))} - {"PRESET"}  # which is the workflow's environment
    assert used == needed | chosen


def test_every_image_is_built_and_scanned() -> None:
    images = jobs(ROOT / ".github" / "workflows" / "images.yml")["build"]
    files = {file.name.removesuffix(".Dockerfile") for file in (ROOT / "images").glob("*.Dockerfile")}
    assert {*images["strategy"]["matrix"]["image"]} == files
    assert [step["name"] for step in images["steps"][1:]] == ["Build", "Scan"]


def test_a_release_has_a_wheel_of_each_package() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    [built] = re.findall(r"pip wheel --no-deps --wheel-dir release (.+)", text)
    files = (ROOT / "sdk").glob("**/pyproject.toml")
    packages = {
        f"./{file.parent.relative_to(ROOT)}" for file in files if "project" in tomllib.loads(file.read_text())
    }
    assert {*built.split()} == packages == {"./sdk", "./sdk/testing"}


def test_a_release_has_the_chart_under_its_own_version() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert 'helm package charts/model-service --version "${TAG#v}"' in text


def test_the_chart_is_linted_with_the_values_of_each_example() -> None:
    [step] = [step for step in jobs(ROOT / ".github" / "workflows" / "ci.yml")["chart"]["steps"] if "run" in step]
    assert "for values in charts/model-service/examples/*.yaml" in step["run"]
    assert "helm lint --strict charts/model-service" in step["run"]
    assert [*(ROOT / "charts" / "model-service" / "examples").glob("*.yaml")]
