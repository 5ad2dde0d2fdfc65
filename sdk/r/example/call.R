source(file.path(Sys.getenv("AI4E_API_TOOLS", "/ai4e_api_tools"), "task_client.R"))

client <- TaskClient()
station <- list(name = "Zugspitze", celsius = c(-4.5, -6, -3))
task <- client$submit("/v1/stations/mean", station, query = list(unit = "C"))
str(task$result(timeout_s = 60))
