// Everything that the backbone needs in Azure, in one resource group. "azd up" deploys it (docs/deploy.md).

targetScope = 'subscription'

import { presets } from 'presets.bicep'

@description('Name of the environment: of the resource group too, and, with subscription and region, what all other names are made of.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Region of all resources.')
@minLength(1)
param location string

@description('Size of the deployment: dev is the cheapest that works; prod has zones, replicas and a network of its own.')
param preset 'dev' | 'prod' = 'dev'

@description('Whether a network of its own and private endpoints are the only way to the data; preset: as the preset says.')
param network 'preset' | 'public' | 'private' = 'preset'

@description('What Redis must have done before the app calls something stored: taken it into memory, sent it to a replica, or written it to its disk.')
param durability 'none' | 'replica' | 'fsync' = 'none'

@description('Uploads and URLs of large results: for anybody who has a signed URL, from the network only, or none at all (501).')
param uploads 'public' | 'private' | 'off' = 'public'

@description('Origins whose pages may use the URLs of uploads, with commas between them: https://app.example.org')
param uploadOrigins string = ''

@description('Size of the virtual machines with a GPU, such as Standard_NC4as_T4_v3. Empty: none.')
param gpuNodeSize string = ''

@description('Address to which API Management sends its notices.')
@minLength(3)
param publisherEmail string

@description('Who publishes the APIs.')
@minLength(1)
param publisherName string = 'Task backbone'

@description('Who is told of alerts, by e-mail. Empty: nobody, and there are no alerts.')
param alertEmail string = ''

@description('Address of docs/monitoring.md, with the runbooks, as those on call can open it. Alerts name it.')
param runbooks string = 'docs/monitoring.md'

@description('Tenant of the application that secures the webhook with Entra ID. Empty: the webhook has a key.')
param webhookTenantId string = ''

@description('That application, by its id or URI. Set it together with webhookTenantId.')
param webhookAudience string = ''

@description('Object id of who deploys, and is to use the cluster. Empty: nobody.')
param principalId string = ''

@description('What that is.')
param principalType 'User' | 'ServicePrincipal' | 'Group' = 'User'

var size = presets[preset]
var isPrivate = network == 'preset' ? size.isPrivate : network == 'private'
// The account of bodies has a public address if callers use it, whatever the network is like.
var areBodiesPublic = !isPrivate || uploads == 'public'
var checkedUploads = uploads == 'private' && !isPrivate
  ? fail('uploads = private needs a private network: nobody could reach the account.')
  : uploads
var webhook = empty(webhookTenantId) != empty(webhookAudience)
  ? fail('Set webhookTenantId and webhookAudience together.')
  : empty(webhookAudience) ? null : { tenantId: webhookTenantId, audience: webhookAudience }

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = {
  'azd-env-name': environmentName
}
var names = {
  workspace: 'log-${token}'
  insights: 'appi-${token}'
  onCall: 'ag-${token}'
  hostStorage: 'sthost${token}'
  bodiesStorage: 'stbody${token}'
  bodiesContainer: 'task-backbone'
  codeContainer: 'code'
  redis: 'redis-${token}'
  topic: 'topic-${token}'
  subscription: 'backend-webhook'
  vault: 'kv-${token}'
  registry: 'cr${token}'
  plan: 'plan-${token}'
  app: 'func-${token}'
  gateway: 'apim-${token}'
  cluster: 'aks-${token}'
  network: 'vnet-${token}'
  serviceNamespace: 'models'
  identities: {
    app: 'id-app-${token}'
    gateway: 'id-gateway-${token}'
    cluster: 'id-cluster-${token}'
    scaler: 'id-scaler-${token}'
    services: 'id-services-${token}'
  }
}

// Names are known before anything is there, and so are ids: what is deployed can be told without Azure.
func idOf(groupName string, type string, name string) string =>
  resourceId(subscription().subscriptionId, groupName, type, name)

var networkId = idOf('rg-${environmentName}', 'Microsoft.Network/virtualNetworks', names.network)
var subnetIds = isPrivate
  ? {
      app: '${networkId}/subnets/app'
      gateway: '${networkId}/subnets/gateway'
      endpoints: '${networkId}/subnets/endpoints'
      cluster: '${networkId}/subnets/cluster'
    }
  : null

// The one list of model services, as BACKENDS has it: what is no property of an entry there is taken out.
var list = loadJsonContent('services.json')
var backends = union(
  toObject(
    list.services,
    service => service.path,
    service =>
      toObject(
        filter(items(service), property => !contains(['name', 'path'], property.key)),
        property => property.key,
        property => property.value
      )
  ),
  { pipelines: list.pipelines }
)

// Younger than this, a blob may be of a task that lives: one that was uploaded in good time, had its start far ahead,
// waited, ran, was held by its batch and was kept. And a day, since the account looks once a day.
var lifetimes = size.lifetimes
var waitsS = lifetimes.uploadS + lifetimes.delayS + lifetimes.waitS
var longestLifeS = waitsS + lifetimes.runS + lifetimes.batchIdleS + lifetimes.retentionS
var orphanDays = (longestLifeS + 86399) / 86400 + 1

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module monitoring 'modules/monitoring.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    workspaceName: names.workspace
    insightsName: names.insights
    retentionDays: size.telemetryDays
    dailyGb: size.telemetryGbADay
  }
}

