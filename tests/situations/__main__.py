"""Bring all situations about and write into docs/situations.md what was seen: `python -m tests.situations`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["UPDATE_EXCERPTS"] = "1"
sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
