# Fills the environment that it is read into. Nothing that a service defines can take the place of something there.

tools_environment <- environment()
tools_loaded <- character() # the files that the service has sourced; a model's process sources them, too

files <- c(
  "values", "calls", "where", "tasks", "local_tasks", "child", "run_task", "telemetry", "blobs", "uploads", "client"
)
for (name in files) {
  sys.source(file.path(tools_folder, "backbone", paste0(name, ".R")), tools_environment, keep.source = FALSE)
}
