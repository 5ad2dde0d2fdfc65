refused <- function(uri, ...) {
  message <- tryCatch(
    {
      inside$checked(uri)
      "taken"
    },
    BlobError = conditionMessage
  )
  expect_false(grepl("sig|secret", message))
  message
}

test_that("only hosts of Azure's and what the setting names are called", {
  expect_match(refused("https://evil.example/c/b?sig=secret"), "does not name evil.example")
  expect_match(refused("http://account.blob.core.windows.net/c/b?sig=secret"), "does not name")
  expect_match(refused("https://account.blob.core.windows.net.evil.example/c/b?sig=secret"), "does not name")
  expect_match(refused("https://169.254.169.254/c/b?sig=secret"), "does not name")
  expect_match(refused("https://account.blob.core.windows.net:444/c/b?sig=secret"), "does not name")
})

test_that("a URL that others could read otherwise is refused", {
  for (uri in c(
    "https://account.blob.core.windows.net@evil.example/c/b?sig=secret", "file:///etc/passwd", "", "no url",
    "https://account.blob.core.windows.net/c/../d/b?sig=secret", "https://account.blob.core.windows.net/c/%2e%2e/d",
    "https://account.blob.core.windows.net/c\\b", "https://account.blob.core.windows.net/c/b?sig=secret#part",
    "https://account.blob.core.windows.net/c/b c?sig=secret"
  )) {
    expect_match(refused(uri), "no plain URL", info = uri)
  }
})

test_that("the setting names beginnings: an origin and whole segments of its path", {
  with_variables(SERVICE_STORAGE = "http://127.0.0.1:10000/account/images, https://own.example", code = {
    expect_identical(refused("http://127.0.0.1:10000/account/images/b?sig=secret"), "taken")
    expect_identical(refused("https://own.example:443/c/b?sig=secret"), "taken")
    expect_match(refused("http://127.0.0.1:10000/account/images2/b?sig=secret"), "does not name")
    expect_match(refused("http://127.0.0.1:10001/account/images/b?sig=secret"), "does not name")
  })
})

test_that("a private address is none that a public name may lead to", {
  private <- c(
    "10.0.0.4", "127.0.0.1", "172.16.0.1", "172.31.255.1", "192.168.1.1", "169.254.169.254", "168.63.129.16",
    "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "fd00::1", "64:ff9b::a00:1", "2002:a00:1::",
    "::ffff:10.0.0.1"
  )
  public <- c("20.60.1.1", "172.32.0.1", "52.239.0.1", "2603:1030::1")
  expect_false(any(vapply(private, inside$is_public, NA)))
  expect_true(all(vapply(public, inside$is_public, NA)))
})

test_that("the legacy helper reads names with slashes, and an emulator's URLs", {
  helper <- SasBlob()
  uri <- "https://account.blob.core.windows.net/box/a/b%20c.tif?sv=1&sig=secret"
  expect_identical(helper$get_account_from_uri(uri), "account")
  expect_identical(helper$get_container_from_uri(uri), "box")
  expect_identical(helper$get_blob_from_uri(uri), "a/b c.tif")
  expect_identical(helper$get_sas_key_from_uri(uri), "sv=1&sig=secret")
  container <- "http://127.0.0.1:10000/account/box?sig=secret"
  made <- helper$get_blob_sas_uri(container, "a/b c.tif")
  expect_identical(made, "http://127.0.0.1:10000/account/box/a/b%20c.tif?sig=secret")
  expect_identical(helper$get_container_from_uri(made), "box")
  expect_identical(helper$get_blob_from_uri(made), "a/b c.tif")
})
