test_that("nothing is sent without a key", {
  expect_null(inside$ingestion())
  expect_silent(log_info("a line", "task"))
  expect_length(inside$telemetry$pending, 0)
})

test_that("the connection string names the host; the legacy key means the public one", {
  named <- with_variables(
    APPLICATIONINSIGHTS_CONNECTION_STRING = "InstrumentationKey=k;IngestionEndpoint=https://west.example/;Live=x",
    code = inside$ingestion()
  )
  expect_identical(named, list(key = "k", url = "https://west.example/v2.1/track"))
  legacy <- with_variables(APPINSIGHTS_INSTRUMENTATIONKEY = "k", code = inside$ingestion())
  expect_identical(legacy$url, "https://dc.services.visualstudio.com/v2.1/track")
  suffix <- with_variables(
    APPLICATIONINSIGHTS_CONNECTION_STRING = "InstrumentationKey=k;EndpointSuffix=ai.example", code = inside$ingestion()
  )
  expect_identical(suffix$url, "https://dc.ai.example/v2.1/track")
  keyless <- "IngestionEndpoint=https://x"
  none <- with_variables(APPLICATIONINSIGHTS_CONNECTION_STRING = keyless, code = inside$ingestion())
  expect_null(none)
})

test_that("a line has the properties that it always had, and all of them are texts", {
  made <- with_variables(
    SERVICE_MODEL_FRAMEOWRK_VERSION = "4.2", SERVICE_OWNER = "me",
    code = inside$envelope("text", "Warning", 7, list(tile = 3, service_owner = "other"), "key")
  )
  properties <- made$data$baseData$properties
  expect_identical(made$data$baseType, "MessageData")
  expect_identical(properties$task_id, "7")
  expect_identical(properties$tile, "3")
  expect_identical(properties$service_owner, "other")
  expect_identical(properties$service_model_framework_version, "4.2")
  expect_setequal(names(properties), c(
    "task_id", "service_owner", "service_cluster", "service_model_name", "service_model_framework",
    "service_model_framework_version", "service_model_version", "service_name", "service_version",
    "service_container_version", "service_container_name", "tile"
  ))
})

test_that("a line that cannot be sent holds nobody up and raises nothing", {
  with_variables(
    APPLICATIONINSIGHTS_CONNECTION_STRING = "InstrumentationKey=k;IngestionEndpoint=http://192.0.2.1:9/",
    code = {
      took <- system.time(for (number in 1:200) log_error(paste("line", number), NULL, list(new.env())))
      expect_lt(took[["elapsed"]], 30)
    }
  )
  expect_lte(length(inside$telemetry$pending), inside$MOST_PENDING)
})
