"""Texts in Hydra's notation of overrides."""

import re


def quoted(text: str) -> str:
    """Return a text in Hydra's single quotes: backslashes are doubled only where a quote follows."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"
