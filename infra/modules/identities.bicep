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

@description('Client id of the app\'s.')
output appClientId string = app.properties.clientId

@description('Client id of the gateway\'s.')
output gatewayClientId string = gateway.properties.clientId

@description('Client id of KEDA\'s.')
output scalerClientId string = scaler.properties.clientId

@description('Client id of the model services\'.')
output servicesClientId string = services.properties.clientId
