# Counts words, with progress and log lines. Serve it: sdk/r/serve sdk/r/example/words.R

tools <- Sys.getenv("AI4E_API_TOOLS", "/ai4e_api_tools")
source(file.path(tools, "task_management", "api_task.R"))
source(file.path(tools, "ai4e_app_insights.R"))

count_words <- function(task_id, text, least = 1, pause_s = 0) {
  words <- strsplit(trimws(text), "[[:space:]]+")[[1]]
  if (!nzchar(words[[1]])) stop(Fail("the text has no words"))
  for (number in seq_along(words)) {
    Sys.sleep(pause_s) # your model here
    TaskProgress(task_id, number / length(words), paste("word", number))
  }
  log_info(paste(length(words), "words"), task_id)
  list(words = sum(nchar(words) >= least))
}

#* Takes a task: the model runs in a process of its own
#* @post /v1/r/count
#* @parser task
function(req, res, least = 1, pause_s = 0) {
  RunTask(req, res, count_words, req$HTTP_TASKID, req$postBody, as.numeric(least), as.numeric(pause_s), slots = 2)
}

#* @get /livez
#* @get /readyz
#* @serializer text
function() "ok"
