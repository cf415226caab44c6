"""Real runs, really killed, starved and misled: the short form of `scripts/torture.py`."""

import re
import sys
from pathlib import Path
from subprocess import run

import pytest
from tiny_runs import environment_variables

SCRIPT = Path(__file__).parents[1] / "scripts" / "torture.py"


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_wrong_gets_in_under_torture(tmp_path):
    command = [sys.executable, str(SCRIPT), "--short", "--kills", "3"]
    ended = run(command, cwd=tmp_path, env=environment_variables(), capture_output=True, text=True, timeout=1800)
    *lines, total = ended.stdout.splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert (ended.returncode, total) == (0, f"{len(lines)} checks, 0 not as expected")
    assert len(lines) >= 12
    assert re.search(r"^ok +3 SIGKILLs at random moments .* seen: bit-identical$", lines[0])
    assert list(tmp_path.iterdir()) == []
