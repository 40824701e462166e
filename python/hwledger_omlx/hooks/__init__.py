"""What stands in the fork's places: one module per patch of the series, each with its shims and its self-test."""
