// Who may read which secret, but for the gateway, whose roles are in apim/gateway.bicep. A hook deploys this once the secrets are there: a role can only be given on what exists.

@description('Name of the vault.')
@minLength(3)
@maxLength(24)
param vaultName string

@description('End of the names of the identities.')
@minLength(1)
param token string

@description('Names of the secrets that are there.')
param secrets string[]

@description('Names of the secrets that sign callbacks. They are there too.')
param callbackSecrets string[] = []

var allReaders = [
  {
    identity: 'app'
    secret: 'gateway-key'
    why: 'The app compares it with what the gateway sends.'
  }
  {
    identity: 'app'
    secret: 'gateway-key-previous'
    why: 'The app believes this one too, while the key is rotated.'
  }
  {
    identity: 'scaler'
    secret: 'scaler-key'
    why: 'KEDA asks the app with it how long a queue is.'
  }
  {
    identity: 'services'
    secret: 'service-key'
    why: 'The model services report to the app with it.'
  }
]
var readers = concat(
  filter(allReaders, each => contains(secrets, each.secret)),
  map(callbackSecrets, name => {
    identity: 'app'
    secret: name
    why: 'The app signs callbacks with it.'
  })
)
// Key Vault Secrets User.
var reading = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' existing = {
  name: vaultName
}

resource secret 'Microsoft.KeyVault/vaults/secrets@2025-05-01' existing = [
  for each in readers: {
    parent: vault
    name: each.secret
  }
]

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = [
  for each in readers: {
    name: 'id-${each.identity}-${token}'
  }
]

resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (each, index) in readers: {
    scope: secret[index]
    name: guid(secret[index].id, identity[index].id, reading)
    properties: {
      description: each.why
      principalId: identity[index].properties.principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', reading)
    }
  }
]
