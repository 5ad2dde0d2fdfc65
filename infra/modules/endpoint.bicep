// A private endpoint: an address within the network for one service, and its name there.

@description('Region.')
param location string

@description('Tags of the endpoint.')
param tags object

@description('Name of the endpoint.')
param name string

@description('Resource id of the subnet.')
param subnetId string

@description('Resource id of the service.')
param targetId string

@description('Which part of the service: blob, vault, …')
param groupId string

@description('Resource id of the private DNS zone.')
param zoneId string

resource endpoint 'Microsoft.Network/privateEndpoints@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: groupId
        properties: {
          privateLinkServiceId: targetId
          groupIds: [
            groupId
          ]
        }
      }
    ]
  }
}

resource zones 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2025-05-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: groupId
        properties: {
          privateDnsZoneId: zoneId
        }
      }
    ]
  }
}
