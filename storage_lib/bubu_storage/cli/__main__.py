"""``python -m bubu_storage.cli``."""

from __future__ import annotations

from bubu_storage.cli import main

main()
