# The task manager: the legacy names, and what they do now.
#
# A list comes back where one did, and JSON text where that did; `$` reads either. An error is a list, too.

ENDED <- c("completed", "failed", "cancelled")
MOST_REMEMBERED <- 10000L

# By the task's id, which attempt of it this process works on, and whether it has ended.
attempts <- new.env()

NOT_FOUND <- list(TaskId = "-1", Status = "error")

AddTask <- function(request) {
  backbone <- backbone()
  if (is.null(backbone)) {
    return(with_uuid(local_task(request)))
  }
  task_id <- header_of(request, "HTTP_TASKID")
  if (is.null(task_id)) {
    return(NOT_FOUND)
  }
  remember(task_id, header_of(request, "HTTP_X_TASK_ATTEMPT"))
  with_uuid(GetTaskStatus(task_id))
}

# The sample service reads the id by this name.
with_uuid <- function(task) {
  if (!identical(task$TaskId, "-1")) task$uuid <- task$TaskId
  task
}

GetTaskStatus <- function(taskId) {
  backbone <- backbone()
  if (is.null(backbone)) {
    return(local_view(taskId))
  }
  url <- with_query(backbone$get, list(taskId = as_text(taskId)))
  # A page or a handler asks: it does not wait as long as a report does.
  answer <- request(api_call(backbone, "GET", url), retry_for_s = 10)
  task <- if (answer$status == 200L) from_json(answer$body) else list()
  if (is.null(task$TaskId)) {
    say("task ", taskId, ": no such task, or no answer (", answer$status, ")")
    return(NOT_FOUND)
  }
  task
}

UpdateTaskStatus <- function(taskId, status) update(taskId, status, state_told(status))

CompleteTask <- function(taskId, status) update(taskId, status, "completed")

FailTask <- function(taskId, status) update(taskId, status, "failed")

# The samples end a task by its text alone, and the backbone believes a text only of services that send no attempt.
state_told <- function(status) {
  text <- tolower(as_text(status) %or% "")
  word <- regmatches(text, regexpr("^(completed|failed)(?=$|\\s?[-:.;])", text, perl = TRUE))
  if (length(word)) word else "running"
}

update <- function(taskId, status, state) {
  backbone <- backbone()
  task_id <- as_text(taskId)
  if (is.null(backbone)) {
    return(local_update(task_id, as_text(status), state))
  }
  if (state %in% ENDED) {
    free_slot(task_id) # before the end is reported: the next task comes at that very moment
  }
  answer <- request(report_call(backbone, task_id, attempt_of(task_id), status, state))
  if (is_success(answer)) {
    if (state %in% ENDED) forget(task_id)
    return(task_text(answer$body))
  }
  if (answer$status != 0L) keep_slot(task_id)
  refused(task_id, answer, "unable to update")
}

# What is said of an update that was not taken: the task of a 409, which is no longer this attempt's; a list otherwise.
refused <- function(task_id, answer, text) {
  problem <- from_json(answer$body, simplify = FALSE)
  if (answer$status == 409L && !is.null(problem$Task)) {
    lost(task_id)
    return(task_text(to_json(problem$Task)))
  }
  say("task ", task_id, ": ", text, ", ", told_by(answer))
  is_unknown <- answer$status == 404L ||
    any(vapply(problem$errors, function(each) identical(each$pointer, "/Endpoint"), logical(1L)))
  if (is_unknown) NOT_FOUND else list(TaskId = task_id, Status = text)
}

report_call <- function(backbone, task_id, attempt, status, state) {
  report <- list(
    TaskId = task_id, Attempt = attempt, Status = as_text(status), BackendStatus = state, PublishToGrid = FALSE
  )
  api_call(backbone, "POST", backbone$upsert, report, telling())
}

