# A pod in R: `work` of words.py, and RunTask.

tools <- Sys.getenv("AI4E_API_TOOLS")
source(file.path(tools, "task_management", "api_task.R"))
library(plumber)

work <- function(body, seconds) {
  Sys.sleep(seconds)
  digest <- paste(sodium::sha256(body), collapse = "")
  if (startsWith(rawToChar(utils::head(body, 2)), "no")) stop(Fail(paste("no such word:", substr(digest, 1, 12))))
  c(charToRaw(paste0(digest, " ")), rev(body))
}

model <- function(req, res, seconds = 0) RunTask(req, res, work, req$bodyRaw, as.numeric(seconds), slots = 2)

.task_backbone$offer_parser()
server <- pr_post(pr(), Sys.getenv("POD_PATH"), model, parsers = "task")
pr_run(server, host = "127.0.0.1", port = as.integer(Sys.getenv("PORT")), docs = FALSE)
