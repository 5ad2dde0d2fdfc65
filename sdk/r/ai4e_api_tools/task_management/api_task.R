# The task manager of the legacy images, and RunTask: source this file as ever. docs/r.md says what each function does.

.task_backbone <- local({
  # source() has the path that it was given in its frame.
  path <- Find(is.character, rev(lapply(sys.frames(), function(frame) frame[["ofile"]])))
  if (!is.null(path) && !file.exists(path)) path <- basename(path) # it has changed the folder
  folder <- Sys.getenv("AI4E_API_TOOLS", "/ai4e_api_tools")
  if (!is.null(path)) folder <- dirname(dirname(normalizePath(path)))
  tools <- get0(".task_backbone", globalenv(), inherits = FALSE)
  if (is.null(tools)) {
    tools <- new.env(parent = baseenv())
    tools$tools_folder <- folder
    sys.source(file.path(folder, "backbone", "load.R"), tools, keep.source = FALSE)
    assign(".task_backbone", tools, globalenv())
  }
  tools$tools_loaded <- union(tools$tools_loaded, file.path(folder, "task_management/api_task.R"))
  tools
})

AddTask <- .task_backbone$AddTask
GetTaskStatus <- .task_backbone$GetTaskStatus
UpdateTaskStatus <- .task_backbone$UpdateTaskStatus
CompleteTask <- .task_backbone$CompleteTask
FailTask <- .task_backbone$FailTask
AddPipelineTask <- .task_backbone$AddPipelineTask
RunTask <- .task_backbone$RunTask
CurrentTask <- .task_backbone$CurrentTask
TaskProgress <- .task_backbone$TaskProgress
TaskResult <- .task_backbone$TaskResult
TaskBody <- .task_backbone$TaskBody
Fail <- .task_backbone$Fail
TryAgain <- .task_backbone$TryAgain

.task_backbone$offer_parser()
.task_backbone$start_ticking()
