"""What the kernel knows and does: processes, trees, orphans, signals, ports, memory, cgroups.

Nothing here knows of jobs, roles or hosts.
"""

__all__ = [
    "births",
    "cgroup",
    "contacts",
    "hardware",
    "inherited",
    "memory",
    "mounts",
    "orphans",
    "pidfd",
    "ports",
    "prctl",
    "procfs",
    "resources",
    "signals",
    "silence",
    "straits",
    "tree",
]
