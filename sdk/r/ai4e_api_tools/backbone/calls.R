# Calls to the backbone and to the storage: what is sent, and what comes back.
#
# A call is a list: `method`, `url`, `headers`, `body` (NULL, raw bytes, or list(file =) for what is sent as it is
# read), `timeout_s`. An answer is one too: `status` (0: there was none), `headers` by their names in small letters,
# `body`.

LARGE_BYTES <- 1024^2
RETRY_FOR_S <- 120
FIRST_PAUSE_S <- 0.25
LONGEST_PAUSE_S <- 20

new_call <- function(method, url, headers = list(), body = NULL, timeout_s = 30) {
  list(method = method, url = url, headers = headers, body = body, timeout_s = timeout_s)
}

size_of <- function(body) if (is.list(body)) file.size(body$file) else length(body)

# Makes a call once, and waits for the answer. With `save`, a body of 2xx goes there.
perform <- function(call, save = NULL) {
  client <- crul::HttpClient$new(call$url, headers = call$headers, opts = options_of(call))
  sent <- if (!is.list(call$body)) {
    call$body
  } else {
    crul::upload(call$body$file, call$headers[["Content-Type"]] %or% BYTES)
  }
  answer <- tryCatch(
    switch(call$method,
      GET = client$get(disk = save),
      HEAD = client$head(),
      DELETE = client$delete(),
      POST = client$post(body = sent),
      PUT = client$put(body = sent)
    ),
    error = function(error) NULL # its text may have the URL
  )
  if (is.null(answer)) {
    return(no_answer())
  }
  body <- if (is.null(save)) answer$content
  if (!is.null(save) && answer$status_code >= 300L) body <- readBin(save, "raw", LARGE_BYTES)
  new_answer(answer$status_code, answer$response_headers, body)
}

options_of <- function(call) {
  patience <- if (is.list(call$body) || size_of(call$body) > LARGE_BYTES || isTRUE(call$streamed)) {
    list(low_speed_limit = 1L, low_speed_time = as.integer(call$timeout_s))
  } else {
    list(timeout_ms = as.integer(call$timeout_s * 1000))
  }
  c(patience, list(connecttimeout_ms = 10000L, followlocation = FALSE, useragent = "taskbackbone-r"), call$options)
}

new_answer <- function(status, headers, body) {
  names(headers) <- tolower(names(headers))
  list(status = as.integer(status), headers = headers, body = body %or% raw())
}

no_answer <- function() new_answer(0L, list(), raw())

# Makes a call that may be made twice, until it has an answer that stays, or `retry_for_s` is over.
request <- function(call, retry_for_s = RETRY_FOR_S, save = NULL) {
  retry <- new_retry(retry_for_s)
  repeat {
    answer <- perform(call, save)
    retry <- after(retry, call, answer)
    if (is.null(retry$pause_s)) {
      return(answer)
    }
    Sys.sleep(retry$pause_s)
  }
}

# When a call is made again: `pause_s` is NULL if it is not.
new_retry <- function(retry_for_s = RETRY_FOR_S) {
  list(until_s = now_s() + retry_for_s, most_s = FIRST_PAUSE_S, refusals = 0L, pause_s = NULL)
}

after <- function(retry, call, answer) {
  retry$pause_s <- NULL
  if (!is_transient(answer$status)) {
    return(retry)
  }
  # An empty 500 to a large body is the platform's limit: twice, and it is no chance.
  is_limit <- answer$status == 500L && !length(answer$body) && size_of(call$body) > LARGE_BYTES
  retry$refusals <- retry$refusals + is_limit
  least_s <- retry_after_s(answer)
  left_s <- retry$until_s - now_s()
  if (retry$refusals < 2L && left_s > least_s) {
    retry$pause_s <- min(least_s + random_fraction() * retry$most_s, left_s)
    retry$most_s <- min(2 * retry$most_s, LONGEST_PAUSE_S)
  }
  retry
}

is_transient <- function(status) status == 0L || status %in% c(408L, 429L) || status >= 500L

is_success <- function(answer) answer$status >= 200L && answer$status < 300L

retry_after_s <- function(answer) {
  text <- answer$headers[["retry-after"]] %or% ""
  seconds <- number_of(text)
  if (!is.null(seconds)) {
    return(max(0, seconds))
  }
  at <- curl::parse_date(text)
  if (length(at) == 1L && !is.na(at)) max(0, as.numeric(at) - now_s()) else 0
}

# What an answer other than 2xx says, in one line.
told_by <- function(answer) {
  problem <- from_json(answer$body)
  as_text(problem$detail %or% problem$title %or% if (answer$status == 0L) {
    "the backbone does not answer"
  } else {
    paste0("the server answered ", answer$status, ", and not in the backbone's words. Are URL and key right?")
  })
}

# Calls that the process makes beside what else it does: each is looked after whenever `advance` is called.
line <- new.env()
line$pool <- NULL
line$waiting <- list() # calls that are to be made again, with the time
line$under_way <- 0L

# Makes a call, again and again as `request` does; then `done(answer)`.
request_later <- function(call, done, retry_for_s = RETRY_FOR_S) {
  line$under_way <- line$under_way + 1L
  begin(call, done, new_retry(retry_for_s))
}

begin <- function(call, done, retry) {
  source <- if (is.list(call$body)) file(call$body$file, "rb")
  ended <- function(answer) {
    if (!is.null(source)) close(source)
    retry <- after(retry, call, answer)
    if (is.null(retry$pause_s)) {
      line$under_way <- line$under_way - 1L
      done(answer)
    } else {
      again <- list(at_s = now_s() + retry$pause_s, run = function() begin(call, done, retry))
      line$waiting <- c(line$waiting, list(again))
    }
  }
  line$pool <- line$pool %or% curl::new_pool()
  curl::multi_add(
    handle_of(call, source),
    done = function(got) ended(new_answer(got$status_code, headers_of(got$headers), got$content)),
    fail = function(error) ended(no_answer()),
    pool = line$pool
  )
}

handle_of <- function(call, source) {
  handle <- curl::new_handle(url = call$url)
  curl::handle_setopt(handle, .list = c(options_of(call), list(customrequest = call$method)))
  # Expect would cost a second: nobody here answers it.
  curl::handle_setheaders(handle, .list = c(call$headers, list(Expect = "")))
  if (!is.null(source)) {
    curl::handle_setopt(
      handle,
      upload = TRUE, infilesize_large = size_of(call$body), readfunction = function(count) readBin(source, "raw", count)
    )
  } else if (call$method %in% c("POST", "PUT")) {
    curl::handle_setopt(handle, post = TRUE, postfieldsize = length(call$body), postfields = call$body %or% raw())
  }
  handle
}

headers_of <- function(bytes) {
  lines <- curl::parse_headers(bytes)
  lines <- lines[grepl(":", lines, fixed = TRUE)]
  values <- as.list(trimws(sub("^[^:]*:", "", lines)))
  names(values) <- tolower(trimws(sub(":.*$", "", lines)))
  values
}

# Moves the calls on that are under way, for `for_s` seconds at most. Returns whether there are any.
advance <- function(for_s = 0) {
  now <- now_s()
  is_due <- vapply(line$waiting, function(again) again$at_s <= now, logical(1L))
  due <- line$waiting[is_due]
  line$waiting <- line$waiting[!is_due]
  for (again in due) again$run()
  if (!is.null(line$pool)) {
    curl::multi_run(timeout = for_s, poll = for_s > 0, pool = line$pool)
  }
  line$under_way > 0L
}
