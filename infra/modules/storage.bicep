// A storage account without shared keys: identities only, and URLs that are signed with a key delegated to one.

@description('Region.')
param location string

@description('Tags of the account.')
param tags object

@description('Name of the account.')
@minLength(3)
@maxLength(24)
param name string

@description('Whether data is kept in three zones.')
param isZoned bool

@description('Whether the account has a public address. Without it, private endpoints are the only way to it.')
param isPublic bool

@description('The blob containers.')
param containers string[]

@description('Origins whose pages may read and write blobs by signed URLs.')
param corsOrigins string[] = []

@description('Prefixes of blobs, container first, that the account deletes when they are older than orphanDays.')
param orphanPrefixes string[] = []

@description('The age in days at which a blob is an orphan.')
@minValue(1)
param orphanDays int = 1

resource account 'Microsoft.Storage/storageAccounts@2025-06-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: isZoned ? 'Standard_ZRS' : 'Standard_LRS'
  }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: isPublic ? 'Enabled' : 'Disabled'
    networkAcls: {
      // The platform's own services, such as the one that publishes the app's code.
      bypass: 'AzureServices'
      defaultAction: isPublic ? 'Allow' : 'Deny'
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2025-06-01' = {
  parent: account
  name: 'default'
  properties: {
    // What the app deletes is gone: a caller may ask for that.
    deleteRetentionPolicy: {
      enabled: false
    }
    cors: {
      corsRules: empty(corsOrigins)
        ? []
        : [
            {
              allowedOrigins: corsOrigins
              allowedMethods: [
                'GET'
                'HEAD'
                'PUT'
                'OPTIONS'
              ]
              allowedHeaders: [
                'content-type'
                'range'
                'x-ms-*'
              ]
              exposedHeaders: [
                'content-length'
                'content-range'
                'content-type'
                'etag'
              ]
              maxAgeInSeconds: 3600
            }
          ]
    }
  }
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-06-01' = [
  for each in containers: {
    parent: blobs
    name: each
    properties: {
      publicAccess: 'None'
    }
  }
]

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2025-06-01' = if (!empty(orphanPrefixes)) {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: [
        {
          name: 'orphans'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
              ]
              prefixMatch: orphanPrefixes
            }
            actions: {
              baseBlob: {
                delete: {
                  daysAfterModificationGreaterThan: orphanDays
                }
              }
              snapshot: {
                delete: {
                  daysAfterCreationGreaterThan: orphanDays
                }
              }
            }
          }
        }
      ]
    }
  }
  dependsOn: [
    blobs
  ]
}
