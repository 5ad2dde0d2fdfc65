# RunTask: the model runs in an R process of its own, and this one, the supervisor, answers HTTP, sends heartbeats and
# reports how the task has ended. It does so on plumber's own event loop: `tick` is called some times a second, and
# waits for nobody.

STOPPING <- "the service is stopping"
FULL_PAUSE_S <- 0.05
IDLE_PAUSE_S <- 0.5
LONGEST_HEARTBEAT_S <- 30
LAST_CALLS_S <- 10
MOST_SEEN <- 10000L

supervisor <- new.env()
supervisor$pid <- Sys.getpid()
supervisor$held <- list() # the tasks of this process that have no end yet, by their names
supervisor$seen <- character()
supervisor$instance <- random_hex(8L)
supervisor$slots <- NULL
supervisor$stop_at_s <- NULL
supervisor$is_ticking <- FALSE

# Runs `run(...)` in a process of its own, and answers the dispatch at once.
#
#   slots   how many tasks this process holds at a time, of all its endpoints. One more is answered 503: the backbone
#           keeps it, and sends it when there is room. Without it, TASK_SLOTS, and 1 without that.
#
# What `run` returns is the task's result: see `result_of`. Returns `res`, for plumber.
RunTask <- function(req, res, run, ..., slots = NULL) {
  slots <- slots %or% number_of(Sys.getenv("TASK_SLOTS"), 1)
  supervisor$slots <- slots
  name <- deparse1(substitute(run))
  if (!is.function(run)) stop("RunTask needs the function that is to run, and not what it returns.", call. = FALSE)
  dispatch <- dispatch_of(req)
  if (is.null(dispatch)) {
    return(answer_with(res, 400L, "This endpoint works on tasks of the backbone: submit one there."))
  }
  if (dispatch$key %in% supervisor$seen || is_outdated(dispatch)) {
    return(answer_with(res, 202L)) # it came twice: it runs, or has run
  }
  if (is_stopping() || slots_taken() >= slots) {
    return(answer_with(res, 503L, if (is_stopping()) STOPPING else "all slots are taken"))
  }
  # One that this attempt replaces is at work for nobody.
  for (older in of_task(dispatch$task_id)) stop_work(older$key, "it has a newer attempt")
  held <- start_child(dispatch, run, list(...), name)
  supervisor$held[[held$key]] <- held
  supervisor$seen <- utils::tail(c(supervisor$seen, held$key), MOST_SEEN)
  start_ticking()
  answer_with(res, 202L, if (is.null(backbone())) dispatch$task_id else "")
}

answer_with <- function(res, status, text = "") {
  res$status <- status
  for (name in names(telling())) res$setHeader(name, telling()[[name]])
  res$setHeader("Content-Type", "text/plain; charset=utf-8")
  res$body <- text
  res
}

# What each answer and each call of this process tells of its slots.
telling <- function() {
  if (is_child()) {
    return(list("X-Task-Slots" = job$slots, "X-Task-Instance" = job$instance))
  }
  if (is.null(supervisor$slots)) {
    return(list())
  }
  slots <- if (is_stopping()) 0 else supervisor$slots
  list("X-Task-Slots" = format(slots, scientific = FALSE), "X-Task-Instance" = supervisor$instance)
}

# Which task a request brings; NULL if none. In the local mode each request is one.
dispatch_of <- function(req) {
  task_id <- header_of(req, "HTTP_TASKID")
  if (is.null(task_id)) {
    if (!is.null(backbone())) {
      return(NULL)
    }
    task_id <- local_task(req)$TaskId
  } else if (is.null(backbone())) {
    local_task(req)
  }
  attempt <- header_of(req, "HTTP_X_TASK_ATTEMPT")
  remember(task_id, attempt)
  list(
    key = paste(task_id, attempt %or% random_hex(4L)), task_id = task_id, attempt = whole_number(attempt),
    lease_s = number_of(header_of(req, "HTTP_X_TASK_LEASE"), 300), trace = header_of(req, "HTTP_TRACEPARENT")
  )
}

of_task <- function(task_id) Filter(function(held) held$task_id == task_id, supervisor$held)

is_outdated <- function(dispatch) {
  any(vapply(of_task(dispatch$task_id), function(held) (held$attempt %or% 0) > (dispatch$attempt %or% 0), logical(1L)))
}

# A child that is about to report an end has freed its slot: it has put the file `ended` into its folder first.
slots_taken <- function() {
  sum(vapply(supervisor$held, function(held) {
    !is.null(held$process) && !file.exists(file.path(held$folder, "ended"))
  }, logical(1L)))
}

