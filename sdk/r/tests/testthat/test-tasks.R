# Without a backbone: tasks in memory.

test_that("a task of the local mode lives from AddTask to its end", {
  task <- AddTask(list(PATH_INFO = "/v1/mine"))
  expect_match(task$TaskId, "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
  expect_identical(task$uuid, task$TaskId)
  expect_identical(GetTaskStatus(task$TaskId)$Endpoint, "/v1/mine")
  UpdateTaskStatus(task$TaskId, "running - features")
  expect_identical(GetTaskStatus(task$TaskId)$Status, "running - features")
  CompleteTask(task$TaskId, "completed - all of it")
  expect_identical(GetTaskStatus(task$TaskId)$BackendStatus, "completed")
})

test_that("an update gives JSON text, as ever, whose members can be read as those of a list", {
  answer <- FailTask(AddTask(list())$TaskId, "failed - no picture")
  expect_type(answer, "character")
  expect_length(answer, 1)
  expect_identical(answer$BackendStatus, "failed")
  expect_identical(answer[["Status"]], "failed - no picture")
  expect_identical(jsonlite::fromJSON(answer)$Status, "failed - no picture")
  expect_identical(as.list(answer)$Status, "failed - no picture")
  expect_output(print(answer), "failed - no picture")
})

test_that("an error is a list", {
  for (found in list(GetTaskStatus("nobody"), GetTaskStatus(NULL))) {
    expect_type(found, "list")
    expect_identical(found$TaskId, "-1")
  }
  # A task of the backbone comes with its id: there is none here.
  added <- with_variables(BACKBONE_URL = "http://127.0.0.1:9", code = AddTask(list()))
  expect_identical(added, list(TaskId = "-1", Status = "error"))
})

test_that("the text tells an end by its first word alone", {
  told <- vapply(
    c(
      "completed", "Completed - x", "COMPLETED: x", "failed.", "failed;", "failed - x", "completed 3 of 10 tiles",
      "completedness", "not completed", "", "running"
    ),
    inside$state_told, ""
  )
  expect_identical(unname(told), c(rep("completed", 3), rep("failed", 3), rep("running", 5)))
  expect_identical(inside$state_told(NULL), "running")
})

test_that("a number, a factor and several lines are taken as text", {
  id <- AddTask(list())$TaskId
  expect_identical(UpdateTaskStatus(id, 7)$Status, "7")
  expect_identical(UpdateTaskStatus(id, factor("a"))$Status, "a")
  expect_identical(UpdateTaskStatus(id, c("a", "b"))$Status, "a\nb")
})

test_that("a pipeline's next service is named, where there is none", {
  id <- AddTask(list())$TaskId
  told <- AddPipelineTask(id, "org", "v1", "api", list(boxes = 1))
  expect_match(told, "v1/org/api", fixed = TRUE)
  expect_identical(GetTaskStatus(id)$Status, told)
})

test_that("a body of a next step is sent as it was given", {
  expect_null(inside$body_text(NULL))
  expect_null(inside$body_text(""))
  expect_identical(inside$body_text("{\"a\": 1}"), "{\"a\": 1}")
  expect_identical(inside$body_text(list(a = 1, b = c(1.5, 2))), "{\"a\":1,\"b\":[1.5,2]}")
  expect_identical(inside$body_text(charToRaw("text")), "text")
})

test_that("tasks that have ended are forgotten before those at work", {
  old <- ls(inside$attempts)
  on.exit(rm(list = setdiff(ls(inside$attempts), old), envir = inside$attempts))
  inside$remember("at-work", "3")
  for (number in seq_len(inside$MOST_REMEMBERED)) {
    inside$remember(paste0("ended-", number), "1")
    inside$forget(paste0("ended-", number))
  }
  inside$remember("one-more", "1")
  expect_identical(inside$attempt_of("at-work"), 3L)
  expect_lt(length(ls(inside$attempts)), 100)
})
