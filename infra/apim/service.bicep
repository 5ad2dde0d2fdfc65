// The API Management service itself, and its telemetry. What it serves is in gateway.bicep, once the secrets exist.

@description('Name of the service, unique in Azure: it is the first part of the gateway\'s host name.')
@minLength(1)
@maxLength(50)
param name string

@description('Region.')
param location string

@description('Tags of the service.')
param tags object = {}

@description('Tier. Consumption has no cache and no limit by owner; the v2 tiers and Premium can reach private endpoints.')
@allowed([
  'Consumption'
  'Developer'
  'Basic'
  'Standard'
  'Premium'
  'BasicV2'
  'StandardV2'
  'PremiumV2'
])
param sku string

@description('Number of units. Consumption has none.')
@minValue(1)
param units int = 1

@description('Address that the service sends its notices to.')
param publisherEmail string

@description('Who publishes the APIs.')
param publisherName string

@description('Resource id of the user-assigned identity that writes to Application Insights.')
param identityId string

@description('Client id of that identity.')
param identityClientId string

@description('Resource id of Application Insights.')
param appInsightsId string

@description('Connection string of Application Insights. It is no secret where local authentication is off.')
param appInsightsConnectionString string

@description('Share of the requests that are traced, in percent.')
@minValue(0)
@maxValue(100)
param tracedPercent int = 100

@description('Resource id of the subnet for outbound traffic, delegated to Microsoft.Web/serverFarms. Empty: no network.')
param subnetId string = ''

@description('Zones of the service. Empty: Azure chooses.')
param zones string[] = []

resource service 'Microsoft.ApiManagement/service@2024-05-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: sku
    capacity: sku == 'Consumption' ? 0 : units
  }
  // Its own identity too: only that one gets through the firewall of a Key Vault, see gateway.bicep.
  identity: {
    type: 'SystemAssigned, UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  zones: empty(zones) ? null : zones
  properties: {
    publisherEmail: publisherEmail
    publisherName: publisherName
    virtualNetworkType: empty(subnetId) ? 'None' : 'External'
    virtualNetworkConfiguration: empty(subnetId) ? null : { subnetResourceId: subnetId }
  }
}

resource logger 'Microsoft.ApiManagement/service/loggers@2024-05-01' = {
  parent: service
  name: 'application-insights'
  properties: {
    loggerType: 'applicationInsights'
    resourceId: appInsightsId
    credentials: {
      connectionString: appInsightsConnectionString
      identityClientId: identityClientId
    }
  }
}

// W3C: the traceparent of the caller goes on to the app, which keeps it with the task. No header, body or client address
// is logged.
resource diagnostic 'Microsoft.ApiManagement/service/diagnostics@2024-05-01' = {
  parent: service
  name: 'applicationinsights'
  properties: {
    loggerId: logger.id
    alwaysLog: 'allErrors'
    httpCorrelationProtocol: 'W3C'
    logClientIp: false
    metrics: true
    operationNameFormat: 'Name'
    sampling: {
      samplingType: 'fixed'
      percentage: tracedPercent
    }
    frontend: { request: { body: { bytes: 0 } }, response: { body: { bytes: 0 } } }
    backend: { request: { body: { bytes: 0 } }, response: { body: { bytes: 0 } } }
  }
}

@description('Name of the service.')
output name string = service.name

@description('URL of the gateway, without a slash at its end.')
output gatewayUrl string = service.properties.gatewayUrl
