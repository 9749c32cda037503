"""Where things lie in the checkout."""

from __future__ import annotations

import pathlib
from typing import Final

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS: Final = ROOT / "tests" / "scripts"
"""Training scripts that tests have the supervisor run."""
RECORDINGS: Final = ROOT / "tests" / "recorded"
"""What other programs said, once."""
