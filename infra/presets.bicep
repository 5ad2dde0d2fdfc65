// The two sizes of a deployment. A figure that you want otherwise is changed here, where the tests read it too.

@export()
@description('A size of Azure Managed Redis.')
type RedisSize =
  | 'Balanced_B0'
  | 'Balanced_B1'
  | 'Balanced_B3'
  | 'Balanced_B5'
  | 'Balanced_B10'
  | 'Balanced_B20'
  | 'Balanced_B50'
  | 'Balanced_B100'

@export()
@description('A tier of API Management.')
type GatewayTier = 'Consumption' | 'BasicV2' | 'StandardV2'

@export()
@description('What sizes the function app.')
type AppSize = {
  @description('Memory of an instance, in MB.')
  instanceMemoryMb: 2048 | 4096

  @description('How many HTTP requests an instance is given at a time.')
  @minValue(1)
  @maxValue(1000)
  httpConcurrency: int

  @description('Largest body of a request, in bytes. Times the concurrency, 240 MiB for each 2 GB of memory at most.')
  @minValue(1)
  @maxValue(104857600)
  bodyBytes: int

  @description('Instances for HTTP that are always awake.')
  @minValue(0)
  alwaysReady: int

  @description('The most instances.')
  @minValue(1)
  @maxValue(1000)
  maximumInstances: int
}

@export()
@description('How long things last, in seconds. The app is given those that are settings of it.')
type Lifetimes = {
  @description('MAX_DELAY_S: a task whose start is that far ahead keeps its body until then.')
  delayS: int

  @description('How long a task may wait for a slot: no setting, but what you expect of a busy queue.')
  waitS: int

  @description('How long a model may run: no setting either.')
  runS: int

  @description('LEASE_S.')
  leaseS: int

  @description('MAX_OUTAGE_S.')
  outageS: int

  @description('BATCH_IDLE_S: a batch holds its children until it is over.')
  batchIdleS: int

  @description('UPLOAD_URL_S.')
  uploadS: int

  @description('RETENTION_S.')
  retentionS: int
}

@export()
@description('What sizes the cluster of the model services.')
type ClusterSize = {
  tier: 'Free' | 'Standard'

  @description('Size of the virtual machines for model services on CPUs, and for what the cluster itself runs.')
  nodeSize: string

  @minValue(1)
  minimumNodes: int

  @minValue(1)
  maximumNodes: int

  @description('The most nodes with a GPU, if there are any. The least is 0.')
  @minValue(1)
  maximumGpuNodes: int
}

@export()
@description('When each alert fires (docs/monitoring.md).')
type Thresholds = {
  @description('The oldest task of an endpoint has waited for longer than this, for ten minutes. In seconds.')
  @minValue(1)
  longestWaitS: int

  @description('More than so many per cent of the tasks that ended within 15 minutes have failed,')
  @minValue(0)
  @maxValue(99)
  failedPercent: int

  @description('and so many or more.')
  @minValue(1)
  failedTasks: int

  @description('Nothing ends or is dispatched for the longer of this, in seconds, up to a day,')
  @minValue(600)
  @maxValue(86400)
  stillS: int

  @description('and of so many leases.')
  @minValue(1)
  stillLeases: int

  @description('The app is unavailable in so many of five minutes.')
  @minValue(1)
  @maxValue(5)
  unavailableMinutes: int

  @description('The app sends nothing for so many minutes. It sends something every five.')
  silentMinutes: 10 | 15 | 30

  @description('More attempts end without a word than so many per cent of what was dispatched within an hour.')
  @minValue(0)
  silentPercent: int

  @description('More dispatches within an hour than so many a task.')
  @minValue(1)
  dispatchesPerTask: int

  @description('An endpoint has as many tasks as its limit, and more and more wait, for so many minutes.')
  fullMinutes: 30 | 45 | 60

  @description('A destination of callbacks has taken nothing for longer than this, in seconds.')
  @minValue(60)
  @maxValue(3600)
  failingS: int
}

@export()
@description('A size of the whole deployment.')
type Preset = {
  @description('Whether the services are spread over availability zones, and data is kept in three of them.')
  isZoned: bool

  @description('Whether a network of its own and private endpoints are the only way to the data.')
  isPrivate: bool

  @description('Whether what is deleted can be kept from being purged before its time.')
  isProtected: bool

  redis: {
    size: RedisSize
    hasReplica: bool
  }

  registryTier: 'Basic' | 'Standard' | 'Premium'

  gatewayTier: GatewayTier

  app: AppSize

  lifetimes: Lifetimes

  cluster: ClusterSize

  @description('Days that the workspace keeps telemetry.')
  telemetryDays: int

  @description('GB of telemetry that the workspace takes a day; -1: any number. Over it, no telemetry is kept that day.')
  telemetryGbADay: int

  alerts: Thresholds
}

var days = 86400

var lifetimes Lifetimes = {
  delayS: 30 * days
  waitS: 14 * days
  runS: 2 * days
  leaseS: 600
  outageS: days
  batchIdleS: days
  uploadS: days
  retentionS: 7 * days
}

var alerts Thresholds = {
  longestWaitS: 900
  failedPercent: 5
  failedTasks: 5
  stillS: 1800
  stillLeases: 3
  unavailableMinutes: 3
  silentMinutes: 10
  silentPercent: 5
  dispatchesPerTask: 3
  fullMinutes: 30
  failingS: 3600
}

@export()
@description('dev: the cheapest that works. prod: zones, replicas, instances that are always awake, a network of its own.')
var presets {
  dev: Preset
  prod: Preset
} = {
  dev: {
    isZoned: false
    isPrivate: false
    isProtected: false
    redis: {
      size: 'Balanced_B0'
      hasReplica: false
    }
    registryTier: 'Basic'
    gatewayTier: 'Consumption'
    app: {
      instanceMemoryMb: 2048
      httpConcurrency: 16
      bodyBytes: 15 * 1048576
      alwaysReady: 0
      maximumInstances: 40
    }
    lifetimes: lifetimes
    cluster: {
      tier: 'Free'
      nodeSize: 'Standard_B2s_v2'
      minimumNodes: 1
      maximumNodes: 3
      maximumGpuNodes: 1
    }
    telemetryDays: 30
    telemetryGbADay: 1
    alerts: alerts
  }
  prod: {
    isZoned: true
    isPrivate: true
    isProtected: true
    redis: {
      size: 'Balanced_B5'
      hasReplica: true
    }
    registryTier: 'Premium'
    gatewayTier: 'StandardV2'
    app: {
      instanceMemoryMb: 4096
      httpConcurrency: 32
      bodyBytes: 15 * 1048576
      alwaysReady: 2
      maximumInstances: 100
    }
    lifetimes: lifetimes
    cluster: {
      tier: 'Standard'
      nodeSize: 'Standard_D4s_v5'
      minimumNodes: 3
      maximumNodes: 10
      maximumGpuNodes: 4
    }
    telemetryDays: 90
    telemetryGbADay: -1
    alerts: alerts
  }
}
