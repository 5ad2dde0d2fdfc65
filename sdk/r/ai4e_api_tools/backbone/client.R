# The client of callers.

LONGEST_POLL_S <- 30
LONGEST_SLEEP_S <- 600

# A client of the backbone: list(submit =, task =, run =).
#
#   url, key              of the app or its gateway, and a function key; without them, BACKBONE_URL and BACKBONE_KEY
#   owner, gateway_key    for gateways: whom this client calls for
#   retry_for_s           for how long a call is repeated that meets no answer, 408, 429 or 5xx
#
# What goes wrong is an error with one of these classes: TaskFailed, WaitTimeout, NotFound, QueueFull, KeyReused,
# TooLarge, Conflict, Refused (any other 4xx), Unreachable; all are a BackboneError.
TaskClient <- function(url = Sys.getenv("BACKBONE_URL"), key = Sys.getenv("BACKBONE_KEY"), owner = NULL,
                       gateway_key = NULL, retry_for_s = RETRY_FOR_S) {
  more <- list("X-Task-Owner" = owner, "X-Gateway-Key" = gateway_key)
  backbone <- new_backbone(trimws(url), trimws(key), more[!vapply(more, is.null, logical(1L))])
  call <- function(method, url, document = NULL, headers = list(), type = API_JSON, wait_s = 0, save = NULL) {
    made <- api_call(backbone, method, url, document, headers, type, timeout_s = 30 + wait_s)
    answer <- request(made, retry_for_s, save)
    if (is_success(answer) || answer$status %in% c(303L, 304L)) answer else stop(refusal(answer))
  }
  # Submits a task; returns it. `body`: bytes, a text, what JSON can say, or sent_file("a.tif") for a file.
  # `query`: a named list, for the model. `pipeline`: the paths of the steps that follow.
  # The same submit again with the same `idempotency_key` is the same task; without one, each has its own.
  # `start_after`, `start_before`: it starts no sooner, or fails unless it was dispatched by then; seconds, or a time
  # (POSIXct). `max_run_s`: an attempt that runs longer has failed. `callback`: whom the backbone tells of the end.
  submit <- function(path, body = NULL, type = NULL, query = NULL, priority = NULL, pipeline = NULL,
                     idempotency_key = NULL, start_after = NULL, start_before = NULL, max_run_s = NULL,
                     callback = NULL) {
    given <- sent_bytes(body)
    headers <- list(
      "Idempotency-Key" = idempotency_key %or% random_hex(16L), Priority = as_text(priority),
      Pipeline = if (length(pipeline)) paste(pipeline, collapse = ", "), "Start-After" = when_text(start_after),
      "Start-Before" = when_text(start_before), "Max-Run" = when_text(max_run_s), Callback = as_text(callback)
    )
    url <- paste0(backbone$api, "/v1/submit/", utils::URLencode(sub("^/+", "", path)))
    if (length(query)) url <- with_query(url, query)
    headers <- headers[!vapply(headers, is.null, logical(1L))]
    sent <- fitting_body(backbone, given$body, type %or% given$type)
    answer <- call("POST", url, sent$body, c(headers, sent$headers), type %or% given$type)
    new_task(call, backbone, from_json(answer$body))
  }
  list(
    submit = submit,
    # A task that was submitted before, by its id.
    task = function(id) new_task(call, backbone, list(TaskId = id))$refresh(),
    # Submits, waits, and returns the result.
    run = function(path, body = NULL, ..., timeout_s = Inf) submit(path, body, ...)$result(timeout_s = timeout_s)
  )
}

