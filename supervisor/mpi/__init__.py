"""Programs of an MPI job: what the master, the other hosts and every rank execute.

Each is a file by itself that imports nothing of the package: it is run by its path with Python's
``-I``, so that neither the user's code nor ``PYTHONPATH``, which the ranks need, can shadow it.
"""

__all__ = ["words"]
