// One API of the gateway, with its operations and their policies.

@description('Name of the API Management service.')
param apimName string

@description('Name of the API.')
param name string

@description('Name that people see.')
param displayName string

@description('What the API is for.')
param purpose string

@description('First part of the API\'s URLs, without a slash at its beginning.')
param path string

@description('Product that the API belongs to. Empty: it is for anybody, without a key.')
param product string

@description('Policy of the API.')
param policy string

@description('An operation of an API.')
type operationType = {
  @description('Name of the operation, that of openapi.json.')
  name: string

  @description('Name that people see, of an operation that openapi.json does not have.')
  displayName: string?

  @description('Method.')
  method: string

  @description('Path below that of the API. An asterisk stands for the rest.')
  urlTemplate: string

  @description('Its policy. Empty: that of the API alone.')
  policy: string

  @description('The operation in openapi.json.')
  document: object
}

@description('The operations.')
param operations operationType[]

resource service 'Microsoft.ApiManagement/service@2024-05-01' existing = {
  name: apimName
}

resource api 'Microsoft.ApiManagement/service/apis@2024-05-01' = {
  parent: service
  name: name
  properties: {
    displayName: displayName
    description: purpose
    path: path
    protocols: ['https']
    subscriptionRequired: !empty(product)
    subscriptionKeyParameterNames: {
      header: 'Ocp-Apim-Subscription-Key'
      query: 'subscription-key'
    }
  }
}

resource apiPolicy 'Microsoft.ApiManagement/service/apis/policies@2024-05-01' = {
  parent: api
  name: 'policy'
  properties: {
    format: 'xml'
    value: policy
  }
}

resource link 'Microsoft.ApiManagement/service/products/apis@2024-05-01' = if (!empty(product)) {
  name: '${apimName}/${product}/${name}'
  dependsOn: [
    api
  ]
}

@batchSize(1)
resource apiOperations 'Microsoft.ApiManagement/service/apis/operations@2024-05-01' = [
  for operation in operations: {
    parent: api
    name: operation.name
    properties: {
      displayName: operation.?displayName ?? operation.document.summary
      description: operation.document.?description ?? ''
      method: operation.method
      urlTemplate: operation.urlTemplate
      templateParameters: map(
        filter(['id', 'name'], name => contains(operation.urlTemplate, '{${name}}')),
        name => { name: name, type: 'string', required: true }
      )
      request: {
        queryParameters: map(
          filter(operation.document.?parameters ?? [], parameter => parameter.in == 'query'),
          parameter => {
            name: parameter.name
            description: parameter.description
            type: parameter.schema.type
          }
        )
        // The gateway passes on no header of model services.
        headers: map(
          filter(
            operation.document.?parameters ?? [],
            parameter => parameter.in == 'header' && !startsWith(parameter.name, 'X-Task-')
          ),
          parameter => {
            name: parameter.name
            description: parameter.description
            type: parameter.schema.type
          }
        )
      }
      responses: map(items(operation.document.?responses ?? {}), response => {
        statusCode: int(response.key)
        description: response.value.?description ?? ''
      })
    }
  }
]

resource operationPolicies 'Microsoft.ApiManagement/service/apis/operations/policies@2024-05-01' = [
  for (operation, index) in operations: if (!empty(operation.policy)) {
    parent: apiOperations[index]
    name: 'policy'
    properties: {
      format: 'xml'
      value: operation.policy
    }
  }
]
