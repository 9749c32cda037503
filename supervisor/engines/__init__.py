"""Where a job comes from: one pure reader a platform, and what chooses between them.

A reader knows how its platform tells a process about the job: variables → ``Engine``, with the
source of every value. ``choosing.py`` finds the one by evidence, ``gathering.py`` reads the rest of
the world once; everything behind the contract is one code path.
"""

__all__ = ["choosing", "directory", "gathering", "local"]
