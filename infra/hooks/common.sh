#!/bin/sh
# What both hooks use. azd gives them the outputs of main.bicep as variables.
set -eu

vault_api=2025-05-01
folder=$(mktemp -d)
# What a hook writes there may be a key.
chmod 700 "${folder}"
trap 'rm -rf "${folder}"' EXIT

say() { printf '%s\n' "$*"; }

# One sentence, what was said to us, without what could be a key in a URL, and how to go on.
fail() {
  say "$*" >&2
  if [ -s "${folder}/error" ]; then sed 's/code=[^"&[:space:]]*/code=.../g' "${folder}/error" >&2; fi
  say "Then go on with: azd hooks run ${hook}" >&2
  exit 1
}

# The variables that a hook needs. $1 is the name by which azd knows it.
need() {
  hook=$1
  shift
  for name in "$@"; do
    eval "value=\${${name}:-}"
    # shellcheck disable=SC2154 # eval has set it
    [ -n "${value}" ] || fail "${name} is not set: azd sets it, after azd provision."
  done
  command -v az >/dev/null || fail "There is no Azure CLI: install it, and sign in by az login."
  az account show --output none 2>"${folder}/error" || fail "The Azure CLI is not signed in: run az login, beside the sign-in of azd."
}

# 43 characters that a URL and JSON take as they are.
random_key() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }

# Whether the vault has a secret. Only "there is none" means that it has none: whatever else goes wrong must not make a
# new one. The way by Azure Resource Manager shows no values, and works where the vault has no public address.
has_secret() {
  if az rest --method get --url "${KEY_VAULT_ID}/secrets/$1?api-version=${vault_api}" --output none 2>"${folder}/error"; then
    return 0
  fi
  # Of the error alone: az writes its warnings beside it.
  if grep -q -e '^ERROR:.*SecretNotFound' -e '^ERROR:.*ResourceNotFound' -e '^ERROR: Not Found' "${folder}/error"; then
    return 1
  fi
  fail "Nobody knows whether the vault has the secret $1: may you read ${KEY_VAULT_ID}?"
}

# The value goes by a file, since a list of processes shows arguments.
put_secret() {
  printf '{"properties": {"value": "%s"}}' "$2" >"${folder}/secret.json"
  az rest --method put --url "${KEY_VAULT_ID}/secrets/$1?api-version=${vault_api}" --body "@${folder}/secret.json" \
    --output none 2>"${folder}/error" ||
    fail "The secret $1 cannot be written: you need a right to write into ${KEY_VAULT_ID}, and no deleted secret may have this name."
  say "The secret $1 is new."
}

# Lets each part read the secrets that it uses, of those that are there.
give_access() {
  of_callbacks=
  for name in ${CALLBACK_SECRETS:-}; do of_callbacks="${of_callbacks:+${of_callbacks}, }\"${name}\""; done
  az deployment group create --subscription "${AZURE_SUBSCRIPTION_ID}" --resource-group "${AZURE_RESOURCE_GROUP}" \
    --name access --template-file infra/access.bicep --output none \
    --parameters "vaultName=${KEY_VAULT_ID##*/}" "token=${RESOURCE_TOKEN}" "secrets=$1" "callbackSecrets=[${of_callbacks}]" 2>"${folder}/error" ||
    fail "The roles on the secrets cannot be given: you need to be owner, or user access administrator, of ${AZURE_RESOURCE_GROUP}."
}

# Has the app look for its secrets in the vault. It does so once a day by itself, whether it has found them or not.
refresh_app() {
  az rest --method post --url "${APP_ID}/config/configreferences/appsettings/refresh?api-version=2022-03-01" \
    --output none 2>"${folder}/error"
}
