import pytest
import torch

import generator


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The keys of horse2zebra_0.4.0.pth, by the rules of its layout and without the network."""
    weights = {1: (64, 3, 7, 7), 4: (128, 64, 3, 3), 7: (256, 128, 3, 3)}
    shapes = {f"model.{layer}.weight": shape for layer, shape in weights.items()}
    for block in range(10, 19):
        for conv in (1, 5):
            shapes[f"model.{block}.conv_block.{conv}.weight"] = (256, 256, 3, 3)
    # A transposed convolution's weight has its input channels first.
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
    table = generator.state_shapes(64, 9)
    assert table == published_shapes()
    assert len(table) == 48
    assert table["model.1.bias"] == (64,)
    assert table["model.10.conv_block.1.weight"] == (256, 256, 3, 3)
    assert table["model.18.conv_block.5.bias"] == (256,)
    assert table["model.26.bias"] == (3,)
    assert sum(torch.Size(shape).numel() for shape in table.values()) == 11_378_179


def test_layout_is_found_from_shapes():
    assert generator.find_layout(generator.random_state(8, 3, 0)) == (8, 3)


@pytest.mark.parametrize("smooth", [False, True])
def test_random_weights_depend_on_the_seed_alone(smooth):
    torch.manual_seed(1)
    first = generator.random_state(4, 1, 7, smooth=smooth)
    torch.manual_seed(2)
    again = generator.random_state(4, 1, 7, smooth=smooth)
    other = generator.random_state(4, 1, 8, smooth=smooth)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.1.weight"], other["model.1.weight"])


def test_gain_is_the_standard_deviation():
    weight = generator.random_state(32, 1, 0, gain=0.02)["model.10.conv_block.1.weight"]
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_scaling_is_the_books():
    served = generator.from_state(generator.random_state(4, 1, 0))
    x = torch.rand(2, 3, 20, 24)
    expected = torch.tanh(served.generator.model[:-1](x * 255)) / 2 + 0.5
    torch.testing.assert_close(served(x), expected)
    assert served(x).min() >= 0 and served(x).max() <= 1


@pytest.mark.parametrize(("given", "wanted"), [((64, 64), (64, 64)), ((61, 5), (64, 8))])
def test_size_is_rounded_up_to_a_multiple_of_four(given, wanted):
    served = generator.from_state(generator.random_state(2, 1, 0))
    assert served(torch.rand(1, 3, *given)).shape == (1, 3, *wanted)