start_child <- function(dispatch, run, arguments, name) {
  folder <- tempfile("task-")
  dir.create(folder, mode = "0700")
  given <- list(
    folder = folder, task_id = dispatch$task_id, attempt = dispatch$attempt, trace = dispatch$trace,
    slots = format(supervisor$slots, scientific = FALSE), instance = supervisor$instance,
    packages = rev(setdiff(.packages(), c("base", "methods", "datasets", "utils", "grDevices", "graphics", "stats"))),
    globals = globals_for_child(), tools = tools_loaded, run = run, arguments = arguments
  )
  file <- file.path(folder, "job.rds")
  saveRDS(given, file, compress = FALSE)
  process <- callr::r_bg(
    function(main, file) {
      source(main)
      get(".task_backbone", globalenv())$child_main(file)
    },
    list(main = file.path(tools_folder, "task_management", "api_task.R"), file = file),
    stdout = "", stderr = "", supervise = TRUE, cleanup = TRUE, env = c(callr::rcmd_safe_env(), TASK_CHILD = "1")
  )
  say("task ", dispatch$task_id, ", attempt ", dispatch$attempt %or% "unknown", ": ", name, " runs")
  c(dispatch, list(
    folder = folder, process = process, beat_at_s = now_s() + beat_every_s(dispatch), log_at = 0, report_at = 0
  ))
}

beat_every_s <- function(held) min(held$lease_s / 3, LONGEST_HEARTBEAT_S)

# What the functions of the service may use: all that its files have defined, but for the server and these tools.
globals_for_child <- function() {
  everything <- mget(ls(globalenv(), all.names = TRUE), envir = globalenv())
  is_left <- vapply(everything, function(each) {
    inherits(each, c("Plumber", "plumber", "process")) || identical(each, tools_environment) ||
      (is.function(each) && identical(environment(each), tools_environment))
  }, logical(1L))
  everything[!is_left & names(everything) != ".Random.seed"]
}

# For `#* @parser task`: leaves the body as it came. (plumber's own parser `none` fails on some versions, and those that
# read the body answer a malformed one with 500, which has the backbone try again.)
offer_parser <- function() {
  if ("plumber" %in% loadedNamespaces() && !"task" %in% plumber::registered_parsers()) {
    plumber::register_parser("task", function(...) function(value, ...) NULL, regex = ".*")
  }
}

# The event loop.

start_ticking <- function() {
  is_service <- !nzchar(Sys.getenv("TASK_CHILD"))
  if (!supervisor$is_ticking && is_service && requireNamespace("later", quietly = TRUE)) {
    supervisor$is_ticking <- TRUE
    later::later(tick, 0)
  }
}

tick <- function() {
  # Whatever goes wrong here: the service goes on.
  pause_s <- tryCatch(turn(), error = function(error) {
    say("the supervisor: ", conditionMessage(error))
    IDLE_PAUSE_S
  })
  later::later(tick, pause_s)
}

# One turn of the event loop. Returns for how long the next one may wait, in seconds.
turn <- function() {
  if (!is_stopping() && is_told_to_stop()) {
    begin_to_stop()
  }
  for (key in names(supervisor$held)) {
    tryCatch(look_after(key), error = function(error) give_up(key, error))
  }
  flush_telemetry()
  # A few milliseconds for a call that is under way: less than a request to the service would notice.
  is_calling <- advance(if (line$under_way > 0L) 0.01 else 0)
  if (is_stopping() && !length(supervisor$held) && !is_calling) {
    quit(save = "no", status = 0L)
  }
  if (is_calling) 0 else if (length(supervisor$held)) FULL_PAUSE_S else IDLE_PAUSE_S
}

# What cannot be looked after any more is left to the end of its lease.
give_up <- function(key, error) {
  say("task ", key, ": ", conditionMessage(error))
  if (is.null(supervisor$held[[key]]$process)) drop(key)
}

look_after <- function(key) {
  held <- supervisor$held[[key]]
  if (is.null(held)) {
    return(invisible())
  }
  hear(key)
  if (is.null(held$process)) {
    return(beat(key)) # its end is being reported
  }
  if (file.exists(file.path(held$folder, "lost")) && is.null(held$stopped)) {
    stop_work(key, "it is not ours any more")
  }
  if (!held$process$is_alive()) {
    return(has_ended(key))
  }
  if (is.null(held$stopped)) {
    give_back_in_time(key)
    beat(key)
  } else if (now_s() > held$kill_at_s) {
    held$process$kill_tree()
  }
}

change <- function(key, ...) {
  if (!is.null(supervisor$held[[key]])) supervisor$held[[key]] <- utils::modifyList(supervisor$held[[key]], list(...))
}

