# Small things that every other file here uses.

now_s <- function() as.numeric(Sys.time())

`%or%` <- function(value, other) if (is.null(value) || !length(value) || identical(value, "")) other else value

# Bytes that nobody can guess. R's own generator is the model's: its seed must not make two keys alike, and a model that
# set one must not notice that a key was made.
random_bytes <- function(count) {
  source <- file("/dev/urandom", "rb", raw = TRUE)
  on.exit(close(source))
  readBin(source, "raw", count)
}

random_hex <- function(count) paste(format(random_bytes(count)), collapse = "")

# A UUID of version 4.
random_id <- function() {
  bytes <- random_bytes(16L)
  bytes[[7L]] <- (bytes[[7L]] & as.raw(0x0f)) | as.raw(0x40)
  bytes[[9L]] <- (bytes[[9L]] & as.raw(0x3f)) | as.raw(0x80)
  hex <- paste(format(bytes), collapse = "")
  paste(substring(hex, c(1, 9, 13, 17, 21), c(8, 12, 16, 20, 32)), collapse = "-")
}

# A number in [0, 1).
random_fraction <- function() sum(as.integer(random_bytes(3L)) * c(65536, 256, 1)) / 16777216

# Text as it is written into JSON and headers: UTF-8, one string. NULL stays NULL.
as_text <- function(value) {
  if (is.null(value)) {
    return(NULL)
  }
  enc2utf8(paste(as.character(value), collapse = "\n"))
}

# A time as RFC 3339 has it, or seconds, as the headers take both: with three digits behind the point at most. A time is
# rounded down, and no number is written as 1e+05.
when_text <- function(value) {
  if (inherits(value, "POSIXt")) {
    ms <- floor(as.numeric(as.POSIXct(value)) * 1000 + 1e-3)
    whole <- as.POSIXct(ms %/% 1000, origin = "1970-01-01", tz = "UTC")
    return(sprintf("%s.%03.0fZ", format(whole, "%Y-%m-%dT%H:%M:%S", tz = "UTC"), ms %% 1000))
  }
  if (is.numeric(value)) sub("[.]?0+$", "", sprintf("%.3f", value)) else as_text(value)
}

to_json <- function(value) {
  enc2utf8(as.character(
    jsonlite::toJSON(value, auto_unbox = TRUE, null = "null", na = "null", digits = NA, POSIXt = "ISO8601")
  ))
}

# Whatever was answered, as a list; an empty one, unless it is a JSON object.
from_json <- function(body, simplify = TRUE) {
  text <- if (is.raw(body)) text_of(body) else body
  document <- tryCatch(jsonlite::fromJSON(text, simplifyVector = simplify), error = function(error) NULL)
  if (is.list(document) && !is.null(names(document))) document else list()
}

# Bytes as text: of UTF-8, and otherwise with marks where they are none.
text_of <- function(bytes) {
  text <- rawToChar(bytes[bytes != as.raw(0L)])
  Encoding(text) <- "UTF-8"
  if (validUTF8(text)) text else iconv(text, "UTF-8", "UTF-8", sub = "?")
}

percent_encoded <- function(text) {
  bytes <- charToRaw(enc2utf8(text))
  plain <- charToRaw("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
  paste(ifelse(bytes %in% plain, rawToChar(bytes, multiple = TRUE), paste0("%", toupper(format(bytes)))), collapse = "")
}

timestamp <- function() format(Sys.time(), "%Y-%m-%dT%H:%M:%OS3Z", tz = "UTC")

BYTES <- "application/octet-stream"

# The content type that a file's name says.
type_of_file <- function(file) mime::guess_type(file, unknown = BYTES, empty = BYTES)

# What an environment has by a name; NULL without it, or without a name.
looked_up <- function(name, environment) {
  if (length(name) == 1L && !is.na(name) && nzchar(name)) get0(name, environment, inherits = FALSE)
}

# Appends a line of UTF-8 to a file, in whatever locale.
append_line <- function(text, file) {
  target <- file(file, "ab")
  on.exit(close(target))
  writeBin(charToRaw(paste0(enc2utf8(text), "\n")), target)
}

# A line for the log of the service. Nothing of a body, a key or a query is to come here.
say <- function(...) message(format(Sys.time(), "%Y-%m-%d %H:%M:%S "), ...)

# An error that callers can tell from others by its class.
failure <- function(class, message, ...) {
  structure(class = c(class, "BackboneError", "error", "condition"), list(message = message, call = NULL, ...))
}

whole_number <- function(text) {
  number <- number_of(text)
  if (!is.null(number)) as.integer(number)
}

number_of <- function(text, otherwise = NULL) {
  number <- suppressWarnings(as.numeric(text %or% ""))
  if (length(number) == 1L && is.finite(number)) number else otherwise
}
