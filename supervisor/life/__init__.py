"""The life of a host and of a job, decided: the words, the events, the reducer, the outcome.

Pure: no clock, no file, no socket. Whatever performs a decision lives in ``host/``.
"""

__all__ = [
    "agreement",
    "attempts",
    "ending",
    "events",
    "ladder",
    "lifecycle",
    "outcome",
    "state",
    "words",
    "world",
]
