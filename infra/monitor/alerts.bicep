// Who is on call is woken by these rules. Each looks at what the app sends, and names its runbook (docs/monitoring.md).

import { Thresholds } from '../presets.bicep'

@export()
@description('The lease of the tasks at a path and below it.')
type Lease = {
  @description('The path; empty: of all.')
  prefix: string

  @description('In seconds.')
  leaseS: int
}

@description('Region.')
param location string

@description('Tags of each resource.')
param tags object

@description('Name of Application Insights.')
param insightsName string

@description('Name of the action group, which has those who are told.')
param groupName string

@description('End of the names of the rules.')
param token string

@description('Who is told, by e-mail.')
param email string

@description('Address of the page with the runbooks.')
param runbooks string

@description('Whether instances for HTTP are always awake: only then is silence a fault.')
param isAlwaysAwake bool

@description('LEASE_S, and the leases of the model services that have one of their own.')
param leases Lease[]

@description('When each rule fires.')
param thresholds Thresholds

// The time that a query looks back over. Azure takes these and no others.
var windows = [
  { minutes: 45, text: 'PT45M' }
  { minutes: 60, text: 'PT1H' }
  { minutes: 120, text: 'PT2H' }
  { minutes: 180, text: 'PT3H' }
  { minutes: 240, text: 'PT4H' }
  { minutes: 300, text: 'PT5H' }
  { minutes: 360, text: 'PT6H' }
  { minutes: 1440, text: 'P1D' }
  { minutes: 2880, text: 'P2D' }
]
var longestQuietS = max(thresholds.stillS, thresholds.stillLeases * max(map(leases, each => each.leaseS)))
// Ten minutes more: by then the tasks have to run or wait already.
var quietWindow = first(filter(windows, each => each.minutes * 60 >= longestQuietS + 600)) ?? {
  minutes: 2880
  text: 'P2D'
}
var leaseRows = join(map(leases, each => '"${each.prefix}", ${each.leaseS}'), ', ')
var quiet = {
  leases: 'datatable(prefix: string, lease_s: long)[${leaseRows}]'
  still_leases: thresholds.stillLeases
  still_s: thresholds.stillS
}

var rules = [
  {
    name: 'unavailable'
    title: 'The app is unavailable'
    severity: 1
    window: 'PT5M'
    frequency: 'PT1M'
    by: ''
    lets: { unavailable_minutes: thresholds.unavailableMinutes }
    query: loadTextContent('queries/unavailable.kql')
  }
  {
    name: 'nothing-ends'
    title: 'Tasks run, and nothing is heard of them'
    severity: 1
    window: quietWindow.text
    frequency: 'PT5M'
    by: 'path'
    lets: quiet
    query: loadTextContent('queries/nothing-ends.kql')
  }
  {
    name: 'nothing-is-dispatched'
    title: 'Tasks wait, and none is dispatched'
    severity: 1
    window: quietWindow.text
    frequency: 'PT5M'
    by: 'path'
    lets: quiet
    query: loadTextContent('queries/nothing-is-dispatched.kql')
  }
  {
    name: 'tasks-wait'
    title: 'Tasks wait for long'
    severity: 2
    window: 'PT10M'
    frequency: 'PT5M'
    by: 'path'
    lets: { longest_wait_s: thresholds.longestWaitS }
    query: loadTextContent('queries/tasks-wait.kql')
  }
  {
    name: 'tasks-fail'
    title: 'Tasks fail'
    severity: 2
    window: 'PT15M'
    frequency: 'PT5M'
    by: 'path'
    lets: { failed_percent: thresholds.failedPercent, failed_tasks: thresholds.failedTasks }
    query: loadTextContent('queries/tasks-fail.kql')
  }
  {
    name: 'leases-end'
    title: 'Attempts end without a word'
    severity: 3
    window: 'PT1H'
    frequency: 'PT15M'
    by: 'path'
    lets: { silent_percent: thresholds.silentPercent }
    query: loadTextContent('queries/leases-end.kql')
  }
  {
    name: 'many-dispatches'
    title: 'Tasks are dispatched again and again'
    severity: 3
    window: 'PT1H'
    frequency: 'PT15M'
    by: 'path'
    lets: { most_dispatches: thresholds.dispatchesPerTask }
    query: loadTextContent('queries/many-dispatches.kql')
  }
  {
    name: 'limit-reached'
    title: 'A limit holds up more and more tasks'
    severity: 3
    window: 'PT${thresholds.fullMinutes}M'
    frequency: 'PT10M'
    by: 'path'
    lets: { full_s: thresholds.fullMinutes * 60 }
    query: loadTextContent('queries/limit-reached.kql')
  }
  {
    name: 'callbacks-fail'
    title: 'A destination of callbacks takes nothing'
    severity: 2
    // Pauses between tries grow up to an hour: within three, an hour at least is between the first and the last.
    window: 'PT3H'
    frequency: 'PT15M'
    by: 'destination'
    lets: { failing_s: thresholds.failingS }
    query: loadTextContent('queries/callbacks-fail.kql')
  }
]
var ruleOfSilence = {
  name: 'no-metrics'
  title: 'The app sends nothing'
  severity: 1
  window: 'PT${thresholds.silentMinutes}M'
  frequency: 'PT5M'
  by: ''
  lets: {}
  query: loadTextContent('queries/no-metrics.kql')
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource onCall 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: groupName
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'tasks'
    emailReceivers: [
      {
        name: 'on-call'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource rule 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for each in concat(rules, isAlwaysAwake ? [ruleOfSilence] : []): {
    name: '${each.name}-${token}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: each.title
      description: '${runbooks}#${each.name}'
      severity: each.severity
      enabled: true
      scopes: [
        insights.id
      ]
      evaluationFrequency: each.frequency
      windowSize: each.window
      criteria: {
        allOf: [
          {
            query: '${join(map(items(each.lets), value => 'let ${value.key} = ${value.value};\n'), '')}${each.query}'
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            // An endpoint each: the mail names it, and one that is in trouble hides no other.
            dimensions: empty(each.by)
              ? []
              : [
                  {
                    name: each.by
                    operator: 'Include'
                    values: [
                      '*'
                    ]
                  }
                ]
            failingPeriods: {
              numberOfEvaluationPeriods: 1
              minFailingPeriodsToAlert: 1
            }
          }
        ]
      }
      autoMitigate: true
      actions: {
        actionGroups: [
          onCall.id
        ]
        customProperties: {
          runbook: '${runbooks}#${each.name}'
        }
      }
    }
  }
]