AddPipelineTask <- function(taskId, organization_moniker, version, api_name, body = NULL) {
  path <- paste(trimmed(version), trimmed(organization_moniker), trimmed(api_name), sep = "/")
  task_id <- as_text(taskId)
  text <- body_text(body)
  backbone <- backbone()
  if (is.null(backbone)) {
    return(local_pipeline(task_id, path, text))
  }
  free_slot(task_id)
  call <- if (is.null(attempt_of(task_id))) {
    legacy_step(backbone, task_id, path, text)
  } else {
    next_step(backbone, task_id, path, text)
  }
  if (is.null(call)) {
    return(NOT_FOUND)
  }
  answer <- request(call)
  if (is_success(answer)) {
    forget(task_id)
    return(task_text(answer$body))
  }
  keep_slot(task_id)
  refused(task_id, answer, "not found")
}

next_step <- function(backbone, task_id, path, text) {
  url <- task_url(backbone, task_id, paste0("/next/", path))
  if (is.null(text)) {
    return(api_call(backbone, "POST", url, raw(), c(speaking_for(task_id), list("X-Next-Body" = "current"))))
  }
  api_call(backbone, "POST", url, charToRaw(text), speaking_for(task_id))
}

# Of a task that was dispatched without an attempt: only a report with the next step's URL is left.
legacy_step <- function(backbone, task_id, path, text) {
  endpoint <- GetTaskStatus(task_id)$Endpoint
  if (is.null(endpoint)) {
    return(NULL)
  }
  report <- list(
    TaskId = task_id, Status = "created", BackendStatus = "created", Body = text, PublishToGrid = TRUE,
    Endpoint = paste0(parts_of(endpoint)$origin, "/", path)
  )
  api_call(backbone, "POST", backbone$upsert, report, telling())
}

# NULL: the next step gets what this one got.
body_text <- function(body) {
  if (is.null(body) || identical(body, "")) {
    return(NULL)
  }
  if (is.raw(body)) text_of(body) else if (is.character(body)) as_text(body) else to_json(body)
}

trimmed <- function(segment) gsub("^/+|/+$", "", as_text(segment))

speaking_for <- function(task_id) {
  attempt <- attempt_of(task_id)
  c(if (!is.null(attempt)) list("X-Task-Attempt" = format(attempt, scientific = FALSE)), telling())
}

with_query <- function(url, query) {
  pairs <- paste0(names(query), "=", vapply(query, function(value) percent_encoded(as_text(value)), ""))
  paste0(url, if (grepl("?", url, fixed = TRUE)) "&" else "?", paste(pairs, collapse = "&"))
}

# A header of a request: plumber's requests have them as HTTP_NAME.
header_of <- function(request, name) {
  value <- if (is.environment(request) || is.list(request)) request[[name]]
  if (is.character(value) && length(value) == 1L && nzchar(value)) value
}

remember <- function(task_id, attempt) {
  # A process that serves for months does not keep every task.
  if (length(attempts) >= MOST_REMEMBERED) {
    known <- ls(attempts)
    has_ended <- vapply(mget(known, attempts), function(each) isTRUE(each$has_ended), logical(1L))
    rm(list = known[has_ended], envir = attempts)
  }
  assign(task_id, list(attempt = whole_number(attempt), pid = Sys.getpid()), envir = attempts)
}

attempt_of <- function(task_id) looked_up(task_id, attempts)$attempt

forget <- function(task_id) {
  known <- looked_up(task_id, attempts)
  if (!is.null(known)) assign(task_id, c(known, has_ended = TRUE), envir = attempts)
}

# JSON text, as these functions always gave it, whose members `$` reads as it does a list's.
task_text <- function(json) structure(if (is.raw(json)) text_of(json) else json, class = c("TaskText", "json"))

read_member <- function(x, name) jsonlite::fromJSON(unclass(x))[[name]]

registerS3method("$", "TaskText", read_member)
registerS3method("[[", "TaskText", function(x, i) if (is.character(i)) read_member(x, i) else unclass(x)[[i]])
registerS3method("as.list", "TaskText", function(x, ...) jsonlite::fromJSON(unclass(x)))
registerS3method("print", "TaskText", function(x, ...) {
  cat(unclass(x), "\n", sep = "")
  invisible(x)
})
