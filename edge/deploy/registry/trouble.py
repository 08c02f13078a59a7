"""What may pass: a failure after which the same request is made again, a few times, before it becomes an error."""

from __future__ import annotations


class Trouble(Exception):
    """The message is a sentence for a person, without the advice.

    :param wait_sec: that the registry asks to wait; None: it does not say.
    """

    def __init__(self, message: str, wait_sec: float | None = None) -> None:
        super().__init__(message)
        self.wait_sec = wait_sec
