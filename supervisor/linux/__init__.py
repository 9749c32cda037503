"""What the kernel knows and does: processes, trees, orphans, signals, ports, memory, cgroups.

Nothing here knows of jobs, roles or hosts.
"""

__all__ = [
    "cgroup",
    "contacts",
    "hardware",
    "memory",
    "mounts",
    "orphans",
    "ports",
    "prctl",
    "procfs",
    "resources",
    "signals",
    "tree",
]
