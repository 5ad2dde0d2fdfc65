"""checkov reads what each preset would deploy, the Dockerfiles and the workflows, offline, with the exceptions below.

It does not read the templates: its parser of Bicep knows neither user-defined types nor functions, and passes
over a file that it cannot read. The snapshots are the same resources, with their values. It has no rule for Redis,
for the gateway's APIs or for the chart's custom resources.
"""

from __future__ import annotations

import json
from pathlib import Path

from local.stack import ROOT
from tests.infra.conftest import Checkov
from tests.infra.test_snapshots import PRESETS, resources

# The rule, the presets and the beginning of the resource's name: why it does not hold.
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("CKV_AZURE_6", "dev prod", "aks"): "charts are installed from where people and workflows are; Entra ID decides",
    ("CKV_AZURE_8", "dev prod", "aks"): "it asks for an add-on to be off that Azure has no more",
    ("CKV_AZURE_17", "dev prod", "func"): "callers come by the gateway and Event Grid, which have keys or tokens",
    ("CKV_AZURE_35", "dev", "sthost"): "dev has no network; no key opens the account",
    ("CKV_AZURE_35", "dev prod", "stbody"): "parameter uploads: callers use its signed URLs, and no key opens it",
    ("CKV_AZURE_42", "dev", "kv"): "dev is taken down and made again under the same names; soft delete is on",
    ("CKV_AZURE_59", "dev", "sthost"): "dev has no network; anonymous access is off",
    ("CKV_AZURE_59", "dev prod", "stbody"): "parameter uploads: callers use its signed URLs; anonymous access is off",
    ("CKV_AZURE_107", "dev", "apim"): "the Consumption tier has no network",
    ("CKV_AZURE_109", "dev", "kv"): "dev has no network",
    ("CKV_AZURE_110", "dev", "kv"): "dev is taken down and made again under the same names",
    ("CKV_AZURE_139", "dev", "cr"): "dev has no network; nobody pulls without a role",
    ("CKV_AZURE_163", "dev", "cr"): "the Basic tier; images.yml scans the images",
    ("CKV_AZURE_166", "dev prod", "cr"): "images are scanned before they are pushed (images.yml)",
    ("CKV_AZURE_172", "dev prod", "aks"): "rotation is on; the rule looks for a truth value, and Azure's is a text",
    ("CKV_AZURE_174", "dev prod", "apim"): "callers are outside",
    ("CKV_AZURE_189", "dev", "kv"): "dev has no network; a role for each secret",
    ("CKV_AZURE_191", "dev prod", "topic"): "the topic calls nothing that takes an identity",
    ("CKV_AZURE_193", "dev", "topic"): "dev has no network; the topic takes no keys",
    ("CKV_AZURE_206", "dev", "sthost"): "dev keeps data in one zone",
    ("CKV_AZURE_206", "dev", "stbody"): "dev keeps data in one zone",
    ("CKV_AZURE_206", "prod", "sthost"): "three zones; Redis has no second region either (docs/operations.md)",
    ("CKV_AZURE_206", "prod", "stbody"): "three zones; Redis has no second region either (docs/operations.md)",
    ("CKV_AZURE_212", "dev prod", "func"): "Flex Consumption has always-ready instances in its place",
    ("CKV_AZURE_213", "dev prod", "func"): "Flex Consumption has none",
    ("CKV_AZURE_222", "dev prod", "func"): "Event Grid delivers from outside; prod lets in nobody else",
    ("CKV_AZURE_225", "dev", "plan"): "dev has no zones",
    ("CKV_AZURE_226", "dev prod", "aks"): "these sizes of machines have no room for it",
    ("CKV_AZURE_227", "dev prod", "aks"): "it needs a feature that a subscription has to be registered for",
    ("CKV_AZURE_233", "dev", "cr"): "dev has no zones",
}
OF_WORKFLOWS = {("CKV_GHA_7", "deploy.yml"): "who deploys chooses the environment, from a list"}


def test_what_would_be_deployed_breaks_no_rule_but_for_a_reason(checkov: Checkov, tmp_path: Path) -> None:
    for preset in PRESETS:
        listed = [{name: value for name, value in each.items() if name != "id"} for each in resources(preset)]
        template = {
            "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
            "contentVersion": "1.0.0.0",
            "resources": listed,
        }
        (tmp_path / f"{preset}.json").write_text(json.dumps(template))
    failed, passed = checkov(tmp_path, "arm")
    assert passed > 80
    excepted = {(rule, f"{preset}.json", start) for rule, where, start in EXCEPTIONS for preset in where.split()}
    starts = {start for _, _, start in EXCEPTIONS}

    def start_of(resource: str) -> str:
        name = resource.rpartition(".")[2]
        return next((start for start in starts if name.startswith(start)), name)

    found = {(rule, file, start_of(resource)) for rule, file, resource in failed}
    assert found - excepted == set(), "what breaks a rule"
    assert excepted - found == set(), "an exception that nothing needs any more"


def test_dockerfiles_and_workflows_break_no_rule_but_for_a_reason(checkov: Checkov) -> None:
    failed, passed = checkov(ROOT / "images", "dockerfile")
    assert (failed, passed > 100) == (set(), True)
    failed, passed = checkov(ROOT, "github_actions")
    assert ({(rule, file) for rule, file, _ in failed}, passed > 100) == ({*OF_WORKFLOWS}, True)
