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

@description('What the app uses, by name.')
param uses {
  @description('The identity that the app acts as.')
  identity: string

  @description('The account of the Functions host, and its container of the code.')
  hostStorage: string
  codeContainer: string

  @description('The account of bodies and results, and their container.')
  bodiesStorage: string
  bodiesContainer: string

  @description('The topic, and its subscription, which a hook makes.')
  topic: string
  subscription: string

  vault: string
}

@description('Client id of the identity.')
param clientId string

@description('Host name of Redis.')
param redisHost string

@description('DURABILITY.')
param durability 'none' | 'replica' | 'fsync'

@description('Where events are published.')
param topicUri string

@description('Where telemetry is sent.')
param insightsConnection string

@description('Resource id of Application Insights.')
param insightsId string

@description('Largest upload in bytes; 0: none.')
@minValue(0)
param maxUploadBytes int

@description('The application in Entra ID that Event Grid gets a token for. Without it, the webhook has a key.')
param webhook {
  tenantId: string
  audience: string
}?

@description('BACKENDS: the model services.')
param backends object

@description('CALLBACKS: the destinations that are told of tasks. The vault has the secret of each, by the name of its setting in small letters, with hyphens.')
param callbacks object

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: uses.identity
}

resource topic 'Microsoft.EventGrid/topics@2025-02-15' existing = {
  name: uses.topic
}

var vaultUri = 'https://${uses.vault}${environment().suffixes.keyvaultDns}'
var storageSuffix = environment().suffixes.storage
var hostStorage = 'AzureWebJobsStorage'

// The Functions host and the app use the same names for the account of the host.
var storageSettings = {
  '${hostStorage}__accountName': uses.hostStorage
  '${hostStorage}__blobServiceUri': 'https://${uses.hostStorage}.blob.${storageSuffix}'
  '${hostStorage}__queueServiceUri': 'https://${uses.hostStorage}.queue.${storageSuffix}'
  '${hostStorage}__tableServiceUri': 'https://${uses.hostStorage}.table.${storageSuffix}'
  '${hostStorage}__credential': 'managedidentity'
  '${hostStorage}__clientId': clientId
  BLOB_SERVICE_URI: 'https://${uses.bodiesStorage}.blob.${storageSuffix}'
  BLOB_CONTAINER: uses.bodiesContainer
  MAX_UPLOAD_BYTES: string(maxUploadBytes)
}

// The secrets are named without a version: the newest counts. Both exist from the start (infra/hooks), so that rotating
// a key changes no setting; until then, nobody knows the previous one.
var keySettings = {
  GATEWAY_KEY: '@Microsoft.KeyVault(SecretUri=${vaultUri}/secrets/gateway-key)'
  GATEWAY_KEY_PREVIOUS: '@Microsoft.KeyVault(SecretUri=${vaultUri}/secrets/gateway-key-previous)'
}

var eventSettings = {
  EVENT_GRID_TOPIC_URI: topicUri
  EVENT_GRID_TOPIC_ID: topic.id
  EVENT_GRID_SUBSCRIPTION: uses.subscription
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
  MAX_DELAY_S: string(lifetimes.delayS)
  LEASE_S: string(lifetimes.leaseS)
  MAX_OUTAGE_S: string(lifetimes.outageS)
  BATCH_IDLE_S: string(lifetimes.batchIdleS)
  UPLOAD_URL_S: string(lifetimes.uploadS)
  RETENTION_S: string(lifetimes.retentionS)
}

var telemetrySettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnection
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'Authorization=AAD;ClientId=${clientId}'
  PYTHON_ENABLE_OPENTELEMETRY: 'true'
  // As the portal writes a link that shares a query. The console puts the query in.
  TRACE_URL: '${environment().portal}/#view/Microsoft_OperationsManagementSuite_Workspace/Logs.ReactView/resourceId/${uriComponent(insightsId)}/source/LogsBlade.AnalyticsShareLinkToQuery/q/{Query}'
  OTEL_TRACES_SAMPLER: 'microsoft.rate_limited'
  OTEL_TRACES_SAMPLER_ARG: '20'
}

// Each destination's, and the one that is being rotated out. All exist from the start, as those of the gateway do. Two
// destinations may have the same one: the union has it once.
var signing = union([], map(items(callbacks), destination => destination.value.secret_setting))
var callbackSecrets = toObject(
  flatten(map(signing, setting => [setting, '${setting}_PREVIOUS'])),
  setting => setting,
  setting => replace(toLower(setting), '_', '-')
)
var callbackSettings = empty(callbacks)
  ? {}
  : {
      CALLBACKS: string(callbacks)
      ...mapValues(callbackSecrets, secret => '@Microsoft.KeyVault(SecretUri=${vaultUri}/secrets/${secret})')
    }

var settings = {
  ...storageSettings
  ...keySettings
  ...eventSettings
  ...webhookSettings
  ...sizeSettings
  ...lifetimeSettings
  ...callbackSettings
  ...telemetrySettings
  AZURE_CLIENT_ID: clientId
  // It has no password: the app signs in with its identity.
  REDIS_CONNECTION_STRING: '${redisHost}:10000,ssl=True'
  DURABILITY: durability
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
          value: 'https://${uses.hostStorage}.blob.${storageSuffix}/${uses.codeContainer}'
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

@description('Names of the secrets that sign callbacks, with blanks between them.')
output callbackSecrets string = join(map(items(callbackSecrets), each => each.value), ' ')

@description('Host name of the app.')
output hostName string = app.properties.defaultHostName
