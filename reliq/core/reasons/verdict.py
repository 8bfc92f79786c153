"""What a handler said.

Of each code what it means, where it comes from, and what to do now.
"""

from __future__ import annotations

from typing import Final

TEXTS: Final = {
    "VERDICT": (
        "a handler said what becomes of its message",
        "the base of Bury, Release, RetryAfter and BatchFailed",
        "raise one of those",
    ),
    "RELEASED": (
        "a handler put its message back; it counts no failure and comes back after a second",
        "raise Release(...)",
        "nothing is to be done",
    ),
    "RETRY_AFTER": (
        "a handler said when its message is to come back; it counts as a failed attempt",
        "raise RetryAfter(seconds)",
        "nothing is to be done",
    ),
    "BATCH_FAILED": (
        "a handler of batches said which of its messages failed; the others are done",
        "raise BatchFailed({index or id: exception})",
        "see what they failed with: reliq explain ID",
    ),
}
