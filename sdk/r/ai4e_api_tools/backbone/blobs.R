# Blobs by URLs that carry their permission (SAS). No such URL, and nothing of its query, is ever logged or told.
#
# Which hosts: Azure's own names for Blob Storage over https, and what SERVICE_STORAGE names: the beginnings of other
# URLs, with blanks or commas between them, such as http://127.0.0.1:10000/devstoreaccount1/images. No redirect is
# followed. A public name that leads to a private address is refused, unless SERVICE_STORAGE names it.

STORAGE_API <- "2021-12-02"
BLOCK_BYTES <- 4 * 1024^2
AZURE <- paste0(
  "^https://[a-z0-9-]{3,34}([.]z[0-9]+)?[.]blob[.]",
  "(core[.]windows[.]net|core[.]usgovcloudapi[.]net|core[.]chinacloudapi[.]cn|storage[.]azure[.]net)$"
)

# The blob's bytes, or with `file` its path: read in parts, so that any size fits, and there only once it is whole.
ReadBlob <- function(sas_uri, file = NULL) read_blob(checked(sas_uri), file)

read_blob <- function(place, file = NULL) {
  target <- file %or% tempfile("blob-")
  part <- paste0(target, ".part")
  if (is.null(file)) on.exit(unlink(target))
  on.exit(unlink(part), add = TRUE)
  read_parts(place, part)
  if (!file.rename(part, target)) stop(failure("BlobError", "The blob's file cannot be written."))
  if (is.null(file)) readBin(target, "raw", file.size(target)) else invisible(file)
}

read_parts <- function(place, part) {
  target <- file(part, "wb")
  on.exit(close(target))
  at <- 0
  etag <- NULL
  repeat {
    range <- sprintf("bytes=%.0f-%.0f", at, at + BLOCK_BYTES - 1)
    # All parts are of one version of the blob.
    same <- if (!is.null(etag)) list("If-Match" = etag)
    answer <- storage_call(place, "GET", headers = c(list("x-ms-range" = range), same))
    if (answer$status == 416L && at == 0) {
      return(invisible()) # it is empty
    }
    demand(answer)
    writeBin(answer$body, target)
    sweep(at)
    at <- at + length(answer$body)
    etag <- answer$headers[["etag"]]
    size <- number_of(sub("^.*/", "", answer$headers[["content-range"]] %or% ""), at)
    if (at >= size) {
      return(invisible())
    }
    if (!length(answer$body)) stop(failure("BlobError", "The storage sent nothing of the blob."))
  }
}

# Writes bytes, a text (as UTF-8), or with `file` a file to a blob. Each block carries its hash.
WriteBlob <- function(sas_uri, value = NULL, file = NULL, type = NULL) {
  write_blob(checked(sas_uri), value, file, type)
  invisible(sas_uri)
}

write_blob <- function(place, value = NULL, file = NULL, type = NULL) {
  if (is.null(file)) {
    bytes <- if (is.raw(value)) value else charToRaw(as_text(value) %or% "")
    type <- type %or% if (is.raw(value)) BYTES else "text/plain; charset=utf-8"
    source <- rawConnection(bytes, "rb")
  } else {
    type <- type %or% type_of_file(file)
    source <- file(file, "rb")
  }
  on.exit(close(source))
  blocks <- character()
  repeat {
    bytes <- readBin(source, "raw", BLOCK_BYTES)
    if (!length(bytes)) break
    id <- jsonlite::base64_enc(charToRaw(sprintf("%08d", length(blocks))))
    query <- paste0("comp=block&blockid=", percent_encoded(id))
    demand(storage_call(place, "PUT", query, list("Content-MD5" = md5_of(bytes)), bytes))
    blocks <- c(blocks, id)
    sweep(length(blocks) * BLOCK_BYTES)
  }
  list_of_blocks <- paste0(
    "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>", paste0("<Latest>", blocks, "</Latest>", collapse = ""),
    "</BlockList>"
  )
  if (!length(blocks)) list_of_blocks <- "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList></BlockList>"
  headers <- list("x-ms-blob-content-type" = type, "Content-Type" = "application/xml")
  demand(storage_call(place, "PUT", "comp=blocklist", headers, charToRaw(list_of_blocks)))
}

