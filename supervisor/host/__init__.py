"""One host's life, performed: processes, coordination with the others, transfers, the account.

Decisions are made in ``life/``; here they are carried out, and what happened is told back.
"""

__all__ = ["console", "entry", "neighbour", "resumed"]