# The heartbeat of a task, if it is time for one.
beat <- function(key) {
  held <- supervisor$held[[key]]
  backbone <- backbone()
  if (is.null(backbone) || now_s() < held$beat_at_s) {
    return(invisible())
  }
  change(key, beat_at_s = now_s() + beat_every_s(held))
  call <- api_call(backbone, "POST", task_url(backbone, held$task_id, "/heartbeat"), NULL, headers_for(held))
  request_later(call, function(answer) {
    # Not while its end is being reported: that has an answer of its own.
    is_at_work <- !is.null(supervisor$held[[key]]$process)
    if (is_at_work && answer$status %in% c(404L, 409L)) stop_work(key, told_by(answer))
  }, retry_for_s = beat_every_s(held))
}

headers_for <- function(held) {
  c(if (!is.null(held$attempt)) list("X-Task-Attempt" = format(held$attempt, scientific = FALSE)), telling())
}

# Interrupts a child, so that it may tidy up, and has it killed if it does not listen.
stop_work <- function(key, why, gives_back = FALSE) {
  held <- supervisor$held[[key]]
  if (is.null(held$process) || !is.null(held$stopped)) {
    return(invisible())
  }
  say("task ", held$task_id, " is stopped: ", why)
  held$process$interrupt()
  grace_s <- number_of(Sys.getenv("TASK_GRACE_S"), 10)
  change(key, stopped = if (gives_back) "released" else "dropped", kill_at_s = now_s() + grace_s)
}

# The child has come to its end: its result is there, or nothing is.
has_ended <- function(key) {
  held <- supervisor$held[[key]]
  hear(key)
  outcome <- tryCatch(held$process$get_result(), error = function(error) NULL)
  code <- held$process$get_exit_status()
  supervisor$held[[key]]["process"] <- list(NULL) # its slot is free, and then its end is reported
  if (is.null(backbone())) {
    return(end_locally(key, outcome))
  }
  if (identical(outcome$kind, "told")) {
    return(drop(key)) # it has reported its end itself
  }
  if (identical(held$stopped, "dropped")) {
    return(drop(key))
  }
  if (identical(held$stopped, "released") && !identical(outcome$kind, "completed")) {
    return(release(key, STOPPING))
  }
  outcome <- outcome %or% list(kind = "again", text = paste("the model's process ended", how_it_ended(code)))
  switch(outcome$kind,
    completed = complete(key, outcome),
    failed = report_end(key, outcome$text, "failed"),
    again = release(key, outcome$text, failed = TRUE, after_s = outcome$after_s),
    release(key, STOPPING) # somebody else has interrupted it
  )
}

how_it_ended <- function(code) {
  if (is.null(code)) "somehow" else if (code < 0L) paste("by signal", -code) else paste("with exit code", code)
}

complete <- function(key, outcome) {
  text <- ended_text("completed", outcome$text)
  if (is.null(outcome$file)) {
    return(report_end(key, text, "completed"))
  }
  held <- supervisor$held[[key]]
  backbone <- backbone()
  body <- sent_file(outcome$file)
  if (file.size(outcome$file) <= LARGE_BYTES) body <- readBin(outcome$file, "raw", file.size(outcome$file))
  headers <- c(headers_for(held), list("X-Task-Complete" = percent_encoded(text)))
  if (!is.null(outcome$upload)) {
    body <- raw() # it is there already
    headers[["X-Upload"]] <- outcome$upload
  }
  url <- task_url(backbone, held$task_id, "/result")
  deliver(key, api_call(backbone, "PUT", url, body, headers, outcome$type, timeout_s = 60), function(answer) {
    if (answer$status == 413L) {
      report_end(key, "failed - the result is too large", "failed")
    } else {
      drop(key, answer)
    }
  })
}

report_end <- function(key, text, state) {
  held <- supervisor$held[[key]]
  deliver(key, report_call(backbone(), held$task_id, held$attempt, ended_text(state, text), state))
}

# Gives a task back. `failed`: it counts as a failure, and the last one ends the task.
release <- function(key, text, failed = FALSE, after_s = NULL) {
  held <- supervisor$held[[key]]
  backbone <- backbone()
  deliver(key, release_call(backbone, held$task_id, headers_for(held), text, failed, after_s))
}

release_call <- function(backbone, task_id, headers, text, failed = FALSE, after_s = NULL) {
  document <- list(Failed = if (failed) TRUE, RetryAfterSeconds = after_s, Status = text)
  api_call(backbone, "POST", task_url(backbone, task_id, "/release"), document, headers)
}

deliver <- function(key, call, done = function(answer) drop(key, answer)) request_later(call, done)

