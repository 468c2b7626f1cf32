"""The classifier and AnoFPDM's U-Net against plain tensor code that reads the authors' state dicts."""

import pytest
import torch
from adm_reference import Reference, classifier_weights, fpdm_weights

from scripts.converters import anofpdm, classifier_guidance
from scripts.networks.classes import NULL, mixed_classes
from scripts.networks.classifier import NoisyImageClassifier
from scripts.networks.fpdm_unet import FPDMUNet

CLASSIFIERS = {
    "three levels": {},
    "one level": {"channels": (32,), "blocks": 3, "attention": (True,), "side": 4},
    "one block": {"channels": (32, 64), "blocks": 1, "attention": (False, True), "images": 1, "side": 8},
}


def classifier(state, head):
    network = NoisyImageClassifier(**classifier_guidance.classifier_sizes(state, head))
    network.load_state_dict(classifier_guidance.convert_classifier(state, head))
    return network.eval()


@pytest.mark.parametrize("case", CLASSIFIERS)
@pytest.mark.parametrize("head", [8, 32])
def test_classifier_computes_what_the_authors_do(case, head):
    state = classifier_weights(3, **CLASSIFIERS[case])
    network = classifier(state, head)
    x, times = torch.randn(2, network.in_channels, *network.image_size), torch.tensor([3, 640])
    expected = Reference(state, head, True).classify(x, times, CLASSIFIERS[case].get("blocks", 2))
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    with torch.no_grad():
        assert torch.allclose(network(x, times).double(), expected, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 2])
def test_fpdm_unet_computes_what_the_authors_do(blocks):
    state = fpdm_weights(5, blocks=blocks)
    network = FPDMUNet(**anofpdm.unet_sizes(state))
    network.load_state_dict(anofpdm.convert(state))
    network.eval()
    x, times = torch.randn(2, 3, 16, 16), torch.tensor([3, 640])
    outputs = {}
    for label in (0, 1, NULL):
        reference = Reference(state, None, False)
        # Heads number four at every width.
        reference.attention = four_heads(reference)
        expected = reference.denoise(x, times, None if label == NULL else label)
        with torch.no_grad():
            outputs[label] = network(x, times, torch.full((2,), label)).double()
        assert torch.allclose(outputs[label], expected, atol=2e-4), label
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2
    assert (outputs[0] - outputs[NULL]).abs().max() > 1e-2


def four_heads(reference):
    attention = Reference.attention

    def with_head(key, x, class_vector=None):
        reference.head = x.shape[1] // 4
        return attention(reference, key, x, class_vector)

    return with_head


def test_fpdm_unet_takes_mixed_and_several_classes():
    state = fpdm_weights(5)
    network = FPDMUNet(**anofpdm.unet_sizes(state))
    network.load_state_dict(anofpdm.convert(state))
    network.eval()
    x, times = torch.randn(3, 3, 8, 8), torch.tensor([3, 640, 20])
    with torch.no_grad():
        together = network(x, times, torch.tensor([0, NULL, 1]))
        for row, label in enumerate((0, NULL, 1)):
            alone = network(x[row : row + 1], times[row : row + 1], torch.tensor([label]))
            assert torch.allclose(together[row : row + 1], alone, atol=1e-4)
        pure = network(x, times, mixed_classes(1.0, 3))
        assert torch.allclose(pure, network(x, times, torch.ones(3, dtype=torch.long)), atol=1e-4)


def test_null_class_teaches_the_class_layers_nothing():
    network = FPDMUNet(2, 2, (32, 32), 1, (False, True))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network(torch.randn(2, 2, 8, 8), torch.tensor([1, 2]), torch.full((2,), NULL)).square().sum().backward()
    assert all((p.grad == 0).all() for p in network.class_embed.parameters())
    assert (network.class_embedding.weight.grad == 0).all()


def test_published_sizes_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        built = [NoisyImageClassifier(), FPDMUNet(), FPDMUNet(1, 1)]
    assert [sum(p.numel() for p in n.parameters()) for n in built] == [5_452_962, 103_082_500, 103_075_585]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size must be multiples of 4"),
        ({"num_head_channels": 24}, r"num_head_channels must divide \[32, 32\], got 24"),
        ({"num_head_channels": 64}, r"num_head_channels must be a whole number in \[1, 32\], got 64"),
        ({"attention_levels": (True, True)}, "attention_levels must have one entry for each of channels"),
    ],
)
def test_classifier_refuses_sizes_that_do_not_fit(options, message):
    sizes = {
        "image_size": 16,
        "channels": (32, 32, 32),
        "num_head_channels": 16,
        "attention_levels": (False, False, True),
    }
    with pytest.raises(ValueError, match=message):
        NoisyImageClassifier(**(sizes | options))


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (1, 3, 32, 16)])
def test_classifier_refuses_other_images(shape):
    network = classifier(classifier_weights(1), 16)
    with pytest.raises(ValueError, match=r"takes images of shape \(B, 3, 16, 16\), got"):
        network(torch.zeros(shape), torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("middle_block.1.norm.bias"), "no key 'middle_block.1.norm.bias'"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), "1 key.s. have no place in the network"),
        (lambda s: s.update({"middle_block.1.norm.bias": torch.zeros(3)}), r"gives shape \(3,\), wanted \(64,\)"),
    ],
)
def test_converters_refuse_what_does_not_fit(change, message):
    for state, convert in (
        (classifier_weights(1), lambda s: classifier_guidance.convert_classifier(s, 16)),
        (fpdm_weights(1), anofpdm.convert),
    ):
        change(state)
        with pytest.raises(ValueError, match=message):
            convert(state)


def test_classifier_s_levels_must_show():
    state = {k: v for k, v in classifier_weights(1, attention=(False,) * 3).items()}
    with pytest.raises(ValueError, match="no attention at the last level"):
        classifier_guidance.classifier_sizes(state)
