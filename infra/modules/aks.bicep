// The cluster of the model services: they scale from zero by the length of their queues, and take dispatches over TLS.

import { ClusterSize } from '../presets.bicep'

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of the cluster.')
@minLength(1)
@maxLength(63)
param name string

@description('What sizes the cluster.')
param size ClusterSize

@description('Size of the virtual machines with a GPU. Without it, there are none.')
param gpuNodeSize string?

@description('Whether the nodes are spread over availability zones.')
param isZoned bool

@description('Resource id of the subnet of the nodes, in a private deployment.')
param subnetId string?

@description('Name of the identity of the control plane.')
param identityName string

@description('Name of the workspace of Container Insights.')
param workspaceName string

@description('Name of the identity of KEDA.')
param scalerIdentityName string

@description('Name of the identity of the model services.')
param servicesIdentityName string

@description('Names of the model services, which are those of their service accounts.')
param serviceNames string[]

@description('Namespace of the model services.')
param serviceNamespace string

var zones = isZoned ? ['1', '2', '3'] : null

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identityName
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource cluster 'Microsoft.ContainerService/managedClusters@2026-05-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: 'Base'
    tier: size.tier
  }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    dnsPrefix: name
    enableRBAC: true
    disableLocalAccounts: true
    aadProfile: {
      managed: true
      enableAzureRBAC: true
    }
    oidcIssuerProfile: {
      enabled: true
    }
    securityProfile: {
      workloadIdentity: {
        enabled: true
      }
      imageCleaner: {
        enabled: true
        intervalHours: 168
      }
    }
    workloadAutoScalerProfile: {
      keda: {
        enabled: true
      }
    }
    // The gateway that takes dispatches over TLS is made by the chart. The add-on's nginx is supported until November 2026.
    ingressProfile: {
      gatewayAPI: {
        installation: 'Standard'
      }
      webAppRouting: {
        enabled: true
        gatewayAPIImplementations: {
          appRoutingIstio: {
            mode: 'Enabled'
          }
        }
        nginx: {
          defaultIngressControllerType: 'None'
        }
      }
    }
    addonProfiles: {
      azureKeyvaultSecretsProvider: {
        enabled: true
        config: {
          enableSecretRotation: 'true'
        }
      }
      azurepolicy: {
        enabled: true
      }
      omsagent: {
        enabled: true
        config: {
          logAnalyticsWorkspaceResourceID: workspace.id
          useAADAuth: 'true'
        }
      }
    }
    storageProfile: {
      blobCSIDriver: {
        enabled: true
      }
    }
    autoUpgradeProfile: {
      upgradeChannel: 'patch'
      nodeOSUpgradeChannel: 'NodeImage'
    }
    networkProfile: {
      networkPlugin: 'azure'
      networkPluginMode: 'overlay'
      networkDataplane: 'cilium'
      networkPolicy: 'cilium'
      loadBalancerSku: 'standard'
      outboundType: 'loadBalancer'
      podCidr: '10.244.0.0/16'
      serviceCidr: '10.41.0.0/16'
      dnsServiceIP: '10.41.0.10'
    }
    agentPoolProfiles: [
      {
        name: 'cpu'
        mode: 'System'
        type: 'VirtualMachineScaleSets'
        osType: 'Linux'
        osSKU: 'AzureLinux'
        vmSize: size.nodeSize
        vnetSubnetID: subnetId
        availabilityZones: zones
        enableAutoScaling: true
        count: size.minimumNodes
        minCount: size.minimumNodes
        maxCount: size.maximumNodes
        maxPods: 110
        upgradeSettings: {
          maxSurge: '33%'
        }
      }
    ]
  }

  resource gpus 'agentPools' = if (gpuNodeSize != null) {
    name: 'gpu'
    properties: {
      mode: 'User'
      type: 'VirtualMachineScaleSets'
      osType: 'Linux'
      osSKU: 'AzureLinux'
      vmSize: gpuNodeSize
      vnetSubnetID: subnetId
      enableAutoScaling: true
      count: 0
      minCount: 0
      maxCount: size.maximumGpuNodes
      maxPods: 110
      nodeLabels: {
        'nvidia.com/gpu.present': 'true'
      }
      // Only what asks for a GPU comes here.
      nodeTaints: [
        'nvidia.com/gpu=present:NoSchedule'
      ]
    }
  }
}

resource insights 'Microsoft.Insights/dataCollectionRules@2023-03-11' = {
  name: 'dcr-${name}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {
    dataSources: {
      extensions: [
        {
          name: 'ContainerInsights'
          extensionName: 'ContainerInsights'
          streams: [
            'Microsoft-ContainerInsights-Group-Default'
          ]
          extensionSettings: {
            dataCollectionSettings: {
              interval: '1m'
              namespaceFilteringMode: 'Include'
              namespaces: [
                serviceNamespace
              ]
              enableContainerLogV2: true
            }
          }
        }
      ]
    }
    destinations: {
      logAnalytics: [
        {
          name: 'workspace'
          workspaceResourceId: workspace.id
        }
      ]
    }
    dataFlows: [
      {
        streams: [
          'Microsoft-ContainerInsights-Group-Default'
        ]
        destinations: [
          'workspace'
        ]
      }
    ]
  }
}

resource collected 'Microsoft.Insights/dataCollectionRuleAssociations@2023-03-11' = {
  scope: cluster
  name: 'ContainerInsightsExtension'
  properties: {
    dataCollectionRuleId: insights.id
  }
}

resource scaler 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: scalerIdentityName

  resource keda 'federatedIdentityCredentials' = {
    name: 'keda'
    properties: {
      issuer: cluster.properties.oidcIssuerProfile.issuerURL
      subject: 'system:serviceaccount:kube-system:keda-operator'
      audiences: [
        'api://AzureADTokenExchange'
      ]
    }
  }
}

resource services 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: servicesIdentityName

  // One at a time: Entra ID refuses two at once of one identity. An identity takes 20.
  @batchSize(1)
  resource accounts 'federatedIdentityCredentials' = [
    for each in serviceNames: {
      name: each
      properties: {
        issuer: cluster.properties.oidcIssuerProfile.issuerURL
        subject: 'system:serviceaccount:${serviceNamespace}:${each}'
        audiences: [
          'api://AzureADTokenExchange'
        ]
      }
    }
  ]
}

@description('Name of the cluster.')
output name string = cluster.name
