"""Texts in Hydra's notation of overrides."""

import re
import shlex

UNREADABLE = re.compile(r"LexerNoViableAlt|no viable alternative|mismatched input|extraneous input|token recognition")


def quoted(text: str) -> str:
    """Return a text in Hydra's single quotes: backslashes are doubled only where a quote follows."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def not_readable(override: str, said: str) -> str | None:
    """Return in words why Hydra's grammar cannot read an override and how it is typed, if that is what Hydra said."""
    key, _, value = override.partition("=")
    if not UNREADABLE.search(said) or not re.fullmatch(r"[~+]*[\w./@:-]+", key, re.ASCII):
        return None
    if re.match(r"[\[{]|\w+\(", value):  # a list, a mapping, a sweep: what of it is meant as a text, nobody knows
        return f"cannot read {override}: brackets must be closed, and texts of unusual characters be in quotes"
    return f"cannot read {override}: its characters need quotes, inside those of the shell: {in_shell(key, value)}"


def in_shell(key: str, value: str) -> str:
    """Return a key and the text that it is to have as one types them in a shell."""
    inner = value[1:-1] if re.fullmatch(r"""(["']).*\1""", value, re.DOTALL) else value
    line = f"{key}={quoted(inner)}"
    return shlex.quote(line) if re.search(r'["$`!\\]', inner) else f'"{line}"'
