"""Where things lie: the checkout, its state, and the cache that outlives it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".minsky"
CACHE = Path(os.environ.get("MINSKY_CACHE") or Path.home() / ".cache" / "minsky")
