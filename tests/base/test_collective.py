from __future__ import annotations

import sys

import pytest
import torch

from thinet.base.collective import leave_group


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/one", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_group_of_gloo_is_left(group):
    leave_group()
    assert not torch.distributed.is_initialized()
    leave_group()  # a second time there is nothing to leave


def test_a_group_of_nccl_is_not(group, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    leave_group()
    assert torch.distributed.is_initialized()


def test_torch_is_not_imported_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.distributed")
    leave_group()
    assert "torch.distributed" not in sys.modules
