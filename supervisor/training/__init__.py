"""What the training does, without a word of code in the script: how far it is, how fast, and what
of the time it was."""

__all__ = [
    "bundle",
    "course",
    "event_files",
    "ledger",
    "notices",
    "reading",
    "saves",
    "telling",
    "totals",
    "words",
]
