// The workbook: what an operator looks at in Azure's portal (docs/monitoring.md).

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of Application Insights.')
param insightsName string

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(insights.id, 'task-backbone')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Task backbone'
    category: 'workbook'
    sourceId: insights.id
    serializedData: string(loadJsonContent('workbook.json'))
    version: 'Notebook/1.0'
  }
}
