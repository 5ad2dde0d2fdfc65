# Blobs by URLs that carry their permission (SAS): any size, read and written in parts.

.task_backbone <- local({
  # source() has the path that it was given in its frame.
  path <- Find(is.character, rev(lapply(sys.frames(), function(frame) frame[["ofile"]])))
  if (!is.null(path) && !file.exists(path)) path <- basename(path) # it has changed the folder
  folder <- Sys.getenv("AI4E_API_TOOLS", "/ai4e_api_tools")
  if (!is.null(path)) folder <- dirname(normalizePath(path))
  tools <- get0(".task_backbone", globalenv(), inherits = FALSE)
  if (is.null(tools)) {
    tools <- new.env(parent = baseenv())
    tools$tools_folder <- folder
    sys.source(file.path(folder, "backbone", "load.R"), tools, keep.source = FALSE)
    assign(".task_backbone", tools, globalenv())
  }
  tools$tools_loaded <- union(tools$tools_loaded, file.path(folder, "sas_blob.R"))
  tools
})

ReadBlob <- .task_backbone$ReadBlob
WriteBlob <- .task_backbone$WriteBlob
SasBlob <- .task_backbone$SasBlob
