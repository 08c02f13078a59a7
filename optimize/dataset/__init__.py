"""Training data: files to examples, their split by document, and all that can be wrong with them.

files     read: JSONL, SQuAD, CSV -> Example (rows: one line; examples: what a trainer sees of one)
splits    train and held out, by document, written down and hashed
check     counts, lengths, duplicates, leakage, answers, secrets -> report
grounded  questions on one passage -> prompts of several, as retrieval makes them
synthesize, from_feedback, review    where examples come from besides files
"""

from optimize.dataset.files import read, read_all
from optimize.dataset.rows import place_of, plain
from optimize.dataset.splits import Split, read_split, split, write_split

__all__ = ["Split", "place_of", "plain", "read", "read_all", "read_split", "split", "write_split"]
