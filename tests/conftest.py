import os

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: a second thread costs more than it brings, and changes the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unread():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)