drop <- function(key, answer = NULL) {
  held <- supervisor$held[[key]]
  if (!is.null(answer) && !is_success(answer) && answer$status != 409L) {
    say("task ", held$task_id, " keeps no end: ", told_by(answer)) # its lease ends, and the backbone tries again
  }
  forget(held$task_id)
  unlink(held$folder, recursive = TRUE)
  supervisor$held[[key]] <- NULL
}

ended_text <- function(word, text) {
  text <- as_text(text) %or% ""
  if (!nzchar(text)) word else if (startsWith(tolower(text), word)) text else paste(word, "-", text)
}

end_locally <- function(key, outcome) {
  id <- supervisor$held[[key]]$task_id
  outcome <- outcome %or% list(kind = "failed", text = "the model's process ended")
  if (outcome$kind == "completed") {
    value <- if (!is.null(outcome$file)) readBin(outcome$file, "raw", file.size(outcome$file))
    local_set(id, Status = ended_text("completed", outcome$text), BackendStatus = "completed", Result = value)
  } else if (outcome$kind != "told") {
    local_set(id, Status = ended_text("failed", outcome$text), BackendStatus = "failed")
  }
  drop(key)
}

# What a child leaves in its folder for this process: log lines to send on, and, in the local mode, reports.
hear <- function(key) {
  held <- supervisor$held[[key]]
  read <- new_lines(file.path(held$folder, "telemetry"), held$log_at)
  change(key, log_at = read$at)
  for (line in read$lines) queue_telemetry(line)
  read <- new_lines(file.path(held$folder, "reports"), held$report_at)
  change(key, report_at = read$at)
  for (line in read$lines) local_hear(line)
}

hear_from_children <- function() for (key in names(supervisor$held)) hear(key)

# The whole lines behind byte `at` of a file that another process writes.
new_lines <- function(file, at) {
  size <- file.size(file)
  if (is.na(size) || size <= at) {
    return(list(lines = character(), at = at))
  }
  source <- file(file, "rb")
  on.exit(close(source))
  seek(source, at)
  bytes <- readBin(source, "raw", size - at)
  ends <- which(bytes == as.raw(10L))
  if (!length(ends)) {
    return(list(lines = character(), at = at))
  }
  whole <- utils::head(bytes, max(ends))
  list(lines = strsplit(text_of(whole), "\n", fixed = TRUE)[[1L]], at = at + max(ends))
}

# The end of the service. Its launcher, `serve`, makes the file when it gets SIGTERM, which R itself does not hear.

is_stopping <- function() !is.null(supervisor$stop_at_s)

is_told_to_stop <- function() {
  file <- Sys.getenv("TASK_STOP_FILE")
  nzchar(file) && file.exists(file)
}

begin_to_stop <- function() {
  supervisor$stop_at_s <- now_s() + number_of(Sys.getenv("TASK_DRAIN_S"), 20)
  say("stopping: ", length(supervisor$held), " tasks at work")
}

give_back_in_time <- function(key) {
  if (is_stopping() && now_s() > supervisor$stop_at_s) stop_work(key, STOPPING, gives_back = TRUE)
}

# At any other end of the process that R hears of, what it holds goes back at once, and the last log lines are sent.
# Calls that were under way are lost with curl's pool, which R may have taken down: so these are made one by one.
at_exit <- function(...) {
  if (is_child() || Sys.getpid() != supervisor$pid) {
    return(invisible())
  }
  until_s <- now_s() + LAST_CALLS_S
  if (!is.null(backbone())) release_everything(backbone(), until_s)
  send_last_lines(until_s)
}

release_everything <- function(backbone, until_s) {
  supervisor$stop_at_s <- supervisor$stop_at_s %or% now_s()
  for (held in supervisor$held) {
    if (!is.null(held$process)) try(held$process$kill_tree(), silent = TRUE)
    call_last(release_call(backbone, held$task_id, headers_for(held), STOPPING), until_s)
  }
  # So do tasks that a handler works on by itself, if it has not told their end.
  for (task_id in setdiff(ls(attempts), vapply(supervisor$held, function(held) held$task_id, ""))) {
    known <- get(task_id, attempts)
    if (is.null(known$attempt) || isTRUE(known$has_ended) || known$pid != Sys.getpid()) next
    call_last(release_call(backbone, task_id, speaking_for(task_id), STOPPING), until_s)
  }
}

# One call of the last ones, in the time that is left for all of them.
call_last <- function(call, until_s) {
  call$timeout_s <- max(0.1, until_s - now_s())
  request(call, retry_for_s = call$timeout_s)
}

reg.finalizer(supervisor, at_exit, onexit = TRUE)