module workbook 'monitor/workbook.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    insightsName: names.insights
  }
  dependsOn: [
    monitoring
  ]
}

module alerts 'monitor/alerts.bicep' = if (!empty(alertEmail)) {
  scope: group
  params: {
    location: location
    tags: tags
    insightsName: names.insights
    groupName: names.onCall
    token: token
    email: alertEmail
    runbooks: runbooks
    isAlwaysAwake: size.app.alwaysReady > 0
    leases: concat(
      [{ prefix: '', leaseS: lifetimes.leaseS }],
      map(
        filter(list.services, service => contains(service, 'lease_s')),
        service => { prefix: service.path, leaseS: service.lease_s }
      )
    )
    thresholds: size.alerts
  }
  dependsOn: [
    monitoring
  ]
}

module identities 'modules/identities.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    names: names.identities
  }
}

module privateNetwork 'modules/network.bicep' = if (isPrivate) {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.network
  }
}

module hostStorage 'modules/storage.bicep' = {
  scope: group
  name: 'host-storage'
  params: {
    location: location
    tags: tags
    name: names.hostStorage
    isZoned: size.isZoned
    isPublic: !isPrivate
    containers: [names.codeContainer]
  }
}

module bodiesStorage 'modules/storage.bicep' = {
  scope: group
  name: 'bodies-storage'
  params: {
    location: location
    tags: tags
    name: names.bodiesStorage
    isZoned: size.isZoned
    isPublic: areBodiesPublic
    containers: [names.bodiesContainer]
    corsOrigins: filter(map(split(uploadOrigins, ','), origin => trim(origin)), origin => !empty(origin))
    // Bodies and results of tasks, and uploads. Nothing else that the container may have is touched.
    orphanPrefixes: ['${names.bodiesContainer}/t-', '${names.bodiesContainer}/u-']
    orphanDays: orphanDays
  }
}

module redis 'modules/redis.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.redis
    size: size.redis.size
    hasReplica: size.redis.hasReplica
    isPublic: !isPrivate
    identityName: names.identities.app
  }
  dependsOn: [
    identities
  ]
}

module events 'modules/eventgrid.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.topic
    isPublic: !isPrivate
  }
}

module vault 'modules/keyvault.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.vault
    isPublic: !isPrivate
    isProtected: size.isProtected
    workspaceName: names.workspace
  }
  dependsOn: [
    monitoring
  ]
}

module registry 'modules/acr.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.registry
    tier: size.registryTier
    isPublic: !isPrivate
    isZoned: size.isZoned
  }
}

module app 'modules/functions.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.app
    planName: names.plan
    size: size.app
    lifetimes: lifetimes
    isZoned: size.isZoned
    subnetId: subnetIds.?app
    uses: {
      identity: names.identities.app
      hostStorage: names.hostStorage
      codeContainer: names.codeContainer
      bodiesStorage: names.bodiesStorage
      bodiesContainer: names.bodiesContainer
      topic: names.topic
      subscription: names.subscription
      vault: names.vault
    }
    clientId: identities.outputs.appClientId
    redisHost: redis.outputs.hostName
    durability: durability
    topicUri: events.outputs.endpoint
    insightsConnection: monitoring.outputs.connectionString
    insightsId: idOf(group.name, 'Microsoft.Insights/components', names.insights)
    maxUploadBytes: checkedUploads == 'off' ? 0 : 107374182400
    webhook: webhook
    backends: backends
    callbacks: list.callbacks
  }
  dependsOn: [
    bodiesStorage
    hostStorage
    privateNetwork
    vault
  ]
}

module cluster 'modules/aks.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    name: names.cluster
    size: size.cluster
    gpuNodeSize: empty(gpuNodeSize) ? null : gpuNodeSize
    isZoned: size.isZoned
    subnetId: subnetIds.?cluster
    identityName: names.identities.cluster
    workspaceName: names.workspace
    scalerIdentityName: names.identities.scaler
    servicesIdentityName: names.identities.services
    serviceNames: map(list.services, service => service.name)
    serviceNamespace: names.serviceNamespace
  }
  dependsOn: [
    identities
    monitoring
    privateNetwork
  ]
}

module roles 'modules/roles.bicep' = {
  scope: group
  params: {
    deployer: empty(principalId) ? null : { principalId: principalId, principalType: principalType }
    names: {
      hostStorage: names.hostStorage
      bodiesStorage: names.bodiesStorage
      bodiesContainer: names.bodiesContainer
      topic: names.topic
      insights: names.insights
      registry: names.registry
      cluster: names.cluster
      appIdentity: names.identities.app
      gatewayIdentity: names.identities.gateway
      clusterIdentity: names.identities.cluster
    }
    networkName: isPrivate ? names.network : null
  }
  dependsOn: [
    bodiesStorage
    cluster
    events
    hostStorage
    identities
    monitoring
    privateNetwork
    registry
  ]
}

