#!/bin/sh
# After "azd provision": makes the keys between gateway and app, and the secrets that sign callbacks, once, at random, and
# lets the app read them. It changes none that is there.
set -eu

cd "$(dirname "$0")/../.."
. infra/hooks/common.sh
need postprovision AZURE_SUBSCRIPTION_ID AZURE_RESOURCE_GROUP KEY_VAULT_ID RESOURCE_TOKEN APP_ID

# The previous key exists from the start, and nobody knows it: so the app's reference to it always leads somewhere.
for name in gateway-key gateway-key-previous; do
  if ! has_secret "${name}"; then
    put_secret "${name}" "$(random_key)"
  fi
done
# In the form of Standard Webhooks. A deployment without destinations has none.
for name in ${CALLBACK_SECRETS:-}; do
  if ! has_secret "${name}"; then
    put_secret "${name}" "whsec_$(head -c 32 /dev/urandom | base64 | tr -d '\n')"
  fi
done
give_access '["gateway-key", "gateway-key-previous"]'

# The app has looked for them already, perhaps in vain.
refresh_app || fail "The app could not be told to look for its keys: restart it once."
say "The keys between gateway and app are there."
