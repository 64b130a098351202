"""The final: the best of a study on several seeds, then the winner on the test set, once."""
