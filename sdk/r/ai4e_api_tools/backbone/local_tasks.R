# Tasks without a backbone: in the memory of the process that serves them.

local_tasks <- new.env()

local_task <- function(request) {
  id <- header_of(request, "HTTP_TASKID") %or% random_id()
  path <- if (is.environment(request) || is.list(request)) request[["PATH_INFO"]]
  local_set(id, Status = "created", BackendStatus = "created", Endpoint = path %or% "uri")
}

local_set <- function(id, ...) {
  task <- looked_up(id, local_tasks) %or%
    list(TaskId = id, Timestamp = "", Status = "", BackendStatus = "created", Endpoint = "uri", PublishToGrid = FALSE)
  task <- utils::modifyList(task, list(Timestamp = timestamp(), ...))
  assign(id, task, envir = local_tasks)
  task
}

local_view <- function(taskId) {
  hear_from_children()
  looked_up(as_text(taskId), local_tasks) %or% NOT_FOUND
}

# A process of the model has no memory of the service's: it tells what is to change there.
local_update <- function(task_id, status, state) {
  if (state %in% ENDED) free_slot(task_id)
  change <- list(TaskId = task_id, Status = status, BackendStatus = state)
  if (is_child()) {
    append_line(to_json(change), file.path(job$folder, "reports"))
    return(task_text(to_json(c(change, Timestamp = timestamp()))))
  }
  task_text(to_json(local_set(task_id, Status = status, BackendStatus = state)))
}

local_hear <- function(line) {
  change <- from_json(line)
  if (!is.null(change$TaskId)) local_set(change$TaskId, Status = change$Status, BackendStatus = change$BackendStatus)
}

# The next service, if this machine has it: the original asks LOCAL_NEXT_API_HOST_IN_PIPELINE for it, too.
local_pipeline <- function(task_id, path, text) {
  host <- sub("/+$", "", Sys.getenv("LOCAL_NEXT_API_HOST_IN_PIPELINE"))
  url <- if (nzchar(host)) paste0(host, "/", path) else path
  if (nzchar(host)) {
    call <- new_call("POST", url, list("Content-Type" = API_JSON, taskId = task_id), charToRaw(text %or% ""))
    answer <- perform(call)
    if (is_success(answer)) {
      return(text_of(answer$body))
    }
  }
  told <- paste0("Pipelining is not supported in a single node deployment, but the next service is: ", url)
  local_update(task_id, told, "running")
  told
}
