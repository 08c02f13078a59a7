"""The daemon as a systemd service: what is written, where, and how much memory it gets.

`units.py` makes the text of the files (pure), `limits.py` the memory limit out of the ledger, `files.py` writes,
compares and removes them. Nothing here talks to systemd: the commands that do are printed for a person to run.
"""
