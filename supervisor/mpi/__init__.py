"""Programs of an MPI job: what the master, the other hosts and every rank execute.

Each is run by its path with Python's ``-I``, so that neither the user's code nor ``PYTHONPATH``,
which the ranks need, can shadow it. Those that run once a host import a little of the package, the
ranks' nothing.
"""

__all__ = ["words"]
