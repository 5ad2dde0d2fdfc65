// Who acts: a managed identity for each part, so that each can be given only what it needs.

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of each.')
param names {
  app: string
  gateway: string
  cluster: string
  scaler: string
  services: string
}

resource app 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.app
  location: location
  tags: tags
}

resource gateway 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.gateway
  location: location
  tags: tags
}

resource cluster 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.cluster
  location: location
  tags: tags
}

resource scaler 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.scaler
  location: location
  tags: tags
}

resource services 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.services
  location: location
  tags: tags
}

@description('An identity, as others name it.')
type Identity = {
  id: string
  clientId: string
  principalId: string
}

@description('Of the function app.')
output app Identity = {
  id: app.id
  clientId: app.properties.clientId
  principalId: app.properties.principalId
}

@description('Of API Management.')
output gateway Identity = {
  id: gateway.id
  clientId: gateway.properties.clientId
  principalId: gateway.properties.principalId
}

@description('Of the control plane of the cluster.')
output cluster Identity = {
  id: cluster.id
  clientId: cluster.properties.clientId
  principalId: cluster.properties.principalId
}

@description('Of KEDA, which asks the app how long its queues are.')
output scaler Identity = {
  id: scaler.id
  clientId: scaler.properties.clientId
  principalId: scaler.properties.principalId
}

@description('Of the model services.')
output services Identity = {
  id: services.id
  clientId: services.properties.clientId
  principalId: services.properties.principalId
}
