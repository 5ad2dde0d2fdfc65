// Zones, replicas, instances that are always awake, and a network of its own. "bicep snapshot" makes prod.snapshot.json of it, which the tests read.
using 'main.bicep'

param environmentName = readEnvironmentVariable('AZURE_ENV_NAME', 'prod')
param location = readEnvironmentVariable('AZURE_LOCATION', 'westeurope')
param preset = 'prod'
param publisherEmail = readEnvironmentVariable('PUBLISHER_EMAIL', 'nobody@example.org')
param principalId = readEnvironmentVariable('AZURE_PRINCIPAL_ID', '')
param network = readEnvironmentVariable('NETWORK', 'preset')
param durability = readEnvironmentVariable('DURABILITY', 'none')
param uploads = readEnvironmentVariable('UPLOADS', 'public')
param uploadOrigins = readEnvironmentVariable('UPLOAD_ORIGINS', '')
param gpuNodeSize = readEnvironmentVariable('GPU_NODE_SIZE', '')
param alertEmail = readEnvironmentVariable('ALERT_EMAIL', 'nobody@example.org')
param runbooks = readEnvironmentVariable('RUNBOOKS_URL', 'docs/monitoring.md')
param webhookTenantId = readEnvironmentVariable('WEBHOOK_TENANT_ID', '')
param webhookAudience = readEnvironmentVariable('WEBHOOK_AUDIENCE', '')
