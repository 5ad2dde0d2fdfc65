#!/bin/sh
# After "azd deploy": gives each client of the app a key of its own, deploys what the gateway serves, subscribes to the
# topic, and tries a task. It changes nothing that is right already, and goes on where an earlier run has failed.
set -eu

cd "$(dirname "$0")/../.."
. infra/hooks/common.sh
need postdeploy AZURE_SUBSCRIPTION_ID AZURE_RESOURCE_GROUP KEY_VAULT_ID KEY_VAULT_URI RESOURCE_TOKEN APP_ID APP_NAME APP_HOST \
  EVENT_GRID_TOPIC EVENT_GRID_SUBSCRIPTION GATEWAY_NAME GATEWAY_TIER GATEWAY_URL MAX_BODY_BYTES

# How often, and after how many seconds, what a new app may not answer yet is tried.
tries=${HOOK_TRIES:-20}
pause_s=${HOOK_PAUSE_S:-15}

# The key $2 of a function, or of the host for all functions (*), into ${folder}/found. Empty: there is none.
find_key() {
  left=${tries}
  while :; do
    if [ "$1" = '*' ]; then
      az functionapp keys list --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
        --name "${APP_NAME}" --query "functionKeys.\"$2\"" --output tsv >"${folder}/found" 2>"${folder}/error" && break
    else
      az functionapp function keys list --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
        --name "${APP_NAME}" --function-name "$1" --query "\"$2\"" --output tsv >"${folder}/found" 2>"${folder}/error" && break
    fi
    left=$((left - 1))
    [ "${left}" -gt 0 ] || fail "The app ${APP_NAME} does not tell the keys of $1: has its code started? Look at its log."
    # It does not start without its secrets, and a new role takes some minutes to apply.
    refresh_app || true
    sleep "${pause_s}"
  done
  tr -d '\r\n' <"${folder}/found" | sed 's/^None$//' >"${folder}/key"
}

# The value lies in ${folder}/key.
set_key() {
  if [ "$1" = '*' ]; then
    az functionapp keys set --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
      --name "${APP_NAME}" --key-type functionKeys --key-name "$2" --key-value "@${folder}/key" --output none 2>"${folder}/error" ||
      fail "The app ${APP_NAME} does not take the key $2: look at its log."
  else
    az functionapp function keys set --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
      --name "${APP_NAME}" --function-name "$1" --key-name "$2" --key-value "@${folder}/key" --output none 2>"${folder}/error" ||
      fail "The function $1 does not take the key $2: look at the log of ${APP_NAME}."
  fi
}

# Gives the functions $3... a key $2, and the vault its copy as the secret $1. The vault has it first: so a key that a
# function has is in the vault, however the run before has ended. Functions with different keys, as two runs at a time or
# half a rotation leave them, get one anew.
ensure_key() {
  secret=$1
  key=$2
  shift 2
  known=
  missing=
  for function in "$@"; do
    find_key "${function}" "${key}"
    if [ ! -s "${folder}/key" ]; then
      missing="${missing} ${function}"
    elif [ -n "${known}" ] && [ "${known}" != "$(cat "${folder}/key")" ]; then
      known=
      missing="$*"
      break
    else
      known=$(cat "${folder}/key")
    fi
  done
  if [ -z "${known}" ]; then
    known=$(random_key)
    put_secret "${secret}" "${known}"
  elif ! has_secret "${secret}"; then
    put_secret "${secret}" "${known}"
  fi
  printf %s "${known}" >"${folder}/key"
  set -f # a star is the host here, and no file
  for function in ${missing}; do set_key "${function}" "${key}"; done
  set +f
}

ensure_key function-key gateway '*'
ensure_key scaler-key scaler QueueDepths
ensure_key service-key service CacheConnectorUpsert CacheConnectorGet PutTaskResult CurrentProcessingUpsert TaskHeartbeat \
  TaskHeartbeats ReleaseTask NextStep GetCheckpoint PutCheckpoint CreateUpload
