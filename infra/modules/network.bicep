// The network of a private deployment: a subnet a kind of user, and the names of the private endpoints.

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of the network.')
param name string

// Nothing from outside comes into a subnet, but for what Azure's load balancer brings to the cluster's ingress.
resource closed 'Microsoft.Network/networkSecurityGroups@2025-05-01' = {
  name: 'nsg-closed-${name}'
  location: location
  tags: tags
  properties: {
    securityRules: [
      {
        name: 'no-internet'
        properties: {
          description: 'Nobody from outside calls what is in this subnet.'
          priority: 4000
          direction: 'Inbound'
          access: 'Deny'
          protocol: '*'
          sourceAddressPrefix: 'Internet'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ]
  }
}

resource ingress 'Microsoft.Network/networkSecurityGroups@2025-05-01' = {
  name: 'nsg-ingress-${name}'
  location: location
  tags: tags
  properties: {
    securityRules: [
      {
        name: 'https'
        properties: {
          description: 'The ingress of the cluster takes dispatches over TLS.'
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: 'VirtualNetwork'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '443'
        }
      }
      {
        name: 'no-internet'
        properties: {
          description: 'Nobody from outside calls a model service.'
          priority: 4000
          direction: 'Inbound'
          access: 'Deny'
          protocol: '*'
          sourceAddressPrefix: 'Internet'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ]
  }
}

resource network 'Microsoft.Network/virtualNetworks@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.40.0.0/16'
      ]
    }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: '10.40.0.0/24'
          networkSecurityGroup: {
            id: closed.id
          }
          // Flex Consumption runs on the platform of Container Apps.
          delegations: [
            {
              name: 'app'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'gateway'
        properties: {
          addressPrefix: '10.40.1.0/24'
          networkSecurityGroup: {
            id: closed.id
          }
          delegations: [
            {
              name: 'gateway'
              properties: {
                serviceName: 'Microsoft.Web/serverFarms'
              }
            }
          ]
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: '10.40.2.0/24'
          networkSecurityGroup: {
            id: closed.id
          }
          privateEndpointNetworkPolicies: 'Enabled'
        }
      }
      {
        name: 'cluster'
        properties: {
          addressPrefix: '10.40.16.0/20'
          networkSecurityGroup: {
            id: ingress.id
          }
        }
      }
    ]
  }
}

// By the part of a service that a private endpoint leads to. Azure prescribes the names.
var zoneNames = {
  blob: 'privatelink.blob.${environment().suffixes.storage}'
  queue: 'privatelink.queue.${environment().suffixes.storage}'
  table: 'privatelink.table.${environment().suffixes.storage}'
  redisEnterprise: 'privatelink.redis.azure.net'
  vault: 'privatelink.vaultcore.azure.net'
  topic: 'privatelink.eventgrid.azure.net'
  registry: 'privatelink.azurecr.io'
  sites: 'privatelink.azurewebsites.net'
}

resource zone 'Microsoft.Network/privateDnsZones@2024-06-01' = [
  for each in items(zoneNames): {
    name: each.value
    location: 'global'
    tags: tags
  }
]

resource link 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [
  for (each, index) in items(zoneNames): {
    parent: zone[index]
    name: name
    location: 'global'
    tags: tags
    properties: {
      registrationEnabled: false
      virtualNetwork: {
        id: network.id
      }
    }
  }
]

@description('The private DNS zones, by the part of a service that an endpoint leads to.')
output zoneIds object = toObject(
  items(zoneNames),
  each => each.key,
  each => resourceId('Microsoft.Network/privateDnsZones', each.value)
)
