"""What each preset would deploy, as ``bicep snapshot`` computes it offline: the resources with their names, settings
and roles.

What it cannot know: whether Azure takes a value, has room for it in a region, or lets the caller make it. What only a
running deployment knows (host names, ids of identities) stays an expression in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from local.stack import ROOT
from shared.settings import Settings
from shared.settings_warnings import warnings_of
from tests.infra.conftest import Run
from tools.settings_table import variable

INFRA = ROOT / "infra"
PRESETS = ("dev", "prod")
WHERE = (
    *("--subscription-id", "11111111-2222-3333-4444-555555555555"),
    *("--tenant-id", "66666666-7777-8888-9999-000000000000"),
    *("--location", "westeurope"),
)
_MIB = 1024 * 1024
_DAY = 86_400

Resource = dict[str, Any]
Predict = Callable[..., list[Resource]]


@cache
def snapshot(preset: str) -> dict[str, Any]:
    return json.loads((INFRA / f"{preset}.snapshot.json").read_text())


def resources(preset: str, kind: str | None = None) -> list[Resource]:
    found = snapshot(preset)["predictedResources"]
    return [each for each in found if kind is None or each["type"] == kind]


def one(preset: str, kind: str, part: str = "") -> Resource:
    [found] = [each for each in resources(preset, kind) if part in each["name"]]
    return found


def settings(found: list[Resource]) -> dict[str, str]:
    [app] = [each for each in found if each["type"] == "Microsoft.Web/sites"]
    return {each["name"]: each["value"] for each in app["properties"]["siteConfig"]["appSettings"]}


@pytest.fixture
def predict(bicep: Run, tmp_path: Path) -> Predict:
    """What a template would deploy with these parameters."""

    def run(template: str, **parameters: Any) -> list[Resource]:
        file = tmp_path / "tried.bicepparam"
        named = Path(os.path.relpath(INFRA / template, tmp_path)).as_posix()  # Bicep takes no absolute path
        lines = [f"using '{named}'", *(f"param {name} = {bicep_of(value)}" for name, value in parameters.items())]
        file.write_text("\n".join(lines) + "\n")
        where = WHERE if template.endswith("main.bicep") else (*WHERE[:4], "--resource-group", "rg-1", *WHERE[4:])
        done = bicep("snapshot", file, "--mode", "overwrite", *where)
        if done.returncode != 0:
            raise ValueError(done.stdout + done.stderr)
        return json.loads(file.with_suffix(".snapshot.json").read_text())["predictedResources"]

    return run


def bicep_of(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name}: {bicep_of(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(bicep_of, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


MAIN = {"environmentName": "test", "location": "westeurope", "publisherEmail": "nobody@example.org"}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_committed_snapshot_is_what_the_templates_say(
    bicep: Run, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID", "PUBLISHER_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    done = bicep("snapshot", f"infra/{preset}.bicepparam", "--mode", "validate", *WHERE)
    assert (done.returncode, done.stderr) == (0, ""), (
        f"{done.stdout}\nrun: bicep snapshot infra/{preset}.bicepparam --mode overwrite {' '.join(WHERE)}"
    )
    assert snapshot(preset)["diagnostics"] == []


# --- Settings ---

OF_AZURE = {
    "AzureWebJobsStorage__queueServiceUri",
    "AzureWebJobsStorage__tableServiceUri",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
    "AZURE_CLIENT_ID",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "PYTHON_ENABLE_OPENTELEMETRY",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
}
"""Read by the Functions host, by Azure's libraries and by OpenTelemetry."""
LEFT_OUT = {
    "EVENT_GRID_KEY": "the topic takes no keys",
    "PUBLISH_COMPLETIONS": "nobody has subscribed",
    "COMPLETIONS_TOPIC_URI": "nobody has subscribed",
    "COMPLETIONS_KEY": "nobody has subscribed",
    "WEBHOOK_TENANT_ID": "only if Entra ID secures the webhook",
    "WEBHOOK_AUDIENCE": "only if Entra ID secures the webhook",
    "WEBHOOK_AUTHORITY": "only if Entra ID secures the webhook",
    "CALLBACKS": "only if infra/services.json names destinations",
    "BACKEND_BASE_URL": "BACKENDS names each service",
    "ALLOW_LOOPBACK_BACKENDS": "for the local stack",
    "AzureWebJobsStorage": "the account takes no keys",
    "FUNCTIONS_WORKER_PROCESS_COUNT": "Flex Consumption does not take it",
    "AzureFunctionsJobHost__extensions__http__maxConcurrentRequests": "the platform has HTTP_CONCURRENCY",
    "AzureFunctionsJobHost__functionTimeout": "host.json says it",
    "AzureFunctionsJobHost__telemetryMode": "host.json says it",
    "PYTHON_ENABLE_DEBUG_LOGGING": "for debugging",
    "AZURE_FUNCTIONS_ENVIRONMENT": "for developers: in Azure it is Production",
    "WEBSITE_AUTH_ENABLED": "the platform's word",
}
"""Settings that no deployment sets, with the reason."""
DEFAULTS = {
    *("MAX_BODY_BYTES", "READ_URL_S", "MAX_BODY_BYTES_IN_FLIGHT", "MAX_IN_FLIGHT", "MAX_WAITS", "MAX_DISPATCHES"),
    *("DISPATCH_TIMEOUT_S", "MAX_ATTEMPTS", "BACKOFF_BASE_S", "BUSY_RETRY_S", "MAX_UNREGISTERED_S", "MAX_BACKLOG"),
    "MAX_WAITING_PER_OWNER",
    *("REPUBLISH_S", "RECONCILER_INTERVAL_S", "RECONCILER_SCHEDULE", "TELEMETRY_EVENTS"),
}
"""Settings whose default suits every deployment."""


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_of_the_app_is_set_or_left_out_for_a_reason(preset: str) -> None:
    known = {variable(name) for name in Settings.model_fields}
    given = {*settings(resources(preset))} - OF_AZURE
    assert given <= known, "the app knows no such setting"
    assert given.isdisjoint(DEFAULTS | {*LEFT_OUT})
    assert given | DEFAULTS | {*LEFT_OUT} == known


