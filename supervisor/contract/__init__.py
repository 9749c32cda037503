"""What the platform says about the job, checked: settings, files, paths, and the result's record.

Nothing is started or planned here. Where a contract comes from is in ``engines/``.
"""

__all__ = [
    "channels",
    "contract",
    "distribution",
    "entry_point",
    "facts",
    "hyperparameters",
    "paths",
    "reading",
    "record",
    "settings",
    "strangers",
    "told",
    "values",
]