# Now and then: R alone would let 100 MB of garbage pile up, since each call's block hangs on its handle.
sweep <- function(at) if (at %% (4 * BLOCK_BYTES) == 0) gc()

md5_of <- function(bytes) {
  file <- tempfile()
  on.exit(unlink(file))
  writeBin(bytes, file)
  hex <- unname(tools::md5sum(file))
  jsonlite::base64_enc(as.raw(strtoi(substring(hex, seq(1, 31, 2), seq(2, 32, 2)), 16L)))
}

storage_call <- function(place, method, query = "", headers = list(), body = NULL) {
  url <- if (nzchar(query)) paste0(place$url, if (nzchar(place$query)) "&" else "?", query) else place$url
  headers <- c(headers, list("x-ms-version" = STORAGE_API))
  if (method == "PUT" && is.null(headers[["Content-Type"]])) headers[["Content-Type"]] <- BYTES
  call <- new_call(method, url, headers, body, timeout_s = 60)
  call$streamed <- TRUE
  call$options <- place$options
  request(call)
}

demand <- function(answer) {
  if (is_success(answer)) {
    return(answer)
  }
  word <- answer$headers[["x-ms-error-code"]] %or% ""
  if (!grepl("^[A-Za-z]+$", word)) word <- ""
  told <- if (answer$status == 0L) "does not answer" else paste("answered", answer$status, word)
  stop(failure("BlobError", paste0("The storage ", trimws(told), "."), status = answer$status))
}

# A URL that the backbone itself has answered: wherever it keeps its blobs.
trusted <- function(url) list(url = url, query = parts_of(url)$query)

# A URL that may be called. Raises BlobError, whose text has its host at most.
checked <- function(sas_uri) {
  url <- as_text(sas_uri) %or% ""
  parts <- parts_of(url)
  decoded <- urltools::url_decode(parts$path)
  is_plain <- grepl("^[\\x21-\\x7e]+$", url, perl = TRUE) && !grepl("[\\\\#\"<>]", url) &&
    !grepl("@", parts$host, fixed = TRUE) && !grepl("(^|/)[.]{1,2}(/|$)", decoded) && !grepl("%|\\\\", decoded)
  if (!parts$scheme %in% c("http", "https") || !nzchar(parts$host) || !is_plain) {
    stop(failure("BlobError", "This is no plain URL of a blob."))
  }
  origin <- tolower(sub(if (parts$scheme == "https") ":443$" else ":80$", "", parts$origin))
  query <- if (nzchar(parts$query)) paste0("?", parts$query) else ""
  place <- list(url = paste0(parts$origin, parts$path, query), query = parts$query)
  if (is_named(origin, parts$path)) {
    return(place)
  }
  if (!grepl(AZURE, origin)) {
    stop(failure("BlobError", paste0("SERVICE_STORAGE does not name ", parts$host, ".")))
  }
  place$options <- list(resolve = public_address(parts$host))
  place
}

is_named <- function(origin, path) {
  named <- strsplit(trimws(Sys.getenv("SERVICE_STORAGE")), "[[:space:],]+")[[1L]]
  any(vapply(named, function(beginning) {
    parts <- parts_of(beginning)
    usual <- sub(if (parts$scheme == "https") ":443$" else ":80$", "", parts$origin)
    within <- sub("/+$", "", parts$path)
    tolower(usual) == origin && (path == within || startsWith(path, paste0(within, "/")))
  }, logical(1L)))
}

