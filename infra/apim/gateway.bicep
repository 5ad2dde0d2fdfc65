// What the gateway serves: named values from Key Vault, backends, fragments, products and APIs, as apis.json lists them.
// What an operator decides is in gateway.parameters.json, so that a second deployment does not undo it.
// It is deployed after the secrets are in Key Vault: API Management reads them at once.

@description('Name of the API Management service.')
param apimName string

@description('Host name of the function app.')
param appHostName string

@description('URI of the Key Vault, with a slash at its end.')
param keyVaultUri string

@description('Which policies the tier can run: consumption has no cache, no limit by owner and no circuit breaker.')
@allowed([
  'consumption'
  'v2'
])
param tier string

@description('Who owns a task: the subscription by which it came, or whom a token names.')
@allowed([
  'subscription'
  'jwt'
])
param owner string

@description('URL of the OpenID configuration of who issues the tokens. Needed for the owner jwt.')
param openIdConfigurationUrl string

@description('Audience of the tokens. Needed for the owner jwt.')
param tokenAudience string

@description('Claim of the token that names the owner.')
param ownerClaim string

@description('URL by which callers reach the gateway, without a slash at its end. Empty: its own.')
param gatewayUrl string

@description('Largest body, in bytes: MaxBodyBytes of the app\'s health.')
@minValue(1)
param maxBodyBytes int

@description('Calls a minute of each owner; in the Consumption tier of each subscription.')
@minValue(1)
param callsPerMinute int

@description('Calls in 30 days of each subscription.')
@minValue(1)
param callsPerMonth int

@description('Origins of the pages that may call the gateway, beside the developer portal.')
param corsOrigins string[]

var gateway = loadJsonContent('apis.json')
var services = loadJsonContent('../services.json').services

// Every file by the name that apis.json has for it.
var texts = {
  '': ''
  callers: loadTextContent('policies/callers.xml')
  content: loadTextContent('policies/content.xml')
  'legacy-status': loadTextContent('policies/legacy-status.xml')
  'legacy-submit': loadTextContent('policies/legacy-submit.xml')
  operators: loadTextContent('policies/operators.xml')
  page: loadTextContent('policies/page.xml')
  product: loadTextContent('policies/product.xml')
  queues: loadTextContent('policies/queues.xml')
  status: loadTextContent('policies/status.xml')
  'status-consumption': loadTextContent('policies/status-consumption.xml')
  submit: loadTextContent('policies/submit.xml')
}
var fragmentTexts = {
  error: loadTextContent('policies/fragments/error.xml')
  'legacy-task': loadTextContent('policies/fragments/legacy-task.xml')
  'limits-by-owner': loadTextContent('policies/fragments/limits-by-owner.xml')
  'limits-by-subscription': loadTextContent('policies/fragments/limits-by-subscription.xml')
  'operator-jwt': loadTextContent('policies/fragments/operator-jwt.xml')
  'operator-subscription': loadTextContent('policies/fragments/operator-subscription.xml')
  'owner-jwt': loadTextContent('policies/fragments/owner-jwt.xml')
  'owner-subscription': loadTextContent('policies/fragments/owner-subscription.xml')
  request: loadTextContent('policies/fragments/request.xml')
  response: loadTextContent('policies/fragments/response.xml')
}

// The operations of openapi.json by their names: what the gateway says of an operation is what the document says.
var documented = toObject(
  flatten(map(
    items(loadJsonContent('../../docs/openapi.json', 'paths')),
    path => map(items(path.value), method => method.value)
  )),
  operation => operation.operationId
)

// Each model service has an API at its path, as on the former platform.
var apis = concat(
  gateway.apis,
  map(
    services,
    entry =>
      union(gateway.service, {
        name: entry.name
        displayName: entry.name
        description: 'Tasks for the model service ${entry.name}.'
        path: substring(entry.path, 1)
      })
  )
)
var subscriptionsOf = flatten(map(
  gateway.products,
  product => map(product.subscriptions, name => { name: name, product: product.name })
))

var chosen = union(gateway.variants.tier[tier], gateway.variants.owner[owner])
// A list of origins cannot be empty, and the Consumption tier has no portal.
var origins = concat([service.properties.?developerPortalUrl ?? service.properties.gatewayUrl], corsOrigins)
var originElements = join(map(origins, origin => '<origin>${origin}</origin>'), '')
var plain = {
  'calls-per-minute': string(callsPerMinute)
  'calls-per-month': string(callsPerMonth)
  'gateway-url': empty(gatewayUrl) ? service.properties.gatewayUrl : gatewayUrl
  'max-body-bytes': string(maxBodyBytes)
  'openid-configuration-url': openIdConfigurationUrl
  'owner-claim': ownerClaim
  'token-audience': tokenAudience
}

