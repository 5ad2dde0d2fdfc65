# Where the backbone is. A service and a caller are told by the environment:
#
#   BACKBONE_URL, BACKBONE_KEY                                the app, and a function key
#   CACHE_CONNECTOR_UPSERT_URI, CACHE_CONNECTOR_GET_URI       the legacy names: each a URL with its key
#
# Without any of them, tasks are kept in memory: the local mode.

API_JSON <- "application/json"

# NULL in the local mode.
backbone <- function() {
  url <- trimws(Sys.getenv("BACKBONE_URL"))
  if (nzchar(url)) {
    return(new_backbone(url, trimws(Sys.getenv("BACKBONE_KEY"))))
  }
  upsert <- trimws(Sys.getenv("CACHE_CONNECTOR_UPSERT_URI"))
  if (!nzchar(upsert)) {
    return(NULL)
  }
  parts <- parts_of(upsert)
  key <- urltools::param_get(upsert, "code")$code
  # The v1 operations lie beside the function: /api/CacheConnectorUpsert, /api/v1/tasks/ID.
  base <- paste0(parts$origin, sub("/[^/]*/?$", "", parts$path))
  list(
    api = base,
    headers = if (!is.na(key)) list("x-functions-key" = urltools::url_decode(key)) else list(),
    upsert = upsert,
    get = trimws(Sys.getenv("CACHE_CONNECTOR_GET_URI"))
  )
}

new_backbone <- function(url, key = "", headers = list()) {
  parts <- parts_of(url)
  if (!parts$scheme %in% c("http", "https") || !nzchar(parts$host) || nzchar(parts$query)) {
    stop(failure("InvalidRequest", "BACKBONE_URL must be http:// or https://, a host, and perhaps a path."))
  }
  api <- paste0(sub("/+$", "", sub("/api/?$", "", paste0(parts$origin, parts$path))), "/api")
  list(
    api = api,
    headers = c(if (nzchar(key)) list("x-functions-key" = key), headers),
    upsert = paste0(api, "/CacheConnectorUpsert"),
    get = paste0(api, "/CacheConnectorGet")
  )
}

parts_of <- function(url) {
  found <- regmatches(url, regexec("^([A-Za-z]+)://([^/?#]*)([^?#]*)(?:[?]([^#]*))?(#.*)?$", url, perl = TRUE))[[1L]]
  if (!length(found)) {
    return(list(scheme = "", host = "", origin = "", path = "", query = ""))
  }
  scheme <- tolower(found[[2L]])
  list(
    scheme = scheme, host = found[[3L]], origin = paste0(scheme, "://", found[[3L]]), path = found[[4L]],
    query = found[[5L]]
  )
}

task_url <- function(backbone, task_id, rest = "") {
  paste0(backbone$api, "/v1/tasks/", percent_encoded(task_id), rest)
}

# A call with a JSON document, or with bytes of another type.
api_call <- function(backbone, method, url, document = NULL, headers = list(), type = API_JSON, ...) {
  body <- if (is.raw(document) || inherits(document, "sent_file")) document else document_bytes(document)
  headers <- c(backbone$headers, headers, if (method %in% c("POST", "PUT")) list("Content-Type" = type))
  new_call(method, url, headers, body, ...)
}

document_bytes <- function(document) {
  if (is.null(document)) raw() else charToRaw(to_json(document[!vapply(document, is.null, logical(1L))]))
}

sent_file <- function(file) structure(list(file = file), class = "sent_file")