module gateway 'apim/service.bicep' = {
  scope: group
  params: {
    name: names.gateway
    location: location
    tags: tags
    sku: size.gatewayTier
    publisherEmail: publisherEmail
    publisherName: publisherName
    identityId: idOf(group.name, 'Microsoft.ManagedIdentity/userAssignedIdentities', names.identities.gateway)
    identityClientId: identities.outputs.gatewayClientId
    appInsightsId: idOf(group.name, 'Microsoft.Insights/components', names.insights)
    appInsightsConnectionString: monitoring.outputs.connectionString
    subnetId: subnetIds.?gateway ?? ''
  }
  dependsOn: [
    privateNetwork
    roles
  ]
}

// Each service with data has one endpoint for each part of it that somebody uses. The account of uploads has one even if
// it has a public address too: the app and the model services use it.
var endpoints = [
  { part: 'blob', name: 'host-blob', type: 'Microsoft.Storage/storageAccounts', target: names.hostStorage }
  { part: 'queue', name: 'host-queue', type: 'Microsoft.Storage/storageAccounts', target: names.hostStorage }
  { part: 'table', name: 'host-table', type: 'Microsoft.Storage/storageAccounts', target: names.hostStorage }
  { part: 'blob', name: 'bodies-blob', type: 'Microsoft.Storage/storageAccounts', target: names.bodiesStorage }
  { part: 'redisEnterprise', name: 'redis', type: 'Microsoft.Cache/redisEnterprise', target: names.redis }
  { part: 'vault', name: 'vault', type: 'Microsoft.KeyVault/vaults', target: names.vault }
  { part: 'topic', name: 'topic', type: 'Microsoft.EventGrid/topics', target: names.topic }
  { part: 'registry', name: 'registry', type: 'Microsoft.ContainerRegistry/registries', target: names.registry }
  { part: 'sites', name: 'app', type: 'Microsoft.Web/sites', target: names.app }
]

module endpoint 'modules/endpoint.bicep' = [
  for each in endpoints: if (isPrivate) {
    scope: group
    name: 'endpoint-${each.name}'
    params: {
      location: location
      tags: tags
      name: 'pe-${each.name}-${token}'
      subnetId: subnetIds!.endpoints
      targetId: idOf(group.name, each.type, each.target)
      groupId: each.part
      zoneId: privateNetwork!.outputs.zoneIds[each.part]
    }
    dependsOn: [
      app
      bodiesStorage
      events
      hostStorage
      redis
      registry
      vault
    ]
  }
]

// azd keeps these in the environment, where the hooks and you read them. None is secret.

@description('Tenant.')
output AZURE_TENANT_ID string = tenant().tenantId

@description('Resource group.')
output AZURE_RESOURCE_GROUP string = group.name

@description('The registry, for images of model services.')
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = registry.outputs.loginServer

@description('The cluster.')
output AZURE_AKS_CLUSTER_NAME string = cluster.outputs.name

@description('Resource id of the app.')
output APP_ID string = app.outputs.id

@description('Name of the app.')
output APP_NAME string = app.outputs.name

@description('Host name of the app.')
output APP_HOST string = app.outputs.hostName

@description('Names of the secrets that sign callbacks, with blanks between them.')
output CALLBACK_SECRETS string = app.outputs.callbackSecrets

@description('Resource id of the vault.')
output KEY_VAULT_ID string = vault.outputs.id

@description('Address of the vault, with a slash at the end.')
output KEY_VAULT_URI string = vault.outputs.uri

@description('Name of the topic.')
output EVENT_GRID_TOPIC string = names.topic

@description('Name of the event subscription, which the hook makes.')
output EVENT_GRID_SUBSCRIPTION string = names.subscription

@description('Tenant of the application that secures the webhook. Empty: the webhook has a key.')
output WEBHOOK_TENANT_ID string = webhookTenantId

@description('That application.')
output WEBHOOK_AUDIENCE string = webhookAudience

@description('Name of the gateway.')
output GATEWAY_NAME string = gateway.outputs.name

@description('Which policies the gateway can run.')
output GATEWAY_TIER string = size.gatewayTier == 'Consumption' ? 'consumption' : 'v2'

@description('Address of the gateway.')
output GATEWAY_URL string = gateway.outputs.gatewayUrl

@description('Largest body, in bytes.')
output MAX_BODY_BYTES int = size.app.bodyBytes

@description('End of the names of the identities.')
output RESOURCE_TOKEN string = token

@description('Client id of KEDA\'s identity, for the charts.')
output SCALER_CLIENT_ID string = identities.outputs.scalerClientId

@description('Client id of the model services\' identity, for the charts.')
output SERVICES_CLIENT_ID string = identities.outputs.servicesClientId

@description('Namespace of the model services, in the cluster.')
output SERVICE_NAMESPACE string = names.serviceNamespace
