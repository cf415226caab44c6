"""A whole policy update as arrays, so that anybody can recompute it with anything."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


def write_dump(path: Path, arrays: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write arrays and a JSON description as one `.npz` that `numpy.load(path, allow_pickle=False)` reads."""
    path.parent.mkdir(exist_ok=True)
    columns = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
    np.savez_compressed(path, allow_pickle=False, description=np.array(json.dumps(description)), **columns)
