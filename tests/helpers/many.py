"""With how many examples a property is tried: a few in the gate, many where all are asked for."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

ALL: Final = "SUPERVISOR_TEST_ALL"
MANY: Final = settings(deadline=None, max_examples=10_000 if os.environ.get(ALL) else 100)
