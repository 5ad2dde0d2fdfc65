// The few keys that there are: between gateway and app, and of Event Grid's webhook. infra/hooks makes them.

@description('Region.')
param location string

@description('Tags of the vault.')
param tags object

@description('Name of the vault.')
@minLength(3)
@maxLength(24)
param name string

@description('Whether the vault has a public address.')
param isPublic bool

@description('Whether nobody can purge what was deleted, before its time.')
param isProtected bool

@description('Name of the workspace that is told of each use.')
param workspaceName string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: isProtected ? 90 : 7
    // False is refused: the property is either true or absent.
    enablePurgeProtection: isProtected ? true : null
    publicNetworkAccess: isPublic ? 'Enabled' : 'Disabled'
    networkAcls: {
      // API Management reads its named values as a trusted service.
      bypass: 'AzureServices'
      defaultAction: isPublic ? 'Allow' : 'Deny'
    }
  }
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: vault
  name: 'audit'
  properties: {
    workspaceId: workspace.id
    logs: [
      {
        categoryGroup: 'audit'
        enabled: true
      }
    ]
  }
}

@description('Resource id of the vault.')
output id string = vault.id

@description('Its address, with a slash at the end.')
output uri string = vault.properties.vaultUri
