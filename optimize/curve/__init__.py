"""Would more training data help? The same training on parts of the documents, each twice the one before.

fit        parts, held-out losses, the law that they follow, intervals (pure)
findings   what that says, in plain words (pure)
losses     the held-out loss of one model, in a process of its own
run        the trainings, each a cached stage
report     table, JSON and drawing
"""