@pytest.mark.parametrize("preset", PRESETS)
def test_the_app_starts_with_these_settings_and_has_nothing_to_warn_of(preset: str) -> None:
    given = settings(resources(preset))
    known: dict[str, str] = {}
    for name, value in given.items():
        # What Azure resolves, and what only a running deployment knows.
        resolved = "resolved-by-the-platform" if "@Microsoft.KeyVault(" in value else value
        if resolved.startswith("["):
            resolved = {"EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events"}.get(
                name, "https://a.example.org"
            )
        known[name] = resolved
    host_json = json.loads((ROOT / "host.json").read_text())
    app = Settings.from_env({**known, "REDIS_CONNECTION_STRING": "redis.example.org:10000,ssl=True"}, host_json)
    assert warnings_of(app) == []
    assert app.gateway_key is not None
    services = json.loads((INFRA / "services.json").read_text())
    assert {*app.backends.entries} == {each["path"] for each in services["services"]}
    for each in services["services"]:
        entry = app.backends.entries[each["path"]].model_dump(exclude_unset=True)
        assert entry == {name: value for name, value in each.items() if name not in ("name", "path")}
    assert app.backends.pipelines == services["pipelines"]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_bodies_that_an_instance_takes_fit_its_memory_and_the_app_knows_both(preset: str) -> None:
    scale = one(preset, "Microsoft.Web/sites")["properties"]["functionAppConfig"]["scaleAndConcurrency"]
    given = settings(resources(preset))
    concurrency = scale["triggers"]["http"]["perInstanceConcurrency"]
    assert given["HTTP_CONCURRENCY"] == str(concurrency)
    assert given["INSTANCE_MEMORY_MB"] == str(scale["instanceMemoryMB"])
    at_once = concurrency * int(given["FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"])
    assert at_once <= 240 * _MIB * scale["instanceMemoryMB"] // 2048, "docs/capacity.md"
    always = {each["name"]: each["instanceCount"] for each in scale["alwaysReady"]}
    assert always == ({"http": 2} if preset == "prod" else {})