resource service 'Microsoft.ApiManagement/service@2024-05-01' existing = {
  name: apimName
}

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' existing = {
  name: split(replace(keyVaultUri, 'https://', ''), '.')[0]
}

resource vaultSecrets 'Microsoft.KeyVault/vaults/secrets@2025-05-01' existing = [
  for name in gateway.namedValues.secrets: {
    parent: vault
    name: name
  }
]

// Key Vault Secrets User. A role takes some minutes to apply: the first deployment may have to be repeated.
var reading = '4633458b-17de-408a-b874-0445c86b69e6'

resource readers 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (name, index) in gateway.namedValues.secrets: {
    scope: vaultSecrets[index]
    name: guid(vaultSecrets[index].id, service.id, reading)
    properties: {
      description: 'The gateway sends it to the app.'
      principalId: service.identity.principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', reading)
    }
  }
]

resource secrets 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = [
  for name in gateway.namedValues.secrets: {
    parent: service
    name: name
    properties: {
      displayName: name
      secret: true
      // Without a version: the service looks for a new one every four hours, or when it is told to. Without a client id:
      // by its own identity, the only one that a vault with a firewall lets in.
      keyVault: {
        secretIdentifier: '${keyVaultUri}secrets/${name}'
      }
    }
    dependsOn: [
      readers
    ]
  }
]

resource values 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = [
  for name in gateway.namedValues.texts: {
    parent: service
    name: name
    properties: {
      displayName: name
      // A named value cannot be empty.
      value: empty(plain[name]) ? 'none' : plain[name]
    }
  }
]

// While the breaker is open, the gateway answers 503 itself. It stays open for as long as the app's Retry-After says.
resource backends 'Microsoft.ApiManagement/service/backends@2024-05-01' = [
  for backend in gateway.backends: {
    parent: service
    name: backend.name
    properties: {
      url: 'https://${appHostName}${backend.path}'
      protocol: 'http'
      description: 'The function app'
      tls: {
        validateCertificateChain: true
        validateCertificateName: true
      }
      circuitBreaker: tier == 'consumption' ? null : backend.circuitBreaker
    }
  }
]

resource fragments 'Microsoft.ApiManagement/service/policyFragments@2024-05-01' = [
  for name in gateway.fragments: {
    parent: service
    name: name
    properties: {
      format: 'xml'
      value: fragmentTexts[?chosen[?name] ?? name]
    }
    dependsOn: [
      secrets
      values
      backends
    ]
  }
]

resource products 'Microsoft.ApiManagement/service/products@2024-05-01' = [
  for product in gateway.products: {
    parent: service
    name: product.name
    properties: {
      displayName: product.displayName
      description: product.description
      state: 'published'
      subscriptionRequired: true
      approvalRequired: true
    }
  }
]

resource productPolicies 'Microsoft.ApiManagement/service/products/policies@2024-05-01' = [
  for (product, index) in gateway.products: {
    parent: products[index]
    name: 'policy'
    properties: {
      format: 'xml'
      value: texts[product.policy]
    }
    dependsOn: [
      values
    ]
  }
]

resource subscriptions 'Microsoft.ApiManagement/service/subscriptions@2024-05-01' = [
  for subscription in subscriptionsOf: {
    parent: service
    name: subscription.name
    properties: {
      displayName: subscription.name
      scope: resourceId('Microsoft.ApiManagement/service/products', apimName, subscription.product)
      state: 'active'
    }
    dependsOn: [
      products
    ]
  }
]

// One after another: an API Management service refuses changes of one thing at the same time.
@batchSize(1)
module apiModules 'api.bicep' = [
  for api in apis: {
    name: 'gateway-${api.name}'
    params: {
      apimName: apimName
      name: api.name
      displayName: api.displayName
      purpose: api.description
      path: api.path
      product: api.product
      policy: replace(texts[api.policy], '<origin>{{cors-origins}}</origin>', originElements)
      operations: map(
        api.operations,
        operation =>
          union(operation, {
            policy: texts[chosen[?operation.policy] ?? operation.policy]
            document: documented[?operation.name] ?? {}
          })
      )
    }
    dependsOn: [
      products
      fragments
    ]
  }
]

@description('URL by which callers reach the gateway, without a slash at its end.')
output gatewayUrl string = plain['gateway-url']
