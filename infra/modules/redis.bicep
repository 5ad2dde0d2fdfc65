// The store of all tasks and queues: Azure Managed Redis that evicts nothing and takes no keys.

import { RedisSize } from '../presets.bicep'

@description('Region.')
param location string

@description('Tags of the cache.')
param tags object

@description('Name of the cache.')
@minLength(1)
@maxLength(60)
param name string

@description('Size.')
param size RedisSize

@description('Whether a second machine has all data too.')
param hasReplica bool

@description('Whether the cache has a public address.')
param isPublic bool

@description('Name of the identity that may use the data.')
param identityName string

// What a size holds, in GB, rounded up, by its documentation.
var memoryGb = {
  Balanced_B0: 1
  Balanced_B1: 1
  Balanced_B3: 3
  Balanced_B5: 6
  Balanced_B10: 12
  Balanced_B20: 24
  Balanced_B50: 60
  Balanced_B100: 120
}

// Up to this size Redis is offered as one server, where a task and its queue change in one step. EnterpriseCluster never:
// it says that it is no cluster, and refuses scripts over two slots.
var largestSingleGb = 25

resource cache 'Microsoft.Cache/redisEnterprise@2025-07-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: size
  }
  properties: {
    minimumTlsVersion: '1.2'
    highAvailability: hasReplica ? 'Enabled' : 'Disabled'
    publicNetworkAccess: isPublic ? 'Enabled' : 'Disabled'
  }
}

resource database 'Microsoft.Cache/redisEnterprise/databases@2025-07-01' = {
  parent: cache
  name: 'default'
  properties: {
    port: 10000
    clientProtocol: 'Encrypted'
    accessKeysAuthentication: 'Disabled'
    clusteringPolicy: memoryGb[size] <= largestSingleGb ? 'NoCluster' : 'OSSCluster'
    evictionPolicy: 'NoEviction'
    persistence: {
      aofEnabled: true
      aofFrequency: '1s'
      rdbEnabled: false
    }
  }
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identityName
}

resource access 'Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments@2025-07-01' = {
  parent: database
  name: 'app'
  properties: {
    accessPolicyName: 'default'
    user: {
      objectId: identity.properties.principalId
    }
  }
}

@description('Host name of the cache.')
output hostName string = cache.properties.hostName
