"""Memory that large batches take turns in."""

from __future__ import annotations

import pickle

import torch

from hf_finetune.features.reused_memory import ReusedMemory

LARGE = (64, 1, 100, 100)


def test_memory_comes_back_when_the_tensor_is_gone():
    memory = ReusedMemory()
    first = memory.empty(*LARGE)
    place = first.data_ptr()
    assert first.shape == LARGE
    assert first.dtype == torch.float32
    del first
    assert memory.empty(2, 3, 250, 300).data_ptr() == place  # smaller ones fit, too
    assert memory.empty(65, 1, 100, 100).data_ptr() != place


def test_memory_that_anything_still_reads_is_left_alone():
    memory = ReusedMemory()
    weight = torch.ones(1, requires_grad=True)
    tensor = memory.empty(*LARGE).fill_(2)
    product = (tensor * weight).sum()  # autograd keeps the tensor
    view = memory.empty(*LARGE).fill_(3)[:1].expand(4, -1, -1, -1)
    del tensor
    for _ in range(6):
        memory.empty(*LARGE).fill_(0)
    product.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 2 * 640_000
    assert (view == 3).all()


def test_blocks_are_not_hoarded():
    memory = ReusedMemory()
    held = [memory.empty(*LARGE) for _ in range(9)]
    assert len({tensor.data_ptr() for tensor in held}) == 9
    assert len(memory._blocks) <= 4


def test_small_tensors_and_copies_have_memory_of_their_own():
    memory = ReusedMemory()
    memory.empty(3, 4)
    assert not memory._blocks
    memory.empty(*LARGE)
    assert not pickle.loads(pickle.dumps(memory))._blocks