# A task: `id`, and functions. `view()` is what was last heard of it, as the API shows it.
new_task <- function(call, backbone, view) {
  etag <- NULL
  self <- list(id = view$TaskId)
  url <- task_url(backbone, self$id)
  take <- function(answer) {
    view <<- from_json(answer$body)
    etag <<- answer$headers[["etag"]]
    invisible(self)
  }
  has_ended <- function() isTRUE(view$BackendStatus %in% ENDED)
  self$view <- function() view
  self$state <- function() view$BackendStatus
  self$status <- function() view$Status
  self$refresh <- function() take(call("GET", url))
  self$cancel <- function() take(call("DELETE", url))
  self$replay <- function() take(call("POST", paste0(url, "/replay"), raw()))
  self$history <- function() from_json(call("GET", paste0(url, "/history"))$body)$Events
  # Waits for the end, whatever that is. `on_change(task)` is called whenever something has changed.
  self$wait <- function(timeout_s = Inf, on_change = function(task) NULL) {
    end_s <- now_s() + timeout_s
    while (!has_ended()) {
      left_s <- end_s - now_s()
      if (left_s <= 0) stop(failure("WaitTimeout", paste("Task", self$id, "goes on."), task = self))
      poll_s <- floor(min(LONGEST_POLL_S, max(left_s, 1)))
      began_s <- now_s()
      known <- if (!is.null(etag)) list("If-None-Match" = etag) else list()
      answer <- call("GET", with_query(url, list(wait = poll_s)), headers = known, wait_s = poll_s)
      least_s <- retry_after_s(answer)
      if (answer$status != 304L) {
        is_new <- !identical(etag, answer$headers[["etag"]])
        take(answer)
        if (is_new) on_change(self)
      }
      # A wait that was answered early has made room for another one; and one that waits in a long queue need not ask.
      is_early <- answer$status == 304L && now_s() - began_s < poll_s - 1
      if (!has_ended() && (is_early || least_s > LONGEST_POLL_S)) {
        Sys.sleep(max(0, min(max(least_s, 0.2), LONGEST_SLEEP_S, end_s - now_s())))
      }
    }
    invisible(self)
  }
  # The result, once there is one: JSON as R has it, text, or bytes; with `file`, the path of that file.
  self$result <- function(file = NULL, timeout_s = Inf) {
    self$wait(timeout_s)
    if (view$BackendStatus != "completed") stop(failure("TaskFailed", view$Status %or% view$BackendStatus, task = self))
    if (is.null(view$ResultSize)) {
      return(NULL)
    }
    target <- file %or% tempfile("result-")
    saved <- paste0(target, ".saved")
    on.exit(unlink(c(saved, if (is.null(file)) target)))
    save_answer(call("GET", paste0(url, "/result"), save = saved), saved, target)
    if (!is.null(file)) {
      return(invisible(file))
    }
    read_as(readBin(target, "raw", file.size(target)), view$ResultContentType %or% "")
  }
  self
}

# A body as it is sent: itself, or, if it is too large for the app, as an upload. Raises TooLarge.
fitting_body <- function(backbone, body, type) {
  size <- size_of(body)
  most <- if (size > LARGE_BYTES) limits(backbone)
  if (is.null(most) || size <= most$body) {
    return(list(body = body))
  }
  if (size > most$upload) {
    at_most <- max(most$body, most$upload)
    stop(failure("TooLarge", sprintf("The body has %.0f bytes; the backbone takes %.0f at most.", size, at_most)))
  }
  file <- if (is.list(body)) body$file else tempfile("body-")
  if (is.raw(body)) {
    on.exit(unlink(file))
    writeBin(body, file)
  }
  list(body = raw(), headers = list("X-Upload" = upload(backbone, file, type)))
}

read_as <- function(bytes, type) {
  type <- tolower(trimws(sub(";.*$", "", type)))
  if (type == API_JSON || grepl("[+]json$", type)) {
    jsonlite::fromJSON(text_of(bytes))
  } else if (startsWith(type, "text/")) {
    text_of(bytes)
  } else {
    bytes
  }
}

sent_bytes <- function(body) {
  if (inherits(body, "sent_file")) {
    list(body = body, type = type_of_file(body$file))
  } else if (is.null(body)) {
    list(body = raw(), type = BYTES)
  } else {
    bytes_of(body)
  }
}

refusal <- function(answer) {
  kind <- sub("^.*:", "", from_json(answer$body)$type %or% "")
  class <- if (kind %in% c("queue-full", "queue-draining")) {
    "QueueFull"
  } else if (is_transient(answer$status)) {
    "Unreachable"
  } else {
    c("404" = "NotFound", "409" = "Conflict", "413" = "TooLarge", "422" = "KeyReused")[as.character(answer$status)]
  }
  failure(if (is.na(class)) "Refused" else unname(class), told_by(answer), status = answer$status)
}
