"""The kinds of checkpoints that can be exported, one file a kind; ``table`` lists them."""
