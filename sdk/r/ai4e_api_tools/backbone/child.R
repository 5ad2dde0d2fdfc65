# In the process of a model: what it was given, and what it tells its supervisor.

job <- NULL # NULL in any other process

is_child <- function() !is.null(job)

# Runs the function of the job in `file`. Returns how the task has ended: a list with `kind`, `text`, and for a result
# `file` and `type`. The kinds: completed, failed; again (to be tried again); told (it has ended the task itself);
# stopped (it was interrupted).
child_main <- function(file) {
  given <- readRDS(file)
  unlink(file)
  job <<- given
  list2env(given$globals, globalenv())
  for (tool in given$tools) source(tool)
  for (package in given$packages) suppressPackageStartupMessages(library(package, character.only = TRUE))
  remember(given$task_id, given$attempt)
  tryCatch(work_on(given), interrupt = function(interrupt) list(kind = "stopped"))
}

work_on <- function(given) {
  value <- tryCatch(
    list(outcome = ending(given, call_model(given$run, lapply(given$arguments, argument)))),
    TaskFailure = function(failure) list(outcome = list(kind = "failed", text = conditionMessage(failure))),
    TaskTryAgain = function(again) {
      list(outcome = list(kind = "again", text = conditionMessage(again), after_s = again$after_s))
    },
    error = function(error) {
      # Its text may be no caller's business: it is in the log.
      say("task ", given$task_id, ": ", paste(utils::capture.output(print(error)), collapse = " "))
      log_exception(paste0(error), given$task_id)
      list(outcome = list(kind = "failed", text = "an error in R; see the service's log"))
    }
  )
  if (has_told_its_end(given)) list(kind = "told") else value$outcome
}

# By names: the call that an error shows in the log has these, and not the model's source and the caller's body.
call_model <- function(model, arguments) {
  names <- sprintf("argument_%d", seq_along(arguments))
  values <- list2env(c(stats::setNames(arguments, names), list(model = model)), parent = globalenv())
  eval(as.call(c(quote(model), stats::setNames(lapply(names, as.name), names(arguments)))), values)
}

ending <- function(given, value) if (!has_told_its_end(given)) result_of(value)

has_told_its_end <- function(given) file.exists(file.path(given$folder, "ended"))

argument <- function(each) if (inherits(each, "TaskBody")) body_file(each) else each

free_slot <- function(task_id) mark(task_id, "ended")

keep_slot <- function(task_id) if (is_own(task_id)) unlink(file.path(job$folder, "ended"))

lost <- function(task_id) mark(task_id, "lost")

mark <- function(task_id, name) if (is_own(task_id)) file.create(file.path(job$folder, name))

is_own <- function(task_id) is_child() && identical(as_text(task_id), job$task_id)

CurrentTask <- function() if (is_child()) list(TaskId = job$task_id, Attempt = job$attempt, folder = job$folder)

# How far the task is, 0 to 1, with a text for its caller. FALSE if it could not be told.
TaskProgress <- function(taskId, progress, status = NULL) {
  backbone <- backbone()
  task_id <- as_text(taskId)
  if (is.null(backbone)) {
    local_update(task_id, as_text(status) %or% sprintf("running - %.0f %%", 100 * progress), "running")
    return(TRUE)
  }
  told <- list(Progress = progress, Status = as_text(status))
  url <- task_url(backbone, task_id, "/heartbeat")
  answer <- request(api_call(backbone, "POST", url, told, speaking_for(task_id)), retry_for_s = 10)
  if (answer$status == 409L) lost(task_id)
  is_success(answer)
}

# What a model says of its task by stop(): it can never work, or it may work later.
Fail <- function(text) failure("TaskFailure", text)

TryAgain <- function(text = "", after_s = NULL) failure("TaskTryAgain", text, after_s = after_s)

# A result that is a file, or has a content type or a text of its own.
TaskResult <- function(value = NULL, file = NULL, type = NULL, status = NULL) {
  structure(list(value = value, file = file, type = type, status = status), class = "TaskResult")
}

# The result of what the model returned: bytes, a text, a file, or what JSON can say. NULL is none.
result_of <- function(value) {
  result <- if (inherits(value, "TaskResult")) value else TaskResult(value)
  outcome <- list(kind = "completed", text = result$status)
  if (!is.null(result$file)) {
    outcome$file <- kept_file(normalizePath(result$file, mustWork = TRUE))
    outcome$type <- result$type %or% BYTES
  } else if (!is.null(result$value) && !inherits(result$value, "TaskText")) {
    bytes <- bytes_of(result$value)
    outcome$file <- file.path(job$folder, "result")
    writeBin(bytes$body, outcome$file)
    outcome$type <- result$type %or% bytes$type
  }
  if (is.null(outcome$file)) outcome else fitting(outcome)
}

# A body over the platform's limit is lost without a word: a large one goes to Blob Storage, or the task fails.
fitting <- function(outcome) {
  backbone <- backbone()
  size <- file.size(outcome$file)
  if (is.null(backbone) || size <= LARGE_BYTES) {
    return(outcome)
  }
  most <- limits(backbone)
  if (size <= most$body) {
    return(outcome)
  }
  if (size > most$upload) {
    return(list(kind = "failed", text = "the result is too large"))
  }
  outcome$upload <- or_again(
    upload(backbone, outcome$file, outcome$type, job$task_id, speaking_for(job$task_id)),
    "the result could not be stored"
  )
  outcome
}

# What the storage refuses now, it may take from the next attempt.
or_again <- function(code, text) {
  tryCatch(code, BackboneError = function(error) {
    stop(if (is_transient(error$status %or% 0L) || inherits(error, "BlobError")) TryAgain(text) else error)
  })
}

# R deletes its folder for temporary files when it ends, which is before the result is sent.
kept_file <- function(file) {
  if (!startsWith(file, paste0(normalizePath(tempdir()), "/"))) {
    return(file)
  }
  kept <- file.path(job$folder, "result")
  if (!file.rename(file, kept)) file.copy(file, kept)
  kept
}

bytes_of <- function(value) {
  if (is.raw(value)) {
    list(body = value, type = BYTES)
  } else if (is.character(value) && length(value) == 1L && is.null(names(value))) {
    list(body = charToRaw(enc2utf8(value)), type = "text/plain; charset=utf-8")
  } else {
    list(body = charToRaw(to_json(value)), type = API_JSON)
  }
}

# The body of a dispatch, for an argument of the model's: there it is the path of a file.
TaskBody <- function(req) {
  structure(
    list(
      url = header_of(req, "HTTP_X_TASK_BODY"), digest = header_of(req, "HTTP_REPR_DIGEST"),
      bytes = req$bodyRaw %or% charToRaw(req$postBody %or% "")
    ),
    class = "TaskBody"
  )
}

body_file <- function(body) {
  file <- file.path(job$folder, "body")
  if (is.null(body$url)) {
    writeBin(body$bytes, file)
  } else {
    or_again(ReadBlob(body$url, file), "the body could not be read")
    check_digest(file, body$digest)
  }
  file
}
