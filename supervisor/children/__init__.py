"""One child, from spawn to reap: how it is started, watched, ended, and why it failed.

Which children there are is planned in ``plan/``; when one has to end is decided in ``life/``.
"""

__all__ = ["attribution", "child", "ending", "execution", "guardian", "stacks", "warm", "watchdog"]
