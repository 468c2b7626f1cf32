from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.networks.weights import load_frozen, load_weights


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": state, "epoch": 3}], ids=["bare", "model"]
)
def test_loads(tmp_path, wrap):
    trained, fresh = network(0), network(1)
    assert not same(trained, fresh)
    torch.save(wrap(trained.state_dict()), tmp_path / "a.pt")
    assert load_weights(fresh, str(tmp_path / "a.pt")) is fresh
    assert same(trained, fresh)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "other"])
def test_what_does_not_fit(tmp_path, change):
    state = dict(network(0).state_dict())
    if change == "missing":
        del state["0.bias"]
    if change == "extra":
        state["0.stranger"] = torch.zeros(1)
    if change == "shape":
        state["0.bias"] = torch.zeros(5)
    if change == "other":
        state = {"model": torch.zeros(3)}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"autoencoder_weights: '.*a\.pt' does not fit") as caught:
        load_weights(network(1), str(tmp_path / "a.pt"), "autoencoder_weights")
    named = {"missing": "0.bias", "extra": "0.stranger", "shape": "0.bias", "other": "Tensor"}
    assert named[change] in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights: no file '.*none\.pt'"):
        load_weights(network(0), str(tmp_path / "none.pt"))


def test_no_checkpoint(tmp_path):
    (tmp_path / "a.pt").write_text("text")
    with pytest.raises(ValueError, match=r"my_key: '.*a\.pt' is not a readable checkpoint"):
        load_weights(network(0), str(tmp_path / "a.pt"), "my_key")


class TestOptional:
    def test_no_path_leaves_the_network_as_it_is(self):
        fresh, same_seed = network(1), network(1)
        assert load_weights(fresh, None, "initial_weights", optional=True) is fresh
        assert same(fresh, same_seed)

    def test_a_path_is_loaded(self, tmp_path):
        trained, fresh = network(0), network(1)
        torch.save(trained.state_dict(), tmp_path / "a.pt")
        load_weights(fresh, str(tmp_path / "a.pt"), optional=True)
        assert same(trained, fresh)

    def test_a_path_that_is_given_must_be_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"initial_weights: no file '.*none\.pt'"):
            load_weights(network(0), str(tmp_path / "none.pt"), "initial_weights", optional=True)

    def test_no_path_where_one_is_needed(self):
        with pytest.raises(FileNotFoundError, match="autoencoder_weights: a file of weights is needed, got None"):
            load_weights(network(0), None, "autoencoder_weights")


class TestPart:
    def test_of_a_joined_model_only_its_own(self, tmp_path):
        trained, fresh = network(0), network(1)
        other = {f"encoder.{key}": value + 1 for key, value in network(2).state_dict().items()}
        torch.save(other | {f"decoder.{key}": value for key, value in trained.state_dict().items()}, tmp_path / "a.pt")
        assert same(load_weights(fresh, str(tmp_path / "a.pt"), part="decoder"), trained)

    def test_a_file_of_one_network_is_read_as_it_is(self, tmp_path):
        torch.save(network(0).state_dict(), tmp_path / "a.pt")
        assert same(load_weights(network(1), str(tmp_path / "a.pt"), part="decoder"), network(0))

    def test_a_joined_model_without_the_part(self, tmp_path):
        torch.save({f"encoder.{key}": value for key, value in network(0).state_dict().items()}, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=r"(?s)initial_weights: '.*a\.pt' does not fit.*encoder\.0\.bias"):
            load_weights(network(1), str(tmp_path / "a.pt"), "initial_weights", part="decoder")


class TestFrozen:
    def test_evaluation_mode_and_no_gradients(self, tmp_path):
        trained, fresh = network(0), network(1)
        torch.save({f"decoder.{key}": value for key, value in trained.state_dict().items()}, tmp_path / "a.pt")
        assert fresh.training and all(weight.requires_grad for weight in fresh.parameters())
        frozen = load_frozen(fresh, str(tmp_path / "a.pt"), "autoencoder_weights", "decoder")
        assert frozen is fresh and same(frozen, trained)
        assert not any(module.training for module in frozen.modules())
        assert not any(weight.requires_grad for weight in frozen.parameters())

    def test_its_statistics_stay(self, tmp_path):
        """Batch normalisation would move them in training mode."""
        torch.save(network(0).state_dict(), tmp_path / "a.pt")
        frozen = load_frozen(network(1), str(tmp_path / "a.pt"), "autoencoder_weights", "decoder")
        assert not frozen(torch.ones(5, 3)).requires_grad
        assert same(frozen, network(0))

    def test_a_missing_file_names_the_key(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"autoencoder_weights: no file '.*none\.pt'"):
            load_frozen(network(0), str(tmp_path / "none.pt"), "autoencoder_weights", "decoder")
