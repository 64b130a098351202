"""The search: a study of trials, none of which breaks the budget."""
