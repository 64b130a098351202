"""Where a study is kept: what a path or URL names, and how it is opened."""
