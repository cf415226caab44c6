"""A module as one file that others run: ONNX and PyTorch's own format. The packages of ONNX live here."""

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trpo.config import UserError

BATCH = "batch"  # the name of the free dimension
METADATA = "metadata.json"  # within a .pt2

Inputs = dict[str, Tensor]  # what the module takes as its one argument; it gives a dictionary too
Run = Callable[[Inputs], dict[str, np.ndarray]]


class Format(NamedTuple):
    """One kind of file."""

    written: Callable[[nn.Module, Inputs, Mapping[str, str]], bytes]  # of a module, two rows of inputs and metadata
    read: Callable[[bytes], Run | None]  # None if what runs it is not installed


def format_of(suffix: str) -> Format:
    """Return the kind of file with a suffix. Raises `UserError` if there is none, or its packages are not installed."""
    if suffix not in FORMATS:
        raise UserError(f"the file must end in {' or '.join(FORMATS)}, got {suffix or 'no ending'}")
    if suffix == ".onnx":
        check_packages(suffix)
    return FORMATS[suffix]


def check_packages(suffix: str) -> None:
    """Raise `UserError` if what writes ONNX is not installed."""
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(f"{suffix} needs {error.name}: pip install 'trpo[export]'; .pt2 needs nothing") from error


def to_onnx(module: nn.Module, inputs: Inputs, metadata: Mapping[str, str]) -> bytes:
    """Return a module of named tensors as ONNX, its batch free, with metadata as its properties."""
    with quiet():
        program = torch.onnx.export(
            traced(module, inputs),
            dynamo=True,
            external_data=False,
            dynamic_shapes=named_batch(inputs),
            input_names=[*inputs],
            output_names=[*module(inputs)],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    return bytes(program.model_proto.SerializeToString())


def run_onnx(data: bytes) -> Run | None:
    """Return what ONNX Runtime makes of a file, or None if it is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        found = session.run(names, {name: rows.numpy() for name, rows in inputs.items()})
        return dict(zip(names, found, strict=True))

    return run


def to_pt2(module: nn.Module, inputs: Inputs, metadata: Mapping[str, str]) -> bytes:
    """Return a module of named tensors in PyTorch's own format, its batch free, with metadata as a file within."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(traced(module, inputs), buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    return buffer.getvalue()


def run_pt2(data: bytes) -> Run:
    """Return what PyTorch makes of a file."""
    with quiet():
        module = torch.export.load(io.BytesIO(data)).module()
    return lambda inputs: {name: rows.numpy() for name, rows in module(inputs).items()}


@torch.no_grad()
def traced(module: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """Return what a module computes, for any number of rows, and nothing of where its code lies on this machine."""
    program = torch.export.export(module, (inputs,), dynamic_shapes=free_batch(inputs))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def free_batch(inputs: Inputs) -> tuple[dict[str, dict[int, torch.export.Dim]]]:
    """Return that the first dimension of all inputs is one and the same, whatever it is."""
    batch = torch.export.Dim(BATCH, min=1)
    return ({name: {0: batch} for name in inputs},)


def named_batch(inputs: Inputs) -> tuple[dict[str, dict[int, str] | None]]:
    """Return what the free dimension of a traced module is called; said of one input, it holds for all."""
    first, *others = inputs
    return ({first: {0: BATCH}, **dict.fromkeys(others)},)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what PyTorch's exporter says of itself: what in it is out of date, and that torchvision is missing.

    So is what it says of PyTorch's own recurrent cells, which keep a list of their weights beside them.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
            yield
    finally:
        logger.setLevel(level)


FORMATS = {".onnx": Format(to_onnx, run_onnx), ".pt2": Format(to_pt2, run_pt2)}
