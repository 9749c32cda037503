"""Programs of ours that run as children: the parameter server, and what is put into scripts.

Each is started by its path or module; nothing of them is imported by the supervisor.
"""
