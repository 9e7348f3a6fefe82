import pytest
import torch

from torchherd_tools.models import generator
from torchherd_tools.models.generator import Layout


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return the keys of horse2zebra_0.4.0.pth by the rules of its layout, without the network."""
    weights = {1: (64, 3, 7, 7), 4: (128, 64, 3, 3), 7: (256, 128, 3, 3)}
    shapes = {f"model.{layer}.weight": shape for layer, shape in weights.items()}
    for block in range(10, 19):
        for conv in (1, 5):
            shapes[f"model.{block}.conv_block.{conv}.weight"] = (256, 256, 3, 3)
    # A transposed convolution's weight begins with the input channels.
    shapes["model.19.weight"] = (256, 128, 3, 3)
    shapes["model.22.weight"] = (128, 64, 3, 3)
    shapes["model.26.weight"] = (3, 64, 7, 7)
    transposed = {"model.19.weight", "model.22.weight"}
    biases = {
        key.replace("weight", "bias"): (shape[1 if key in transposed else 0],)
        for key, shape in shapes.items()
    }
    return shapes | biases


def test_published_layout_has_the_published_keys():
    table = generator.state_shapes(generator.PUBLISHED)
    assert table == published_shapes()
    assert len(table) == 48
    assert table["model.1.bias"] == (64,)
    assert table["model.10.conv_block.1.weight"] == (256, 256, 3, 3)
    assert table["model.18.conv_block.5.bias"] == (256,)
    assert table["model.26.bias"] == (3,)
    assert sum(torch.Size(shape).numel() for shape in table.values()) == 11_378_179


@pytest.mark.parametrize(
    "layout", [Layout(8, 3), Layout(1, 1), Layout(8, 3, True), Layout(1, 0, True)]
)
def test_layout_is_found_from_shapes(layout):
    assert generator.find_layout(generator.random_state(layout, 0)) == layout


def test_both_ways_of_upsampling_have_the_same_keys():
    plain, resized = (generator.state_shapes(Layout(4, 2, resize)) for resize in (False, True))
    assert plain.keys() == resized.keys()


def test_resizing_leaves_no_checkerboard_and_no_border():
    """A flat image stays flat for all weights; with transposed convolutions it does not."""
    x = torch.full((1, 3, 40, 48), 0.3)
    spread = {}
    for resize in (False, True):
        network = generator.from_state(generator.random_state(Layout(4, 1, resize), 0, gain=0.1))
        for layer in network.modules():
            if isinstance(layer, torch.nn.InstanceNorm2d):
                # Instance norm would turn a flat channel to zero and hide the effect.
                layer.forward = lambda y: y / (1 + y.abs().max())
        spread[resize] = network(x).std(dim=(2, 3)).max().item()
    assert spread[True] < 1e-6 < 1e-4 < spread[False]


def test_random_weights_depend_only_on_the_seed():
    torch.manual_seed(1)
    first = generator.random_state(Layout(4, 1), 7)
    torch.manual_seed(2)
    again = generator.random_state(Layout(4, 1), 7)
    other = generator.random_state(Layout(4, 1), 8)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.1.weight"], other["model.1.weight"])


def test_gain_is_the_standard_deviation():
    weight = generator.random_state(Layout(32, 1), 0, gain=0.02)["model.10.conv_block.1.weight"]
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_scaling_is_the_books():
    served = generator.from_state(generator.random_state(Layout(4, 1), 0))
    x = torch.rand(2, 3, 20, 24)
    expected = torch.tanh(served.generator.model[:-1](x * 255)) / 2 + 0.5
    torch.testing.assert_close(served(x), expected)
    assert served(x).min() >= 0 and served(x).max() <= 1


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize(("given", "wanted"), [((64, 64), (64, 64)), ((61, 5), (64, 8))])
def test_size_is_rounded_up_to_a_multiple_of_four(given, wanted, resize):
    served = generator.from_state(generator.random_state(Layout(2, 1, resize), 0))
    assert served(torch.rand(1, 3, *given)).shape == (1, 3, *wanted)
