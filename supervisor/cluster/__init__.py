"""How hosts know of each other: what they say, when one counts as lost, who is let in.

What to do about a lost host is decided in ``life/``; the port that answers is in ``status/``.
"""

__all__ = ["admission", "beat", "liveness", "names", "net", "probe", "protocol"]
