// The app, on Flex Consumption. All its settings are here; docs/settings.md says what each means.

import { AppSize, Lifetimes } from '../presets.bicep'

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of the app. The Functions host knows it by its first 32 characters.')
@minLength(2)
@maxLength(32)
param name string

@description('Name of the plan.')
@minLength(1)
@maxLength(60)
param planName string

@description('What sizes the app.')
param size AppSize

@description('How long things last.')
param lifetimes Lifetimes

@description('Whether the instances are spread over availability zones.')
param isZoned bool

@description('Resource id of the subnet from which the app calls others, in a private deployment.')
param subnetId string?

@description('The identity that the app acts as.')
param identity {
  id: string
  clientId: string
}

@description('Name of the account of the Functions host.')
param hostStorageName string

@description('Blob endpoint of the account of bodies and results.')
param bodiesUri string

@description('Container of bodies and results.')
param bodiesContainer string

@description('Container of the app\'s code, in the account of the Functions host.')
param codeContainer string

@description('Largest upload in bytes; 0: none.')
@minValue(0)
param maxUploadBytes int

@description('REDIS_CONNECTION_STRING. It has no password.')
param redis string

@description('The topic, and its subscription.')
param events {
  topicId: string
  topicUri: string
  subscription: string
}

@description('The application in Entra ID that Event Grid gets a token for. Without it, the webhook has a key.')
param webhook {
  tenantId: string
  audience: string
}?

@description('Address of the vault, with a slash at the end.')
param vaultUri string

@description('Where telemetry is sent.')
param insightsConnection string

@description('BACKENDS: the model services.')
param backends object

var storageSuffix = environment().suffixes.storage
var hostStorage = 'AzureWebJobsStorage'

// The Functions host and the app use the same names for the account of the host.
var storageSettings = {
  '${hostStorage}__accountName': hostStorageName
  '${hostStorage}__blobServiceUri': 'https://${hostStorageName}.blob.${storageSuffix}'
  '${hostStorage}__queueServiceUri': 'https://${hostStorageName}.queue.${storageSuffix}'
  '${hostStorage}__tableServiceUri': 'https://${hostStorageName}.table.${storageSuffix}'
  '${hostStorage}__credential': 'managedidentity'
  '${hostStorage}__clientId': identity.clientId
  BLOB_SERVICE_URI: bodiesUri
  BLOB_CONTAINER: bodiesContainer
  MAX_UPLOAD_BYTES: string(maxUploadBytes)
}

// The secrets are named without a version: the newest counts. Both exist from the start (infra/hooks), so that rotating
// a key changes no setting; until then, nobody knows the previous one.
var keySettings = {
  GATEWAY_KEY: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/gateway-key)'
  GATEWAY_KEY_PREVIOUS: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/gateway-key-previous)'
}

var eventSettings = {
  EVENT_GRID_TOPIC_URI: events.topicUri
  EVENT_GRID_TOPIC_ID: events.topicId
  EVENT_GRID_SUBSCRIPTION: events.subscription
}

var webhookSettings = webhook == null
  ? {}
  : {
      WEBHOOK_TENANT_ID: webhook!.tenantId
      WEBHOOK_AUDIENCE: webhook!.audience
      WEBHOOK_AUTHORITY: originOf(environment().authentication.loginEndpoint)
    }

// What the app cannot see of its own instance.
var sizeSettings = {
  HTTP_CONCURRENCY: string(size.httpConcurrency)
  INSTANCE_MEMORY_MB: string(size.instanceMemoryMb)
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(size.bodyBytes)
}

var lifetimeSettings = {
  LEASE_S: string(lifetimes.leaseS)
  MAX_OUTAGE_S: string(lifetimes.outageS)
  BATCH_IDLE_S: string(lifetimes.batchIdleS)
  UPLOAD_URL_S: string(lifetimes.uploadS)
  RETENTION_S: string(lifetimes.retentionS)
}

var telemetrySettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnection
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'Authorization=AAD;ClientId=${identity.clientId}'
  PYTHON_ENABLE_OPENTELEMETRY: 'true'
  OTEL_TRACES_SAMPLER: 'microsoft.rate_limited'
  OTEL_TRACES_SAMPLER_ARG: '20'
}

var settings = {
  ...storageSettings
  ...keySettings
  ...eventSettings
  ...webhookSettings
  ...sizeSettings
  ...lifetimeSettings
  ...telemetrySettings
  AZURE_CLIENT_ID: identity.clientId
  REDIS_CONNECTION_STRING: redis
  BACKENDS: string(backends)
}

@description('A URL without its path.')
func originOf(url string) string => join(take(split(url, '/'), 3), '/')

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
    zoneRedundant: isZoned
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  // "azd deploy" finds the app by this tag.
  tags: union(tags, { 'azd-service-name': 'app' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identity.id
    virtualNetworkSubnetId: subnetId
    // Event Grid delivers from outside any network, so the app keeps a public address.
    publicNetworkAccess: 'Enabled'
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${hostStorageName}.blob.${storageSuffix}/${codeContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.12'
      }
      scaleAndConcurrency: {
        instanceMemoryMB: size.instanceMemoryMb
        maximumInstanceCount: size.maximumInstances
        alwaysReady: size.alwaysReady == 0
          ? []
          : [
              {
                name: 'http'
                instanceCount: size.alwaysReady
              }
            ]
        triggers: {
          http: {
            perInstanceConcurrency: size.httpConcurrency
          }
        }
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      ftpsState: 'Disabled'
      appSettings: [
        for each in items(settings): {
          name: each.key
          value: each.value
        }
      ]
      // In a private deployment, callers inside use the private endpoint, and nobody else but Event Grid comes in.
      ipSecurityRestrictionsDefaultAction: subnetId == null ? 'Allow' : 'Deny'
      ipSecurityRestrictions: subnetId == null
        ? []
        : [
            {
              name: 'event-grid'
              description: 'The webhook.'
              priority: 100
              action: 'Allow'
              tag: 'ServiceTag'
              ipAddress: 'AzureEventGrid'
            }
          ]
      // The code is published from outside, by whom Entra ID knows.
      scmIpSecurityRestrictionsUseMain: false
      scmIpSecurityRestrictionsDefaultAction: 'Allow'
    }
  }

  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: {
      allow: false
    }
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: {
      allow: false
    }
  }
}

@description('Resource id of the app.')
output id string = app.id

@description('Name of the app.')
output name string = app.name

@description('Host name of the app.')
output hostName string = app.properties.defaultHostName