# The host with its address, as curl's option `resolve` takes it, so that the connection goes to what was looked at.
public_address <- function(host) {
  addresses <- tryCatch(curl::nslookup(host, multiple = TRUE, error = FALSE), error = function(error) NULL)
  if (is.null(addresses)) stop(failure("BlobError", paste0(host, " has no address.")))
  if (!all(vapply(addresses, is_public, logical(1L)))) {
    stop(failure("BlobError", paste0(host, " leads to an address that is not allowed.")))
  }
  paste0(host, ":443:", paste(ifelse(grepl(":", addresses), paste0("[", addresses, "]"), addresses), collapse = ","))
}

is_public <- function(address) {
  if (grepl(":", address, fixed = TRUE)) {
    # Of IPv6, global unicast only, without what embeds an address of IPv4.
    return(grepl("^[23]", address) && !grepl("^2002:|^2001:0?:|^2001:db8:", tolower(address)))
  }
  part <- as.integer(strsplit(address, ".", fixed = TRUE)[[1L]])
  a <- part[[1L]]
  b <- part[[2L]]
  !(a %in% c(0L, 10L, 127L) || a >= 224L || (a == 100L && b >= 64L && b < 128L) || (a == 169L && b == 254L) ||
    (a == 172L && b >= 16L && b < 32L) || (a == 192L && b == 168L) || (a == 192L && b == 0L) ||
    (a == 198L && b %in% 18:19) || address == "168.63.129.16")
}

# The legacy helper, by its names: what of it needs no more than a SAS.
SasBlob <- function() {
  list(
    get_account_from_uri = function(sas_uri) sub("[.].*$", "", parts_of(sas_uri)$host),
    get_container_from_uri = function(sas_uri) blob_name_of(sas_uri)$container,
    get_blob_from_uri = function(sas_uri) blob_name_of(sas_uri)$blob,
    get_sas_key_from_uri = function(sas_uri) parts_of(sas_uri)$query,
    get_blob_sas_uri = blob_uri,
    write_blob_from_bytes = function(container_sas_uri, blob_name, input_bytes) {
      WriteBlob(blob_uri(container_sas_uri, blob_name), as.raw(input_bytes))
    },
    write_blob_from_text = function(container_sas_uri, blob_name, text) {
      WriteBlob(blob_uri(container_sas_uri, blob_name), as_text(text))
    },
    # A file's path, or a connection that is open for reading bytes.
    write_blob = function(container_sas_uri, blob_name, input_stream) {
      uri <- blob_uri(container_sas_uri, blob_name)
      if (is.character(input_stream)) {
        return(WriteBlob(uri, file = input_stream))
      }
      spooled <- tempfile("stream-")
      on.exit(unlink(spooled))
      target <- file(spooled, "wb")
      while (length(bytes <- readBin(input_stream, "raw", BLOCK_BYTES))) writeBin(bytes, target)
      close(target)
      WriteBlob(uri, file = spooled)
    },
    get_blob = function(sas_uri) ReadBlob(sas_uri),
    save_local_text = function(sas_uri, local_file) ReadBlob(sas_uri, local_file)
  )
}

# In Azure's names the account is the host; in an emulator's, the first part of the path.
blob_name_of <- function(uri) {
  parts <- parts_of(uri)
  segments <- strsplit(sub("^/", "", parts$path), "/", fixed = TRUE)[[1L]]
  if (!grepl(AZURE, tolower(parts$origin)) && grepl("^[0-9.:]+$|^localhost", parts$host)) segments <- segments[-1L]
  list(container = segments[[1L]], blob = urltools::url_decode(paste(segments[-1L], collapse = "/")))
}

blob_uri <- function(container_sas_uri, blob_name) {
  parts <- parts_of(container_sas_uri)
  segments <- strsplit(enc2utf8(blob_name), "/", fixed = TRUE)[[1L]]
  name <- paste(vapply(segments, percent_encoded, ""), collapse = "/")
  query <- if (nzchar(parts$query)) paste0("?", parts$query) else ""
  paste0(parts$origin, sub("/+$", "", parts$path), "/", name, query)
}
