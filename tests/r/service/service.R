# The service of tests/r: what a model may do, well or badly.

tools <- Sys.getenv("AI4E_API_TOOLS")
source(file.path(tools, "task_management", "api_task.R"))
source(file.path(tools, "ai4e_app_insights.R"))
source(file.path(tools, "sas_blob.R"))
library(tools)

folder <- Sys.getenv("SCRATCH")
slots <- as.integer(Sys.getenv("SLOTS", "1"))

mark <- function(name, text = "") cat(text, "\n", file = file.path(folder, name), append = TRUE)

# Works without a word for so many seconds: nothing of R runs meanwhile, as in a long call of a model.
work_for <- function(seconds, task_id) {
  mark(paste0(task_id, ".pids"), Sys.getpid())
  system2("sleep", as.character(seconds))
  list(seconds = seconds, pid = Sys.getpid())
}

tidying <- function(task_id) {
  mark(paste0(task_id, ".pids"), Sys.getpid())
  tryCatch(Sys.sleep(120), finally = mark(paste0(task_id, ".tidied")))
}

deaf <- function(task_id) {
  mark(paste0(task_id, ".pids"), Sys.getpid())
  repeat tryCatch(Sys.sleep(120), interrupt = function(interrupt) NULL)
}

once <- function(task_id, kind) {
  is_first <- !file.exists(file.path(folder, paste0(task_id, ".once")))
  mark(paste0(task_id, ".once"))
  if (is_first && kind == "kill") tools::pskill(Sys.getpid(), SIGKILL)
  if (is_first && kind == "again") stop(TryAgain("the archive sleeps", after_s = 1))
  if (is_first && kind == "quit") quit(save = "no", status = 3)
  "done the second time"
}

ends <- function(task_id, kind) {
  switch(kind,
    fail = stop(Fail("the picture is black")),
    error = stop("a secret of the model"),
    nothing = NULL,
    bytes = as.raw(0:255),
    text = "caf\u00e9",
    table = data.frame(name = c("a", "b"), value = c(1.5, NA)),
    file = {
      made <- tempfile(fileext = ".tif")
      writeBin(as.raw(1:100), made)
      TaskResult(file = made, type = "image/tiff", status = "one picture")
    },
    large = TaskResult(as.raw(rep(7L, 3e6))),
    huge = TaskResult(as.raw(rep(7L, 12e6)), type = "image/tiff", status = "one scene"),
    lost = TaskResult(file = "/nowhere/at/all"),
    told = {
      UpdateTaskStatus(task_id, "running - nearly")
      UpdateTaskStatus(task_id, "completed - by its text")
    },
    complete = CompleteTask(task_id, "completed - by hand"),
    failtask = FailTask(task_id, "failed - by hand"),
    words = UpdateTaskStatus(task_id, "completed 3 of 10 tiles"),
    context = list(task = CurrentTask()$TaskId, attempt = CurrentTask()$Attempt, helper = tools::toTitleCase("the title"))
  )
}

logs <- function(task_id) {
  log_debug("a debug line", task_id)
  log_info("an info line", task_id, list(tile = 7))
  log_warn("a warning", task_id)
  log_error("an error line", task_id)
  log_exception("an exception")
  "logged"
}

sends_on <- function(task_id, version, organization, api) {
  answer <- AddPipelineTask(task_id, organization, version, api, jsonlite::toJSON(list(boxes = 3), auto_unbox = TRUE))
  mark(paste0(task_id, ".sent"), answer$BackendStatus)
  answer
}

reads_body <- function(path) list(bytes = file.size(path), md5 = unname(md5sum(path)))

#* @post /v1/r/<name>/work
#* @parser task
function(req, res, name, seconds = 0) {
  RunTask(req, res, work_for, as.numeric(seconds), req$HTTP_TASKID, slots = slots)
}

#* @post /v1/r/<name>/tidy
#* @parser task
function(req, res, name) RunTask(req, res, tidying, req$HTTP_TASKID, slots = slots)

#* @post /v1/r/<name>/deaf
#* @parser task
function(req, res, name) RunTask(req, res, deaf, req$HTTP_TASKID, slots = slots)

#* @post /v1/r/<name>/once/<kind>
#* @parser task
function(req, res, name, kind) RunTask(req, res, once, req$HTTP_TASKID, kind, slots = slots)

#* @post /v1/r/<name>/ends/<kind>
#* @parser task
function(req, res, name, kind) RunTask(req, res, ends, req$HTTP_TASKID, kind, slots = slots)

#* @post /v1/r/<name>/logs
#* @parser task
function(req, res, name) RunTask(req, res, logs, req$HTTP_TASKID, slots = slots)

#* @post /v1/r/<name>/body
#* @parser task
function(req, res, name) RunTask(req, res, reads_body, TaskBody(req), slots = slots)

#* @post /v1/r/<name>/on/<version>/<organization>/<api>
#* @parser task
function(req, res, name, version, organization, api) {
  RunTask(req, res, sends_on, req$HTTP_TASKID, version, organization, api, slots = slots)
}

#* As the samples of the legacy framework do: the handler works itself
#* @post /v1/r/<name>/legacy
function(req, res, name) {
  task <- AddTask(req)
  task_id <- task$uuid
  UpdateTaskStatus(task_id, "running")
  input <- jsonlite::fromJSON(req$postBody)
  answer <- UpdateTaskStatus(task_id, paste("completed -", input$run_id))
  mark(paste0(task_id, ".legacy"), jsonlite::fromJSON(answer)$BackendStatus)
  data.frame(message = "Starting task", task_id)
}

#* The place itself: the second step of a pipeline
#* @post /v1/r/<name>
function(req, res, name) {
  task <- AddTask(req)
  CompleteTask(task$TaskId, paste("completed -", req$postBody))
  ""
}

#* @get /readyz
#* @serializer text
function() "ready"
