tools <- Sys.getenv("AI4E_API_TOOLS", "/ai4e_api_tools")
source(file.path(tools, "task_management", "api_task.R"))

mean_of <- function(task_id, text, unit = "C") {
  station <- jsonlite::fromJSON(text)
  if (!length(station$celsius)) stop(Fail("the station has no values"))
  UpdateTaskStatus(task_id, "running - the mean")
  degrees <- mean(station$celsius) # your model here
  list(name = station$name, mean = if (unit == "F") degrees * 9 / 5 + 32 else degrees)
}

#* @post /v1/stations/mean
#* @parser task
function(req, res, unit = "C") RunTask(req, res, mean_of, req$HTTP_TASKID, req$postBody, unit, slots = 2)