@pytest.mark.parametrize("preset", PRESETS)
def test_no_setting_is_one_that_flex_consumption_refuses(preset: str) -> None:
    given = settings(resources(preset))
    refused = {"FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "WEBSITE_RUN_FROM_PACKAGE"}
    assert refused.isdisjoint(given)
    app = one(preset, "Microsoft.Web/sites")["properties"]
    assert app["functionAppConfig"]["runtime"] == {"name": "python", "version": "3.12"}
    plan = one(preset, "Microsoft.Web/serverfarms")
    assert (plan["sku"]["name"], plan["properties"]["zoneRedundant"]) == ("FC1", preset == "prod")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_app_acts_as_one_identity_everywhere(preset: str) -> None:
    app = one(preset, "Microsoft.Web/sites")
    given = settings(resources(preset))
    [identity] = app["identity"]["userAssignedIdentities"]
    assert identity.endswith(one(preset, "Microsoft.ManagedIdentity/userAssignedIdentities", "id-app")["name"])
    assert app["properties"]["keyVaultReferenceIdentity"] == identity
    storage = app["properties"]["functionAppConfig"]["deployment"]["storage"]
    assert storage["authentication"]["userAssignedIdentityResourceId"] == identity
    assert given["AZURE_CLIENT_ID"] == given["AzureWebJobsStorage__clientId"]
    assert given["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"].count("Authorization=AAD;ClientId=") == 1
    [access] = resources(preset, "Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments")
    assert identity in access["properties"]["user"]["objectId"]
    assert "principalId" in access["properties"]["user"]["objectId"]


@pytest.mark.parametrize("preset", PRESETS)
def test_traces_are_shown_by_the_component_that_gets_them(preset: str) -> None:
    component = quote(one(preset, "Microsoft.Insights/components")["id"], safe="")
    url = settings(resources(preset))["TRACE_URL"]
    # Which portal, the deployment's cloud says. The braces are doubled for the expression's `format`.
    assert url.startswith("[format('{0}/#view/") and "environment().portal" in url
    assert component.lower() in url.lower() and "/q/{{Query}}'" in url


@pytest.mark.parametrize("preset", PRESETS)
def test_only_deliveries_of_this_subscription_and_topic_are_taken(preset: str) -> None:
    given = settings(resources(preset))
    topic = one(preset, "Microsoft.EventGrid/topics")
    assert given["EVENT_GRID_TOPIC_ID"] == topic["id"]
    assert given["EVENT_GRID_SUBSCRIPTION"] == snapshot(preset)["outputs"]["EVENT_GRID_SUBSCRIPTION"]


@pytest.mark.parametrize("preset", PRESETS)
def test_orphans_are_older_than_any_task_that_lives(preset: str) -> None:
    given = settings(resources(preset))
    longest = {"waits": 14 * _DAY, "runs": 2 * _DAY, "is held by its batch": float(given["BATCH_IDLE_S"])}
    longest |= {"is uploaded": float(given["UPLOAD_URL_S"]), "is kept": float(given["RETENTION_S"])}
    longest["starts late"] = float(given["MAX_DELAY_S"])
    [policy] = resources(preset, "Microsoft.Storage/storageAccounts/managementPolicies")
    [rule] = policy["properties"]["policy"]["rules"]
    actions = rule["definition"]["actions"]
    ages = [
        actions["baseBlob"]["delete"]["daysAfterModificationGreaterThan"],
        actions["snapshot"]["delete"]["daysAfterCreationGreaterThan"],
    ]
    assert ages == [sum(longest.values()) / _DAY + 1] * 2
    assert float(given["MAX_OUTAGE_S"]) <= longest["waits"]
    # Bodies of tasks and uploads, and nothing else that the app may keep there, such as bodies of schedules.
    container = given["BLOB_CONTAINER"]
    assert rule["definition"]["filters"]["prefixMatch"] == [f"{container}/t-", f"{container}/u-"]
    assert policy["id"].startswith(one(preset, "Microsoft.Storage/storageAccounts", "stbody")["id"])


# --- Keys, roles and secrets ---


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_takes_a_key_that_can_take_an_identity(preset: str) -> None:
    for account in resources(preset, "Microsoft.Storage/storageAccounts"):
        properties = account["properties"]
        assert properties["allowSharedKeyAccess"] is False
        assert properties["allowBlobPublicAccess"] is False
        assert properties["minimumTlsVersion"] == "TLS1_2"
        assert properties["supportsHttpsTrafficOnly"] is True
    database = one(preset, "Microsoft.Cache/redisEnterprise/databases")["properties"]
    assert (database["accessKeysAuthentication"], database["clientProtocol"]) == ("Disabled", "Encrypted")
    assert one(preset, "Microsoft.EventGrid/topics")["properties"]["disableLocalAuth"] is True
    assert one(preset, "Microsoft.Insights/components")["properties"]["DisableLocalAuth"] is True
    workspace = one(preset, "Microsoft.OperationalInsights/workspaces")["properties"]
    assert workspace["features"]["disableLocalAuth"] is True
    registry = one(preset, "Microsoft.ContainerRegistry/registries")["properties"]
    assert (registry["adminUserEnabled"], registry["anonymousPullEnabled"]) == (False, False)
    cluster = one(preset, "Microsoft.ContainerService/managedClusters")["properties"]
    assert (cluster["disableLocalAccounts"], cluster["aadProfile"]["enableAzureRBAC"]) == (True, True)
    assert one(preset, "Microsoft.KeyVault/vaults")["properties"]["enableRbacAuthorization"] is True
    publishing = resources(preset, "Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    assert [each["properties"]["allow"] for each in publishing] == [False, False]


ROLES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": ("Storage Blob Data Owner", "id-app", "sthost"),
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": ("Storage Queue Data Contributor", "id-app", "sthost"),
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": ("Storage Table Data Contributor", "id-app", "sthost"),
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": ("Storage Blob Data Contributor", "id-app", "containers/task-backbone"),
    "db58b8e5-c6ad-4a2a-8342-4190687cbf4a": ("Storage Blob Delegator", "id-app", "stbody"),
    "d5a91429-5739-47e2-a06b-3470a27159e7": ("EventGrid Data Sender", "id-app", "topic"),
    "3913510d-42f4-4e42-8a64-420c390055eb": ("Monitoring Metrics Publisher", "id-app|id-gateway", "appi"),
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": ("AcrPull", "aks", "cr"),
    "4d97b98b-1d4f-4787-a291-c67834d212e7": ("Network Contributor", "id-cluster", "subnets/cluster"),
    "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b": ("Azure Kubernetes Service RBAC Cluster Admin", "a-person", "aks"),
    "4633458b-17de-408a-b874-0445c86b69e6": ("Key Vault Secrets User", "", ""),
}
"""Each role that is given: its name, to whom, on what. The ids are those of Azure's list of built-in roles."""


def assignments(found: list[Resource]) -> list[tuple[str, str, str]]:
    """(name of the role, to whom, on what), as far as names tell."""
    given = []
    for each in found:
        if each["type"] != "Microsoft.Authorization/roleAssignments":
            continue
        scope = each["id"].partition("/providers/Microsoft.Authorization/")[0]
        properties = each["properties"]
        assert properties["description"].endswith(".")
        role = properties["roleDefinitionId"].rpartition("/")[2]
        given.append((ROLES[role][0], properties["principalId"], scope))
    return given


@pytest.mark.parametrize("preset", PRESETS)
def test_each_role_reaches_one_resource_and_what_it_must(preset: str) -> None:
    given = assignments(resources(preset))
    expected = {name: (who, where) for name, who, where in ROLES.values() if who not in ("", "a-person")}
    if preset == "dev":
        del expected["Network Contributor"]
    assert {role for role, _, _ in given} == {*expected}
    for role, principal, scope in given:
        who, where = expected[role]
        assert re.search(rf"/({who})-", principal), f"{role}: {principal}"
        end = scope.rpartition("/")[2] if "/" not in where else "/".join(scope.split("/")[-2:])
        assert end.startswith(where), f"{role}: {scope}"
        kinds = {each["type"]: each["id"] for each in resources(preset)}
        assert scope not in (kinds["Microsoft.Resources/resourceGroups"], "/subscriptions/" + WHERE[1])
    assert len(given) == len(expected) + 1  # metrics: app and gateway


def test_who_deploys_may_use_the_cluster_and_nothing_else_is_given_away(predict: Predict) -> None:
    person = "99999999-0000-1111-2222-333333333333"
    found = predict("main.bicep", **MAIN, principalId=person)
    of_person = [(role, scope) for role, principal, scope in assignments(found) if principal == person]
    [(role, scope)] = of_person
    assert role == "Azure Kubernetes Service RBAC Cluster Admin"
    assert "/managedClusters/aks-" in scope


def test_each_part_may_read_only_the_secrets_that_it_uses(predict: Predict) -> None:
    secrets = ["gateway-key", "gateway-key-previous", "scaler-key", "service-key"]
    found = assignments(predict("access.bicep", vaultName="kv-1", token="t", secrets=secrets))
    assert {role for role, _, _ in found} == {"Key Vault Secrets User"}
    readers = {
        (re.findall(r"/id-(\w+)-t", principal)[0], scope.partition("/vaults/kv-1/secrets/")[2])
        for _, principal, scope in found
    }
    assert readers == {
        ("app", "gateway-key"),
        ("app", "gateway-key-previous"),
        ("scaler", "scaler-key"),
        ("services", "service-key"),
    }
    few = assignments(predict("access.bicep", vaultName="kv-1", token="t", secrets=["gateway-key"]))
    assert len(few) == 1
    of_callbacks = ["shop-secret", "shop-secret-previous"]
    more = predict("access.bicep", vaultName="kv-1", token="t", secrets=[], callbackSecrets=of_callbacks)
    assert [scope.rpartition("/")[2] for _, _, scope in assignments(more)] == of_callbacks
    assert all("/id-app-t" in principal for _, principal, _ in assignments(more))


def test_destinations_of_callbacks_have_their_secrets_in_the_vault(predict: Predict, tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    listed = json.loads((INFRA / "services.json").read_text())
    shop = {"url": "https://shop.example.org/tasks", "secret_setting": "SHOP_SECRET", "owner": "shop"}
    listed["callbacks"] = {
        "shop": shop,
        "other": {"url": "https://other.example.org", "secret_setting": "SHOP_SECRET"},
    }
    (tmp_path / "infra" / "services.json").write_text(json.dumps(listed))

    given = settings(predict(str(tmp_path / "infra" / "main.bicep"), **MAIN))

    assert json.loads(given["CALLBACKS"]) == listed["callbacks"]
    for name, secret in (("SHOP_SECRET", "shop-secret"), ("SHOP_SECRET_PREVIOUS", "shop-secret-previous")):
        assert "@Microsoft.KeyVault(SecretUri=" in given[name]
        assert f"'{secret}')]" in given[name], "what Azure puts together when it deploys"


@pytest.mark.parametrize("preset", PRESETS)
def test_no_secret_is_in_an_output_or_a_setting(preset: str) -> None:
    text = json.dumps(snapshot(preset))
    for word in ("listKeys", "listSecrets", "AccountKey=", "SharedAccessSignature", "password="):
        assert word not in text
    given = settings(resources(preset))
    vault = one(preset, "Microsoft.KeyVault/vaults")["name"]
    references = {name for name, value in given.items() if "@Microsoft.KeyVault(" in value}
    assert references == {"GATEWAY_KEY", "GATEWAY_KEY_PREVIOUS"}
    for name, secret in (("GATEWAY_KEY", "gateway-key"), ("GATEWAY_KEY_PREVIOUS", "gateway-key-previous")):
        assert "@Microsoft.KeyVault(SecretUri=" in given[name]
        assert f"secrets/{secret})" in given[name]
        assert vault in given[name]


def test_the_address_of_the_webhook_is_a_secret_of_its_deployment(predict: Predict) -> None:
    template = (INFRA / "subscription.bicep").read_text()
    assert "@secure()\nparam endpointUrl string" in template
    [found] = predict(
        "subscription.bicep", topicName="topic-1", name="backend-webhook", endpointUrl="https://a/?code=x"
    )
    assert found["id"].endswith("/topics/topic-1/eventSubscriptions/backend-webhook")
    destination = found["properties"]["destination"]
    assert destination["endpointType"] == "WebHook"
    assert destination["properties"]["maxEventsPerBatch"] == 1
    assert found["properties"]["eventDeliverySchema"] == "EventGridSchema"
    assert one("dev", "Microsoft.EventGrid/topics")["properties"]["inputSchema"] == "EventGridSchema"
    [of_entra] = predict(
        "subscription.bicep",
        topicName="topic-1",
        name="backend-webhook",
        endpointUrl="https://a/",
        tenantId="t",
        audience="api://w",
    )
    secured = of_entra["properties"]["destination"]["properties"]
    assert secured["azureActiveDirectoryTenantId"] == "t"
    assert secured["azureActiveDirectoryApplicationIdOrUri"] == "api://w"


def test_entra_id_on_the_webhook_is_set_whole_or_not_at_all(predict: Predict) -> None:
    tenant = "77777777-0000-1111-2222-333333333333"
    given = settings(predict("main.bicep", **MAIN, webhookTenantId=tenant, webhookAudience="api://w"))
    assert (given["WEBHOOK_TENANT_ID"], given["WEBHOOK_AUDIENCE"]) == (tenant, "api://w")
    assert not given["WEBHOOK_AUTHORITY"].endswith("/")
    with pytest.raises(ValueError, match="webhookTenantId and webhookAudience together"):
        predict("main.bicep", **MAIN, webhookTenantId=tenant)


# --- Values that the compiler does not check ---


@pytest.mark.parametrize("preset", PRESETS)
def test_redis_keeps_what_it_is_given(preset: str) -> None:
    database = one(preset, "Microsoft.Cache/redisEnterprise/databases")
    properties = database["properties"]
    assert database["name"].endswith("/default")
    assert properties["evictionPolicy"] == "NoEviction"
    assert properties["clusteringPolicy"] == "NoCluster"
    assert properties["persistence"] == {"aofEnabled": True, "aofFrequency": "1s", "rdbEnabled": False}
    assert properties["port"] == 10000
    cache = one(preset, "Microsoft.Cache/redisEnterprise")["properties"]
    assert cache["highAvailability"] == ("Enabled" if preset == "prod" else "Disabled")
    assert cache["minimumTlsVersion"] == "1.2"
    assert (
        ":10000" in settings(resources(preset))["REDIS_CONNECTION_STRING"]
        or "properties.port" in (settings(resources(preset))["REDIS_CONNECTION_STRING"])
    )


@pytest.mark.parametrize(
    ("size", "policy"),
    [("Balanced_B20", "NoCluster"), ("Balanced_B50", "OSSCluster"), ("Balanced_B100", "OSSCluster")],
)
def test_redis_is_one_server_as_long_as_it_is_offered_as_one(predict: Predict, size: str, policy: str) -> None:
    given = {"location": "westeurope", "tags": {}, "name": "redis-1", "identityName": "id-app-1"}
    found = predict("modules/redis.bicep", **given, size=size, hasReplica=True, isPublic=True)
    [database] = [each for each in found if each["type"] == "Microsoft.Cache/redisEnterprise/databases"]
    assert database["properties"]["clusteringPolicy"] == policy


def test_redis_is_never_an_enterprise_cluster() -> None:
    """It says that it is no cluster, and refuses a script over two slots."""
    text = (INFRA / "modules" / "redis.bicep").read_text()
    assert {*re.findall(r"'(\w+Cluster)'", text)} == {"NoCluster", "OSSCluster"}


KNOWN: dict[str, set[Any]] = {
    "publicNetworkAccess": {"Enabled", "Disabled"},
    "accessKeysAuthentication": {"Disabled"},
    "highAvailability": {"Enabled", "Disabled"},
    "clientProtocol": {"Encrypted"},
    "inputSchema": {"EventGridSchema"},
    "minimumTlsVersion": {"1.2", "TLS1_2"},
    "minimumTlsVersionAllowed": {"1.2"},
    "minTlsVersion": {"1.2"},
    "scmMinTlsVersion": {"1.2"},
    "defaultAction": {"Allow", "Deny"},
    "ipSecurityRestrictionsDefaultAction": {"Allow", "Deny"},
    "scmIpSecurityRestrictionsDefaultAction": {"Allow", "Deny"},
    "bypass": {"AzureServices"},
    "networkRuleBypassOptions": {"AzureServices"},
    "zoneRedundancy": {"Enabled", "Disabled"},
    "publicAccess": {"None"},
    "networkPlugin": {"azure"},
    "networkPluginMode": {"overlay"},
    "networkDataplane": {"cilium"},
    "networkPolicy": {"cilium"},
    "loadBalancerSku": {"standard"},
    "outboundType": {"loadBalancer"},
    "upgradeChannel": {"patch"},
    "nodeOSUpgradeChannel": {"NodeImage"},
    "osSKU": {"AzureLinux"},
    "osType": {"Linux"},
    "mode": {"System", "User", "Enabled"},
    "installation": {"Standard"},
    "defaultIngressControllerType": {"None"},
    "ftpsState": {"Disabled"},
    "principalType": {"ServicePrincipal", "User", "Group"},
    "virtualNetworkType": {"None", "External"},
    "privateEndpointNetworkPolicies": {"Enabled"},
    "accessTier": {"Hot"},
}
"""What Azure documents of properties whose types are open, so that the compiler takes any text."""


def values(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield name, value
            yield from values(value)
    elif isinstance(node, list):
        for value in node:
            yield from values(value)


@pytest.mark.parametrize("preset", PRESETS)
def test_values_of_open_types_are_spelt_as_azure_knows_them(preset: str) -> None:
    seen = [(name, value) for name, value in values(resources(preset)) if name in KNOWN and isinstance(value, str)]
    assert [(name, value) for name, value in seen if value not in KNOWN[name]] == []
    assert {name for name, _ in seen} == {*KNOWN} - ({"privateEndpointNetworkPolicies"} if preset == "dev" else set())


SKUS = {
    "Microsoft.Storage/storageAccounts": {"dev": "Standard_LRS", "prod": "Standard_ZRS"},
    "Microsoft.Cache/redisEnterprise": {"dev": "Balanced_B0", "prod": "Balanced_B5"},
    "Microsoft.ContainerRegistry/registries": {"dev": "Basic", "prod": "Premium"},
    "Microsoft.ApiManagement/service": {"dev": "Consumption", "prod": "StandardV2"},
    "Microsoft.Web/serverfarms": {"dev": "FC1", "prod": "FC1"},
    "Microsoft.ContainerService/managedClusters": {"dev": "Base", "prod": "Base"},
}
"""What is paid for."""


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_has_the_tiers_that_the_page_of_costs_goes_by(preset: str) -> None:
    tiers = {each["type"]: each["sku"]["name"] for each in resources(preset) if "sku" in each}
    assert tiers == {kind: names[preset] for kind, names in SKUS.items()}
    cluster = one(preset, "Microsoft.ContainerService/managedClusters")
    assert cluster["sku"]["tier"] == ("Standard" if preset == "prod" else "Free")


# Pattern of the whole name, as Azure documents it (length included). The last part of the name counts.
NAMES = {
    "Microsoft.Resources/resourceGroups": r"[\w.()-]{0,89}[\w()-]",
    "Microsoft.Storage/storageAccounts": r"[a-z0-9]{3,24}",
    "Microsoft.Storage/storageAccounts/blobServices/containers": r"[a-z0-9](-?[a-z0-9]){2,62}",
    "Microsoft.KeyVault/vaults": r"[A-Za-z](-?[A-Za-z0-9]){1,22}[A-Za-z0-9]",
    "Microsoft.Cache/redisEnterprise": r"[A-Za-z0-9](-?[A-Za-z0-9]){0,59}",
    "Microsoft.EventGrid/topics": r"[A-Za-z0-9-]{3,50}",
    "Microsoft.ContainerRegistry/registries": r"[A-Za-z0-9]{5,50}",
    "Microsoft.Web/serverfarms": r"[A-Za-z0-9-]{1,60}",
    # 2 to 60 by Azure; the Functions host tells apps apart by the first 32.
    "Microsoft.Web/sites": r"[A-Za-z0-9][A-Za-z0-9-]{0,30}[A-Za-z0-9]",
    "Microsoft.ContainerService/managedClusters": r"[A-Za-z0-9]([\w-]{0,61}[A-Za-z0-9])?",
    "Microsoft.ApiManagement/service": r"[A-Za-z]([A-Za-z0-9-]{0,48}[A-Za-z0-9])?",
    "Microsoft.OperationalInsights/workspaces": r"[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]",
    "Microsoft.Insights/components": r"[\w.()-]{1,260}",
    "Microsoft.ManagedIdentity/userAssignedIdentities": r"[A-Za-z0-9][\w-]{2,127}",
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": r"[A-Za-z0-9][\w-]{2,119}",
    "Microsoft.Network/virtualNetworks": r"[A-Za-z0-9][\w.-]{0,62}\w",
    "Microsoft.Network/networkSecurityGroups": r"[A-Za-z0-9][\w.-]{0,78}\w",
    "Microsoft.Network/privateEndpoints": r"[A-Za-z0-9][\w.-]{0,78}\w",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_names_are_within_the_limits_of_azure(preset: str) -> None:
    for each in resources(preset):
        if each["type"] in NAMES:
            name = each["name"].rpartition("/")[2]
            assert re.fullmatch(NAMES[each["type"]], name), f"{each['type']} {name}"
    of_pools = [
        pool["name"]
        for cluster in resources(preset, "Microsoft.ContainerService/managedClusters")
        for pool in cluster["properties"]["agentPoolProfiles"]
    ]
    assert all(re.fullmatch(r"[a-z][a-z0-9]{0,11}", name) for name in of_pools)


def test_a_long_name_of_an_environment_makes_no_longer_name_but_of_its_group(predict: Predict) -> None:
    found = predict("main.bicep", **{**MAIN, "environmentName": "e" * 64})
    for each in found:
        if each["type"] in NAMES:
            assert re.fullmatch(NAMES[each["type"]], each["name"].rpartition("/")[2]), each["name"]


# --- Networks ---

DATA = {
    "Microsoft.Storage/storageAccounts": {"blob", "queue", "table"},
    "Microsoft.Cache/redisEnterprise": {"redisEnterprise"},
    "Microsoft.KeyVault/vaults": {"vault"},
    "Microsoft.EventGrid/topics": {"topic"},
    "Microsoft.ContainerRegistry/registries": {"registry"},
}
"""Each service with data, and the parts of it that a private endpoint leads to."""


def endpoints(found: list[Resource]) -> set[tuple[str, str]]:
    """(name of the target, part of it)"""
    made = set()
    for each in found:
        if each["type"] == "Microsoft.Network/privateEndpoints":
            [connection] = each["properties"]["privateLinkServiceConnections"]
            properties = connection["properties"]
            [part] = properties["groupIds"]
            made.add((properties["privateLinkServiceId"].rpartition("/")[2], part))
            assert each["properties"]["subnet"]["id"].endswith("/subnets/endpoints")
    return made


def publicly(found: list[Resource]) -> set[str]:
    """The services with data that have a public address, by the beginnings of their names."""
    return {
        each["name"].rstrip("0123456789")
        if False
        else re.split(r"-|(?<=^sthost)|(?<=^stbody)|(?<=^cr)", each["name"])[0]
        for each in found
        if each["type"] in DATA and each["properties"]["publicNetworkAccess"] == "Enabled"
    }


def test_in_prod_only_uploads_have_a_public_address_and_all_data_an_endpoint() -> None:
    found = resources("prod")
    assert publicly(found) == {"stbody"}, "parameter uploads: its signed URLs are for callers"
    targets = {each["name"]: each["type"] for each in found if each["type"] in DATA}
    made = endpoints(found)
    for name, kind in targets.items():
        parts = {"blob"} if name.startswith("stbody") else DATA[kind]
        assert {part for target, part in made if target == name} == parts, name
    app = one("prod", "Microsoft.Web/sites")
    assert (app["name"], "sites") in made
    zones = {
        each["properties"]["privateDnsZoneConfigs"][0]["name"] for each in found if "Configs" in json.dumps(each)
    }
    assert zones == {part for _, part in made}
    assert app["properties"]["virtualNetworkSubnetId"].endswith("/subnets/app")
    site = app["properties"]["siteConfig"]
    assert site["ipSecurityRestrictionsDefaultAction"] == "Deny"
    assert [each["ipAddress"] for each in site["ipSecurityRestrictions"]] == ["AzureEventGrid"]
    pool = one("prod", "Microsoft.ContainerService/managedClusters")["properties"]["agentPoolProfiles"][0]
    assert pool["vnetSubnetID"].endswith("/subnets/cluster")
    assert pool["availabilityZones"] == ["1", "2", "3"]
    gateway = one("prod", "Microsoft.ApiManagement/service")["properties"]
    assert gateway["virtualNetworkConfiguration"]["subnetResourceId"].endswith("/subnets/gateway")


def test_dev_has_no_network() -> None:
    found = resources("dev")
    assert publicly(found) == {"sthost", "stbody", "redis", "kv", "topic", "cr"}
    assert [each for each in found if each["type"].startswith("Microsoft.Network/")] == []


@pytest.mark.parametrize(
    ("uploads", "public", "most"),
    [("public", {"stbody"}, 100 * 1024 * _MIB), ("private", set(), None), ("off", set(), 0)],
)
def test_uploads_are_public_private_or_off(
    predict: Predict, uploads: str, public: set[str], most: int | None
) -> None:
    found = predict(
        "main.bicep",
        **MAIN,
        preset="prod",
        uploads=uploads,
        uploadOrigins="https://a.example.org, https://b.example.org",
    )
    assert publicly(found) == public
    given = settings(found)
    assert int(given["MAX_UPLOAD_BYTES"]) == (100 * 1024 * _MIB if most is None else most)
    assert "stbody" in given["BLOB_SERVICE_URI"]
    assert "sthost" in given["AzureWebJobsStorage__blobServiceUri"]
    rules = {
        each["name"].partition("/")[0][:6]: each["properties"]["cors"]["corsRules"]
        for each in found
        if each["type"] == "Microsoft.Storage/storageAccounts/blobServices"
    }
    assert rules["sthost"] == []
    assert rules["stbody"][0]["allowedOrigins"] == ["https://a.example.org", "https://b.example.org"]
    assert "*" not in rules["stbody"][0]["allowedOrigins"]


def test_private_uploads_need_a_private_network(predict: Predict) -> None:
    with pytest.raises(ValueError, match="uploads = private needs a private network"):
        predict("main.bicep", **MAIN, uploads="private")


@pytest.mark.parametrize(("preset", "network"), [("dev", "private"), ("prod", "public")])
def test_one_parameter_turns_the_network_on_or_off(predict: Predict, preset: str, network: str) -> None:
    found = predict("main.bicep", **MAIN, preset=preset, network=network)
    assert publicly(found) == (
        {"stbody"} if network == "private" else {"sthost", "stbody", "redis", "kv", "topic", "cr"}
    )
    assert len(endpoints(found)) == (9 if network == "private" else 0)


# --- The cluster ---


@pytest.mark.parametrize("preset", PRESETS)
def test_the_cluster_scales_by_keda_and_signs_in_by_workload_identity(preset: str) -> None:
    cluster = one(preset, "Microsoft.ContainerService/managedClusters")["properties"]
    assert cluster["workloadAutoScalerProfile"]["keda"]["enabled"] is True
    assert cluster["oidcIssuerProfile"]["enabled"] is True
    assert cluster["securityProfile"]["workloadIdentity"]["enabled"] is True
    assert cluster["ingressProfile"]["webAppRouting"]["enabled"] is True
    assert cluster["storageProfile"]["blobCSIDriver"]["enabled"] is True
    assert cluster["addonProfiles"]["omsagent"]["enabled"] is True
    subjects = {
        each["properties"]["subject"]
        for each in resources(preset, "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials")
    }
    services = json.loads((INFRA / "services.json").read_text())["services"]
    assert subjects == {
        "system:serviceaccount:kube-system:keda-operator",
        *(f"system:serviceaccount:models:{each['name']}" for each in services),
    }


def test_gpus_are_there_if_asked_for_and_only_for_what_asks_for_them(predict: Predict) -> None:
    assert resources("dev", "Microsoft.ContainerService/managedClusters/agentPools") == []
    found = predict("main.bicep", **MAIN, gpuNodeSize="Standard_NC4as_T4_v3")
    [pool] = [each for each in found if each["type"] == "Microsoft.ContainerService/managedClusters/agentPools"]
    properties = pool["properties"]
    assert properties["vmSize"] == "Standard_NC4as_T4_v3"
    assert properties["nodeTaints"] == ["nvidia.com/gpu=present:NoSchedule"]
    assert (properties["count"], properties["minCount"], properties["mode"]) == (0, 0, "User")
