# Log lines to Application Insights. Where a line goes is told by the environment:
#
#   APPLICATIONINSIGHTS_CONNECTION_STRING     with the key, and the host that takes the lines
#   APPINSIGHTS_INSTRUMENTATIONKEY            the legacy way: the key; the host is the public one
#
# Without either, nothing is sent. A line is sent beside what the process does, and some are lost rather than that
# anything waits for them.

PUBLIC_INGESTION <- "https://dc.services.visualstudio.com"
MOST_PENDING <- 1000L
MOST_IN_A_CALL <- 100L
FLUSH_EVERY_S <- 1
MOST_CHARACTERS <- 32768L

telemetry <- new.env()
telemetry$pending <- character()
telemetry$sending <- character()
telemetry$sent_at_s <- 0
telemetry$calls <- 0L

log_debug <- function(message, taskId = NULL, additionalProperties = NULL) {
  log_line(message, "Verbose", taskId, additionalProperties)
}

log_info <- function(message, taskId = NULL, additionalProperties = NULL) {
  log_line(message, "Information", taskId, additionalProperties)
}

log_warn <- function(message, taskId = NULL, additionalProperties = NULL) {
  log_line(message, "Warning", taskId, additionalProperties)
}

log_error <- function(message, taskId = NULL, additionalProperties = NULL) {
  log_line(message, "Error", taskId, additionalProperties)
}

log_exception <- function(message, taskId = NULL, additionalProperties = NULL) {
  log_line(message, "Critical", taskId, additionalProperties)
}

# Never raises: what is logged is no reason to end a task.
log_line <- function(message, severity, task_id, properties) {
  tryCatch(
    {
      ingestion <- ingestion()
      if (!is.null(ingestion)) {
        take_line(to_json(envelope(message, severity, task_id, properties, ingestion$key)))
      }
    },
    error = function(error) say("a log line is lost: ", class(error)[[1L]])
  )
  invisible()
}

# NULL if lines go nowhere.
ingestion <- function() {
  connection <- trimws(Sys.getenv("APPLICATIONINSIGHTS_CONNECTION_STRING"))
  if (!nzchar(connection)) {
    key <- trimws(Sys.getenv("APPINSIGHTS_INSTRUMENTATIONKEY"))
    return(if (nzchar(key)) list(key = key, url = paste0(PUBLIC_INGESTION, "/v2.1/track")))
  }
  parts <- strsplit(strsplit(connection, ";", fixed = TRUE)[[1L]], "=", fixed = TRUE)
  named <- list()
  for (part in parts) named[[tolower(trimws(part[[1L]]))]] <- trimws(paste(part[-1L], collapse = "="))
  if (is.null(named$instrumentationkey)) {
    return(NULL)
  }
  host <- named$ingestionendpoint %or% if (is.null(named$endpointsuffix)) {
    PUBLIC_INGESTION
  } else {
    paste0("https://dc.", named$endpointsuffix)
  }
  list(key = named$instrumentationkey, url = paste0(sub("/+$", "", host), "/v2.1/track"))
}

envelope <- function(message, severity, task_id, properties, key) {
  trace <- if (is_child()) strsplit(job$trace %or% "", "-", fixed = TRUE)[[1L]] else character()
  tags <- list("ai.cloud.role" = Sys.getenv("SERVICE_NAME"), "ai.cloud.roleInstance" = Sys.info()[["nodename"]])
  if (length(trace) == 4L) {
    tags <- c(tags, list("ai.operation.id" = trace[[2L]], "ai.operation.parentId" = trace[[3L]]))
  }
  list(
    name = "Microsoft.ApplicationInsights.Message", time = timestamp(), iKey = key, tags = tags,
    data = list(baseType = "MessageData", baseData = list(
      ver = 2L, message = substr(as_text(message) %or% "", 1L, MOST_CHARACTERS), severityLevel = severity,
      properties = utils::modifyList(service_properties(task_id), lapply(as.list(properties), as_text))
    ))
  )
}

# What the legacy tools told of a service, by the same names.
service_properties <- function(task_id) {
  variables <- c(
    service_owner = "SERVICE_OWNER", service_cluster = "SERVICE_CLUSTER", service_model_name = "SERVICE_MODEL_NAME",
    service_model_framework = "SERVICE_MODEL_FRAMEWORK",
    service_model_framework_version = "SERVICE_MODEL_FRAMEOWRK_VERSION", # spelt so
    service_model_version = "SERVICE_MODEL_VERSION", service_name = "SERVICE_NAME",
    service_version = "SERVICE_VERSION", service_container_version = "SERVICE_CONTAINER_VERSION",
    service_container_name = "SERVICE_CONTAINER_NAME"
  )
  values <- as.list(Sys.getenv(variables))
  names(values) <- names(variables)
  c(if (!is.null(task_id)) list(task_id = as_text(task_id)), values)
}

# A model's process leaves its lines to the supervisor, which lives longer, and has the time.
take_line <- function(line) {
  if (is_child()) {
    append_line(line, file.path(job$folder, "telemetry"))
  } else {
    queue_telemetry(line)
    start_ticking()
    flush_telemetry()
    advance()
  }
}

queue_telemetry <- function(line) {
  if (length(telemetry$pending) < MOST_PENDING) telemetry$pending <- c(telemetry$pending, line)
}

flush_telemetry <- function() {
  if (!length(telemetry$pending) || telemetry$calls > 0L || now_s() < telemetry$sent_at_s + FLUSH_EVERY_S) {
    return(invisible())
  }
  telemetry$sent_at_s <- now_s()
  call <- next_lines()
  if (!is.null(call)) {
    telemetry$calls <- telemetry$calls + 1L
    done <- function(answer) {
      telemetry$calls <- telemetry$calls - 1L
      telemetry$sending <- character()
    }
    request_later(call, done, retry_for_s = 30)
  }
}

# Takes the next lines off the queue. Returns the call that sends them; NULL if they go nowhere.
next_lines <- function() {
  lines <- utils::head(telemetry$pending, MOST_IN_A_CALL)
  telemetry$pending <- telemetry$pending[-seq_along(lines)]
  telemetry$sending <- lines
  ingestion <- ingestion()
  if (!is.null(ingestion)) {
    body <- charToRaw(paste0("[", paste(lines, collapse = ","), "]"))
    new_call("POST", ingestion$url, list("Content-Type" = API_JSON), body, timeout_s = 10)
  }
}

# At the end of the process: what is left, and what was on its way.
send_last_lines <- function(until_s) {
  telemetry$pending <- c(telemetry$sending, telemetry$pending)
  while (length(telemetry$pending) && now_s() < until_s) {
    call <- next_lines()
    if (!is.null(call)) call_last(call, until_s)
  }
}
