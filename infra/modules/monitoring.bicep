// Where telemetry goes: a workspace, and Application Insights in it. Both take no keys, only identities.

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of the workspace.')
param workspaceName string

@description('Name of Application Insights.')
param insightsName string

@description('Days that telemetry is kept.')
@minValue(30)
@maxValue(730)
param retentionDays int

@description('GB that are taken a day; -1: any number.')
@minValue(-1)
param dailyGb int

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: workspaceName
  location: location
  tags: tags
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: retentionDays
    features: {
      disableLocalAuth: true
    }
    workspaceCapping: {
      dailyQuotaGb: dailyGb
    }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: insightsName
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    DisableLocalAuth: true
  }
}

@description('Where telemetry is sent. It opens nothing: without a role, nobody may send.')
output connectionString string = insights.properties.ConnectionString