endpoint="https://${APP_HOST}/api/BackendWebhook"
if [ -z "${WEBHOOK_AUDIENCE:-}" ]; then
  ensure_key event-grid-key event-grid BackendWebhook
  endpoint="${endpoint}?code=$(cat "${folder}/key")"
fi
give_access '["gateway-key", "gateway-key-previous", "scaler-key", "service-key"]'

# A role takes some minutes to apply, and the gateway reads its secrets at once.
left=${tries}
until az deployment group create --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
  --name gateway --template-file infra/apim/gateway.bicep --output none --parameters @infra/apim/gateway.parameters.json \
  "apimName=${GATEWAY_NAME}" "appHostName=${APP_HOST}" "keyVaultUri=${KEY_VAULT_URI}" \
  "tier=${GATEWAY_TIER}" "maxBodyBytes=${MAX_BODY_BYTES}" 2>"${folder}/error"; do
  left=$((left - 1))
  [ "${left}" -gt 0 ] || fail "The gateway ${GATEWAY_NAME} does not take its APIs: may its identity read the secrets of ${KEY_VAULT_URI}?"
  sleep "${pause_s}"
done
say "The gateway serves the APIs."

# By a file, since the endpoint may have a key in it.
cat >"${folder}/subscription.json" <<END
{
  "\$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {
    "topicName": { "value": "${EVENT_GRID_TOPIC}" },
    "name": { "value": "${EVENT_GRID_SUBSCRIPTION}" },
    "endpointUrl": { "value": "${endpoint}" },
    "tenantId": { "value": "${WEBHOOK_TENANT_ID:-}" },
    "audience": { "value": "${WEBHOOK_AUDIENCE:-}" }
  }
}
END
left=${tries}
until az deployment group create --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
  --name event-subscription --template-file infra/subscription.bicep --output none \
  --parameters "@${folder}/subscription.json" 2>"${folder}/error"; do
  grep -q -i -e 'handshake' -e 'validation' "${folder}/error" ||
    fail "The topic ${EVENT_GRID_TOPIC} takes no subscription: is the provider Microsoft.EventGrid registered, and may you write to the topic?"
  left=$((left - 1))
  [ "${left}" -gt 0 ] ||
    fail "The webhook https://${APP_HOST}/api/BackendWebhook does not answer the handshake of Event Grid: is /api/v1/health ok?"
  sleep "${pause_s}"
done
say "Event Grid delivers to the app."

# The key of the gateway's subscription for the first task. It is shown to nobody: the command asks for it.
gateway_id="/subscriptions/${AZURE_SUBSCRIPTION_ID}/resourceGroups/${AZURE_RESOURCE_GROUP}/providers/Microsoft.ApiManagement/service/${GATEWAY_NAME}"
smoke_key="${gateway_id}/subscriptions/smoke/listSecrets?api-version=2024-05-01"
say "The first task, once a model service runs (docs/deploy.md):"
say ""
say "  KEY=\$(az rest --method post --url '${smoke_key}' --query primaryKey --output tsv)"
say "  curl -i -H \"Ocp-Apim-Subscription-Key: \$KEY\" -H 'Content-Type: text/plain' --data-binary 'to be or not to be' ${GATEWAY_URL}/api/v1/submit${SMOKE_PATH:-/v1/words/count}"
say ""
if [ -z "${SMOKE_PATH:-}" ]; then
  say "No task was tried: azd env set SMOKE_PATH /v1/words/count names an endpoint to try, as soon as its service runs."
  exit 0
fi
KEY=$(az rest --method post --url "${smoke_key}" --query primaryKey --output tsv 2>"${folder}/error") ||
  fail "The gateway ${GATEWAY_NAME} does not tell the key of its subscription smoke: may you list its secrets?"
export KEY
sh infra/smoke.sh "${GATEWAY_URL}/api/v1/submit${SMOKE_PATH}"
