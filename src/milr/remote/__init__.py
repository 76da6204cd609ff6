"""Models that draw elsewhere, reached over HTTP by the client of VLM judges."""
