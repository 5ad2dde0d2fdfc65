// Who may do what. Each assignment says why, and reaches one resource. Roles on secrets are in ../access.bicep, since
// the secrets are made later.

@description('Object id of the person or the workflow that deploys, and is to use the cluster.')
param deployer {
  principalId: string
  principalType: 'User' | 'ServicePrincipal' | 'Group'
}?

@description('Names of the resources.')
param names {
  hostStorage: string
  bodiesStorage: string
  bodiesContainer: string
  topic: string
  insights: string
  registry: string
  cluster: string
  appIdentity: string
  gatewayIdentity: string
  clusterIdentity: string
}

@description('Name of the network, in a private deployment.')
param networkName string?

var roles = {
  acrPull: '7f951dda-4ed3-4680-a7ca-43fe172d538d'
  clusterAdmin: 'b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b'
  eventGridSender: 'd5a91429-5739-47e2-a06b-3470a27159e7'
  metricsPublisher: '3913510d-42f4-4e42-8a64-420c390055eb'
  networkContributor: '4d97b98b-1d4f-4787-a291-c67834d212e7'
  blobContributor: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
  blobDelegator: 'db58b8e5-c6ad-4a2a-8342-4190687cbf4a'
  blobOwner: 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  queueContributor: '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
  tableContributor: '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
}

resource app 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: names.appIdentity
}

resource gateway 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: names.gatewayIdentity
}

resource controlPlane 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: names.clusterIdentity
}

resource host 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: names.hostStorage
}

resource bodies 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: names.bodiesStorage

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource container 'containers' existing = {
      name: names.bodiesContainer
    }
  }
}

resource topic 'Microsoft.EventGrid/topics@2025-02-15' existing = {
  name: names.topic
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: names.insights
}

resource registry 'Microsoft.ContainerRegistry/registries@2025-11-01' existing = {
  name: names.registry
}

resource cluster 'Microsoft.ContainerService/managedClusters@2025-10-01' existing = {
  name: names.cluster
}

resource network 'Microsoft.Network/virtualNetworks@2025-05-01' existing = if (networkName != null) {
  name: networkName!

  resource nodes 'subnets' existing = {
    name: 'cluster'
  }
}

var ofTheHost = [
  {
    role: roles.blobOwner
    why: 'The Functions host keeps its code, its keys and the leases of its timers there.'
  }
  {
    role: roles.queueContributor
    why: 'The Functions host checks its account with a queue.'
  }
  {
    role: roles.tableContributor
    why: 'The Functions host writes its diagnostic events to a table.'
  }
]

resource hostRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for each in ofTheHost: {
    scope: host
    name: guid(host.id, app.id, each.role)
    properties: {
      description: each.why
      principalId: app.properties.principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', each.role)
    }
  }
]

resource bodiesRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: bodies::blobs::container
  name: guid(bodies::blobs::container.id, app.id, roles.blobContributor)
  properties: {
    description: 'The app writes, reads and deletes bodies and results, and callers do by URLs that it signs.'
    principalId: app.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.blobContributor)
  }
}

resource delegation 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: bodies
  name: guid(bodies.id, app.id, roles.blobDelegator)
  properties: {
    description: 'The app signs URLs with a key that the account delegates to it. No container can give this right.'
    principalId: app.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.blobDelegator)
  }
}

resource publishing 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: topic
  name: guid(topic.id, app.id, roles.eventGridSender)
  properties: {
    description: 'The app publishes its events.'
    principalId: app.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.eventGridSender)
  }
}

resource telemetry 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: insights
  name: guid(insights.id, app.id, roles.metricsPublisher)
  properties: {
    description: 'The app and its host send telemetry. Application Insights takes no key.'
    principalId: app.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.metricsPublisher)
  }
}

resource gatewayTelemetry 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: insights
  name: guid(insights.id, gateway.id, roles.metricsPublisher)
  properties: {
    description: 'The gateway sends telemetry. Application Insights takes no key.'
    principalId: gateway.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.metricsPublisher)
  }
}

resource pulling 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: registry
  name: guid(registry.id, cluster.id, roles.acrPull)
  properties: {
    description: 'The nodes pull the images of the model services.'
    principalId: cluster.properties.identityProfile.kubeletidentity.objectId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrPull)
  }
}

resource joining 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (networkName != null) {
  scope: network::nodes
  name: guid(network::nodes.id, controlPlane.id, roles.networkContributor)
  properties: {
    description: 'The cluster puts its nodes and its load balancer into its subnet.'
    principalId: controlPlane.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.networkContributor)
  }
}

resource administering 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (deployer != null) {
  scope: cluster
  name: guid(cluster.id, deployer.?principalId ?? '', roles.clusterAdmin)
  properties: {
    description: 'Who deploys installs charts. The cluster knows no local accounts.'
    principalId: deployer!.principalId
    principalType: deployer!.principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.clusterAdmin)
  }
}
