"""What people type: one file a verb, and ``cli``, which lists them.

A verb reads its words, calls a room and shows the result. It supervises nothing itself.
"""

__all__ = ["cli"]
