"""One run: from a checked configuration to the record in its folder."""
