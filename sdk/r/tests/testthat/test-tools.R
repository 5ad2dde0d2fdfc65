test_that("no function here uses a name that nobody has defined", {
  expect_silent(codetools::checkUsageEnv(inside, all = FALSE, report = message))
})

test_that("nothing that a service defines takes the place of something inside", {
  paste <- function(...) stop("the service's own")
  now_s <- function() stop("the service's own")
  expect_match(inside$random_id(), "-4")
  expect_gt(inside$now_s(), 1e9)
})

test_that("R's generator of random numbers is the model's alone", {
  set.seed(7)
  before <- .Random.seed
  first <- inside$random_id()
  set.seed(7)
  second <- inside$random_id()
  expect_false(first == second)
  expect_identical(.Random.seed, before)
  expect_true(all(replicate(100, inside$random_fraction()) < 1))
})

test_that("the variables say where the backbone is", {
  expect_null(inside$backbone())
  for (url in c("https://host.example/x", "https://host.example/x/", "https://host.example/x/api")) {
    found <- with_variables(BACKBONE_URL = url, BACKBONE_KEY = "key", code = inside$backbone())
    expect_identical(found$upsert, "https://host.example/x/api/CacheConnectorUpsert")
    expect_identical(found$headers, list("x-functions-key" = "key"))
  }
  legacy <- with_variables(
    CACHE_CONNECTOR_UPSERT_URI = "http://host:80/api/CacheConnectorUpsert?code=a%2Fb%3D%3D",
    CACHE_CONNECTOR_GET_URI = "http://host:80/api/CacheConnectorGet?code=c",
    code = inside$backbone()
  )
  expect_identical(legacy$api, "http://host:80/api")
  expect_identical(legacy$headers, list("x-functions-key" = "a/b=="))
  expect_identical(inside$task_url(legacy, "a b", "/result"), "http://host:80/api/v1/tasks/a%20b/result")
  expect_error(with_variables(BACKBONE_URL = "ftp://host", code = inside$backbone()), "BACKBONE_URL")
})

answer <- function(status, ..., body = raw()) inside$new_answer(status, list(...), body)
sent <- inside$new_call("PUT", "http://host", list(), raw(2 * 1024^2))

test_that("what may be answered otherwise later is repeated, not before Retry-After", {
  for (status in c(0L, 408L, 429L, 500L, 503L)) {
    expect_false(is.null(inside$after(inside$new_retry(), list(), answer(status, body = charToRaw("x")))$pause_s))
  }
  for (status in c(200L, 304L, 400L, 404L, 409L, 413L)) {
    expect_null(inside$after(inside$new_retry(), list(), answer(status))$pause_s)
  }
  expect_gte(inside$after(inside$new_retry(), list(), answer(503L, "Retry-After" = "7"))$pause_s, 7)
  expect_null(inside$after(inside$new_retry(5), list(), answer(503L, "Retry-After" = "7"))$pause_s)
  later <- format(Sys.time() + 100, "%a, %d %b %Y %H:%M:%S GMT", tz = "GMT")
  expect_gt(inside$retry_after_s(answer(503L, "Retry-After" = later)), 90)
  expect_identical(inside$retry_after_s(answer(503L, "Retry-After" = "soon")), 0)
})

test_that("a large body that the platform refuses twice is not sent a third time", {
  once <- inside$after(inside$new_retry(), sent, answer(500L))
  expect_false(is.null(once$pause_s))
  expect_null(inside$after(once, sent, answer(500L))$pause_s)
})

test_that("text is percent-encoded as UTF-8", {
  expect_identical(inside$percent_encoded("a b/\u00e9-._~"), "a%20b%2F%C3%A9-._~")
})

test_that("a result is bytes, a text, or what JSON can say", {
  expect_identical(inside$bytes_of(as.raw(1:3))$type, "application/octet-stream")
  expect_identical(inside$bytes_of("text")$type, "text/plain; charset=utf-8")
  listed <- inside$bytes_of(list(a = NULL, b = NA, c = 1e-9))
  expect_identical(rawToChar(listed$body), "{\"a\":null,\"b\":null,\"c\":1e-09}")
  expect_identical(rawToChar(inside$bytes_of(c("a", "b"))$body), "[\"a\",\"b\"]")
  expect_identical(rawToChar(inside$bytes_of(TRUE)$body), "true")
})
