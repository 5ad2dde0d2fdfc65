// The registry of the model services' images. Nobody signs in with a password.

@description('Region.')
param location string

@description('Tags of the registry.')
param tags object

@description('Name of the registry.')
@minLength(5)
@maxLength(50)
param name string

@description('Tier. Private endpoints need Premium.')
param tier 'Basic' | 'Standard' | 'Premium'

@description('Whether the registry has a public address.')
param isPublic bool

@description('Whether images are kept in several zones, which needs Premium.')
param isZoned bool

resource registry 'Microsoft.ContainerRegistry/registries@2025-11-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: tier
  }
  properties: {
    adminUserEnabled: false
    anonymousPullEnabled: false
    publicNetworkAccess: isPublic ? 'Enabled' : 'Disabled'
    // For Azure's trusted services. The tasks of "az acr build" have not been among them since June 2025: they come into a
    // registry without a public address only with networkRuleBypassAllowedForTasks (docs/add-a-service.md).
    networkRuleBypassOptions: 'AzureServices'
    zoneRedundancy: isZoned ? 'Enabled' : 'Disabled'
  }
}

@description('Its host name.')
output loginServer string = registry.properties.loginServer
