"""What studies and runs have found: read, compared, and judged."""
