import pytest
import torch

from torchherd_tools.models import formats
from torchherd_tools.testdata import fixtures


@pytest.fixture
def load(root):
    return lambda name: formats.load_torchscript(root / "testdata" / "modules" / f"{name}.pt")


X = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity", X),
        ("negate", 1 - X),
        ("upscale2", torch.nn.functional.interpolate(X, scale_factor=2, mode="nearest")),
        ("gray", X.mean(1, keepdim=True)),
        ("no_batch_two", X),
        ("fails_on_black", X),
        ("nan", torch.full_like(X, torch.nan)),
        ("two_channels", X[:, :2]),
        ("wrong_count", X[:2]),
        ("out_of_range", X * 3 - 1),
        ("batch_size", torch.full_like(X, 3 / 255)),
    ],
)
def test_results(load, name, expected):
    torch.testing.assert_close(load(name)(X), expected, equal_nan=True)


def test_batch_size_can_be_read_from_a_pixel(load):
    module = load("batch_size")
    for batch in range(1, 256):
        pixel = module(torch.zeros(batch, 3, 1, 1))[0, 0, 0, 0]
        assert pixel.mul(255).byte() == batch


def test_not_a_tensor(load):
    assert [type(part) for part in load("not_a_tensor")(X)] == [torch.Tensor, torch.Tensor]


@pytest.mark.parametrize(
    ("name", "x", "says"),
    [
        ("no_batch_two", X[:2], "refuses a batch of two"),
        ("fails_on_black", torch.cat([X, 0 * X[:1]]), "refuses a black picture"),
        ("needs_four", X, "to have 4 channels, but got 3"),
        # The text depends on the convolution that PyTorch chooses for processor and threads.
        ("double", X, r"DoubleTensor|Float but found Double"),
    ],
)
def test_failures(load, name, x, says):
    # `raise` in a module becomes torch.jit.Error, which is not a RuntimeError.
    with pytest.raises((RuntimeError, torch.jit.Error), match=says):
        load(name)(x)


@pytest.mark.parametrize("name", ["truncated", "garbage"])
def test_broken_files_do_not_load(load, name):
    with pytest.raises(RuntimeError):
        load(name)


def test_checkpoint_is_a_state_dict_and_not_a_module(root):
    path = root / "testdata" / "modules" / "checkpoint.pth"
    assert list(torch.load(path, weights_only=True)) == ["weight"]
    with pytest.raises(RuntimeError):
        formats.load_torchscript(path)


def test_committed_files_are_those_that_the_command_makes(root, tmp_path):
    if (f"torch=={torch.__version__.split('+')[0]}\n") not in (
        root / "tools" / "requirements.txt"
    ).read_text():
        pytest.skip("the bytes depend on the pinned version of PyTorch")
    assert fixtures.main(["--folder", str(tmp_path)]) == 0
    committed = root / "testdata" / "modules"
    names = {path.name for path in tmp_path.iterdir()}
    # The bytes of a package differ each time.
    packages = {f"{name}.pt2" for name in fixtures.PACKAGES}
    assert names == {path.name for path in committed.iterdir()} - packages
    for name in names:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name
