"""What every method has from its base class, on one defined here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn

from scripts.checks import outside, refuse
from scripts.methods import Method, Restoration, in_pieces, setting, undescribed
from scripts.networks import Parts
from scripts.noise import SliceGenerator


class Curve:
    """A thing that a method holds, and that describes itself."""

    def describe(self):
        return {"name": "Curve", "points": 3}


@dataclass(frozen=True, eq=False, kw_only=True)
class Fading(Method):
    """Multiplies the image by ``keep``."""

    evidence: ClassVar[tuple[str, ...]] = ("lost",)

    keep: float = setting(0.5, symbol="K", label="share kept")
    curve: Curve = field(default_factory=Curve)
    mode: str | None = undescribed(None)

    def __post_init__(self) -> None:
        refuse(type(self).__name__, [outside("keep", self.keep, 0, 1)])

    def restore(self, images, encoded, network, streams, on_step):
        on_step()
        return Restoration(images * self.keep, {"lost": images * (1 - self.keep)})


def restored(method: Method, images: torch.Tensor) -> Restoration:
    network, streams = Parts(net=nn.Identity()), SliceGenerator(0, range(len(images)))
    return method.restore(images, method.encode(images, network), network, streams, lambda: None)


class TestReplace:
    def test_gives_another_method_and_leaves_this_one(self):
        method = Fading(mode="fast")
        other = method.replace(keep=0.25)
        assert type(other) is Fading and (other.keep, other.mode, other.curve) == (0.25, "fast", method.curve)
        assert method.keep == 0.5
        images = torch.full((1, 1, 2, 2), 0.8)
        assert restored(other, images).reconstruction.unique().item() == pytest.approx(0.2)

    def test_unknown_settings_are_named_with_the_known(self):
        with pytest.raises(ValueError, match="Fading has no setting kept, level; it has keep, curve, mode"):
            Fading().replace(kept=0.1, keep=0.2, level=3)

    def test_class_attributes_are_no_settings(self):
        with pytest.raises(ValueError, match="has no setting evidence"):
            Fading().replace(evidence=("other",))

    def test_values_are_checked(self):
        with pytest.raises(ValueError, match=r"Fading: keep must be a number in \[0, 1\], got 1.5"):
            Fading().replace(keep=1.5)


class TestDescribe:
    def test_name_and_settings(self):
        said = Fading(keep=0.75).describe()
        assert said == {"name": "Fading", "keep": 0.75, "curve": {"name": "Curve", "points": 3}}
        assert json.loads(json.dumps(said)) == said

    def test_what_results_do_not_depend_on_is_left_out(self):
        assert Fading(mode="fast").describe() == Fading().describe()
        assert "mode" not in Fading(mode="fast").describe()


class TestDefaults:
    def test_the_images_are_encoded_as_themselves(self):
        images = torch.rand(2, 1, 3, 3)
        assert Fading().encode(images, Parts()) is images

    def test_the_trial_is_the_method_itself(self):
        method = Fading()
        assert method.trial() is method and method.passes == 1

    def test_a_method_promises_nothing_but_an_image(self):
        assert Method.evidence == Method.slice_scores == () and Method.image_score == "map_mean"
        assert Restoration(torch.zeros(1)).evidence == Restoration(torch.zeros(1)).slice_scores == {}

    def test_a_method_must_restore(self):
        @dataclass(frozen=True, eq=False, kw_only=True)
        class Nothing(Method):
            pass

        with pytest.raises(TypeError, match="restore"):
            Nothing()


def test_settings_may_not_be_changed_in_place():
    with pytest.raises(AttributeError):
        Fading().keep = 0.1


def test_in_pieces_runs_one_item_at_a_time_on_a_cpu():
    sizes = []

    def double(batch: torch.Tensor, factor: float) -> torch.Tensor:
        sizes.append(len(batch))
        return batch * factor

    batch = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(in_pieces(partial(double, factor=2), batch), 2 * batch)
    assert sizes == [1, 1, 1]
