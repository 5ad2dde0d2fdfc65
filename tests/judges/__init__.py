"""What others make of ``docs/openapi.json``: linters, and generators whose clients are type-checked and run."""
