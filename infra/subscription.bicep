// What makes Event Grid deliver the topic's events to the app. A hook deploys this once the code is there: the webhook
// must answer a handshake.

@description('Name of the topic.')
@minLength(3)
@maxLength(50)
param topicName string

@description('Name of the subscription, which is the setting EVENT_GRID_SUBSCRIPTION of the app.')
@minLength(3)
@maxLength(64)
param name string

@description('The webhook. It has a key in its query, unless Entra ID secures it.')
@secure()
param endpointUrl string

@description('Tenant of the application that secures the webhook. Empty: the webhook has a key.')
param tenantId string = ''

@description('That application, by its id or URI.')
param audience string = ''

resource topic 'Microsoft.EventGrid/topics@2025-02-15' existing = {
  name: topicName
}

resource subscription 'Microsoft.EventGrid/topics/eventSubscriptions@2025-02-15' = {
  parent: topic
  name: name
  properties: {
    eventDeliverySchema: 'EventGridSchema'
    destination: {
      endpointType: 'WebHook'
      properties: {
        endpointUrl: endpointUrl
        azureActiveDirectoryTenantId: empty(tenantId) ? null : tenantId
        azureActiveDirectoryApplicationIdOrUri: empty(audience) ? null : audience
        // One event a request: a slow dispatch then holds up no other.
        maxEventsPerBatch: 1
      }
    }
    // No dead letters: the app finds by itself what was not delivered, and publishes it again.
    retryPolicy: {
      eventTimeToLiveInMinutes: 60
      maxDeliveryAttempts: 10
    }
  }
}
