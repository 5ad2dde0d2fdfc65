# The tools as a service sources them, and no backbone: each test sets the variables that it needs.

Sys.unsetenv(c(
  "BACKBONE_URL", "BACKBONE_KEY", "CACHE_CONNECTOR_UPSERT_URI", "CACHE_CONNECTOR_GET_URI", "SERVICE_STORAGE",
  "APPLICATIONINSIGHTS_CONNECTION_STRING", "APPINSIGHTS_INSTRUMENTATIONKEY"
))
tools_folder <- normalizePath(file.path("..", "..", "ai4e_api_tools"))
for (file in c("task_management/api_task.R", "ai4e_app_insights.R", "sas_blob.R", "task_client.R")) {
  source(file.path(tools_folder, file))
}
inside <- .task_backbone

with_variables <- function(..., code) {
  given <- list(...)
  do.call(Sys.setenv, given)
  on.exit(Sys.unsetenv(names(given)))
  force(code)
}
