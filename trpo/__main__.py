"""`python -m trpo …` is `trpo-train …`."""

import sys

from trpo.commands.train import train

sys.exit(train())
