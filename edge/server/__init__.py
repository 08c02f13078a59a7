"""The daemon: the box over HTTP, for clients that people already use.

A request comes in through `app.py` (routes), passes `guard.py` (who may), waits at `gate.py` (when), and is worked on
in a process of its own (`backend.py` here, `child.py` there), which ends with the model when nobody asks any more.
"""
