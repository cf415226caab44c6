"""`python -m trpo …` is `trpo-train …`."""

import sys

from trpo.cli import train

sys.exit(train())
