# RunTask without a backbone: plumber's event loop is turned by hand.

new_response <- function() {
  made <- new.env()
  made$headers <- list()
  made$setHeader <- function(name, value) made$headers[[name]] <- value
  made
}

run <- function(model, ..., slots = 4) {
  response <- new_response()
  RunTask(list(PATH_INFO = "/v1/local"), response, model, ..., slots = slots)
  response
}

ended <- function(id) {
  until <- Sys.time() + 60
  while (!GetTaskStatus(id)$BackendStatus %in% c("completed", "failed") && Sys.time() < until) later::run_now(0.1)
  GetTaskStatus(id)
}

helper <- function(number) number * 2

test_that("a model runs in another process, with what its file has defined, and its result is kept", {
  model <- function(number) list(pid = Sys.getpid(), doubled = helper(number))
  response <- run(model, 21)
  expect_identical(response$status, 202L)
  expect_identical(response$headers[["X-Task-Slots"]], "4")
  task <- ended(response$body)
  found <- jsonlite::fromJSON(rawToChar(task$Result))
  expect_identical(task$Status, "completed")
  expect_identical(found$doubled, 42L)
  expect_false(found$pid == Sys.getpid())
})

test_that("what a model tells on its way is heard", {
  response <- run(function() {
    UpdateTaskStatus(CurrentTask()$TaskId, "running - half")
    Sys.sleep(2)
  })
  until <- Sys.time() + 60
  while (GetTaskStatus(response$body)$Status != "running - half" && Sys.time() < until) later::run_now(0.1)
  expect_identical(GetTaskStatus(response$body)$Status, "running - half")
  expect_identical(ended(response$body)$Status, "completed")
})

test_that("a task too many is refused, and a model that dies has failed", {
  held <- run(function() tools::pskill(Sys.getpid(), tools::SIGKILL), slots = 1)
  refused <- run(function() NULL, slots = 1)
  expect_identical(refused$status, 503L)
  expect_identical(ended(held$body)$BackendStatus, "failed")
  taken <- run(function() NULL, slots = 1)
  expect_identical(taken$status, 202L)
  expect_identical(ended(taken$body)$BackendStatus, "completed")
})

test_that("the call of an error in the log has neither the model's source nor the caller's body", {
  failed <- tryCatch(
    inside$call_model(function(body, unit, empty) stop("no values"), list("a caller's body", unit = "C", NULL)),
    error = identity
  )
  expect_identical(deparse(conditionCall(failed)), "model(argument_1, unit = argument_2, argument_3)")
  expect_identical(inside$call_model(function(...) list(...), list(quote(x), unit = NULL)), list(quote(x), unit = NULL))
  expect_identical(inside$call_model(function() 1, list()), 1)
})

test_that("RunTask says that it needs a function", {
  expect_error(run("text"), "needs the function")
})

test_that("an end of a model's own becomes a text that begins with its word", {
  expect_identical(inside$ended_text("completed", NULL), "completed")
  expect_identical(inside$ended_text("completed", "3 boxes"), "completed - 3 boxes")
  expect_identical(inside$ended_text("failed", "Failed - no"), "Failed - no")
})

test_that("lines of another process are read whole, however they come", {
  file <- tempfile()
  cat("one\ntwo\nthr", file = file)
  read <- inside$new_lines(file, 0)
  expect_identical(read$lines, c("one", "two"))
  cat("ee\n", file = file, append = TRUE)
  read <- inside$new_lines(file, read$at)
  expect_identical(read$lines, "three")
  expect_identical(inside$new_lines(file, read$at)$lines, character())
  expect_identical(inside$new_lines(tempfile(), 0)$lines, character())
})
