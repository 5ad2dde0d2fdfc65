// The topic on which the app tells itself that a task is to be dispatched. Only identities publish to it. Its
// subscription is made after the code is deployed, since the webhook must answer a handshake.

@description('Region.')
param location string

@description('Tags of the topic.')
param tags object

@description('Name of the topic.')
@minLength(3)
@maxLength(50)
param name string

@description('Whether the topic has a public address to publish to.')
param isPublic bool

resource topic 'Microsoft.EventGrid/topics@2025-02-15' = {
  name: name
  location: location
  tags: tags
  properties: {
    // Not CloudEvents: there the publishers choose the source, which EVENT_GRID_TOPIC_ID is compared with.
    inputSchema: 'EventGridSchema'
    disableLocalAuth: true
    minimumTlsVersionAllowed: '1.2'
    publicNetworkAccess: isPublic ? 'Enabled' : 'Disabled'
  }
}

@description('Where events are published.')
output endpoint string = topic.properties.endpoint
