"""What a host tells whoever asks: health, status, metrics, events, its processes' lines, and the
job to its members.

What is told is made in ``host/``; the messages between hosts are defined in ``cluster/``.
"""

__all__ = ["board", "doors", "lines", "server", "snapshot"]
