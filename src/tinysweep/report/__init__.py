"""A study as a page to decide by, and as pictures."""
