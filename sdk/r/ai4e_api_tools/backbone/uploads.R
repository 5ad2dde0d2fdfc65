# What is too large to go through the app: it goes to Blob Storage, and comes from there, by URLs that the app gives.

# What health tells of the largest bodies: through the app, and by an upload. Both are Inf if nobody tells.
limits <- function(backbone) {
  told <- from_json(request(new_call("GET", paste0(backbone$api, "/v1/health")), retry_for_s = 10)$body)
  list(body = told$MaxBodyBytes %or% Inf, upload = told$MaxUploadBytes %or% 0)
}

# Writes a file to Blob Storage; returns the upload's id. With `task_id`, it is for the result of that task's attempt,
# which `headers` name.
upload <- function(backbone, file, type, task_id = NULL, headers = list()) {
  declared <- list(Size = file.size(file), ContentType = type, Sha256 = sha256_of(file), TaskId = task_id)
  answer <- request(api_call(backbone, "POST", paste0(backbone$api, "/v1/uploads"), declared, headers))
  if (!is_success(answer)) stop(refusal(answer))
  told <- from_json(answer$body)
  write_blob(trusted(told$Url), file = file, type = type)
  told$UploadId
}

# The answer's body, or what the URL in its place leads to, as a file; its hash is looked at, if the answer has one.
save_answer <- function(answer, saved, file) {
  if (answer$status == 303L) {
    read_blob(trusted(answer$headers[["location"]]), file)
  } else if (!file.rename(saved, file)) {
    stop(failure("BackboneError", "The file cannot be written."))
  }
  check_digest(file, answer$headers[["repr-digest"]])
  file
}

# Raises DigestError if a file has another hash than `Repr-Digest` says.
check_digest <- function(file, header) {
  told <- regmatches(header %or% "", regexec("sha-256=:([A-Za-z0-9+/=]+):", header %or% ""))[[1L]]
  if (length(told) < 2L) {
    return(invisible())
  }
  own <- sha256_of(file)
  is_same <- is.null(own) || identical(own, paste(format(jsonlite::base64_dec(told[[2L]])), collapse = ""))
  if (!is_same) stop(failure("DigestError", "The bytes are not those that were declared: their SHA-256 is another."))
}

# NULL where there is no program for it: R 4 has none of its own.
sha256_of <- function(file) {
  if (!nzchar(Sys.which("sha256sum"))) {
    return(NULL)
  }
  # A name with a backslash would have its line begin with one.
  printed <- system2("sha256sum", "-", stdin = file, stdout = TRUE)
  substr(printed[[1L]], 1L, 64L)
}
