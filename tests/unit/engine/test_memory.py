"""What memory there is, what a token takes, and what runs record."""

import pytest
import torch

from lm_headroom.engine import batch_size, memory


def test_budgets_follow_the_free_memory(loaded, monkeypatch):
    device = torch.device("cpu")
    model = loaded.model
    per_token = memory.bytes_per_token(model)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * (300 * per_token + memory.logit_bytes(model)))
    assert memory.token_budget(model, device) == 300
    # The oracle keeps the inputs of all layers, a backward pass all of every layer.
    assert batch_size.MIN_TOKENS <= memory.token_budget(model, device, keeps_layers=True) < 300
    assert memory.token_budget(model, device, differentiates=True) == batch_size.MIN_TOKENS
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert memory.token_budget(model, device) == batch_size.MIN_TOKENS
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**50)
    assert memory.token_budget(model, device) == batch_size.MAX_TOKENS["cpu"]


def test_free_memory_is_within_the_container(monkeypatch, tmp_path):
    device = torch.device("cpu")
    machine = memory.free_bytes(device)
    assert 2**20 < machine < 2**46
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes(device) == 3000000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(device) > 3000000


def test_the_peak_is_this_processs():
    before = memory.peak_memory()["peak_memory_mib"]
    filled = torch.ones(64 * memory.MIB)
    assert memory.peak_memory()["peak_memory_mib"] >= max(before, 256)
    assert filled[-1] == 1


@pytest.mark.slow
def test_a_token_takes_no_more_than_is_counted(smollm2):
    """The growth of a backward pass with its tokens, by the tensors that autograd keeps, on a real model."""
    import numpy as np

    from lm_headroom.engine.likelihood import target_log_probabilities
    from lm_headroom.engine.packing import Batches, Document, TokenSequence

    rng = np.random.default_rng(0)

    def kept(n):
        document = Document(0, (TokenSequence(tuple(rng.integers(100, 40000, n + 1).tolist()), 1),))
        (batch,) = Batches([document], 10_000)
        storages = {}

        def pack_hook(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
            with torch.enable_grad(), smollm2.interventions.capture():
                target_log_probabilities(smollm2, batch)
        return sum(storages.values())

    per_token = (kept(400) - kept(200)) / 200
    counted = memory.bytes_per_token(smollm2.model, differentiates=True)
    assert 0.5 * counted < per_token < 1.1 * counted
