"""Checkpoints of the official CycleGAN and pix2pix code, in their layouts, exported and served.

The networks here are built from torch.nn alone, laid out as the official ones are.
"""

import argparse
import functools
import io
import shlex
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color
from torch import nn

from torchherd_tools import paths, serving
from torchherd_tools.models import checkpoint, export, formats, info

INSTANCE = functools.partial(nn.InstanceNorm2d, affine=False)
TRACKED = functools.partial(nn.InstanceNorm2d, track_running_stats=True)
BATCH = nn.BatchNorm2d
SECONDS = 300  # timeout of a command; the machine may be busy


def none(_):
    return nn.Identity()


class Block(nn.Module):
    """A ResNet block as the official code lays it out."""

    def __init__(self, width, norm, dropout, bias):
        super().__init__()
        layers = []
        for half in range(2):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width)]
            if half == 0:
                layers += [nn.ReLU(True)] + [nn.Dropout(0.5)] * dropout
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv_block(x)


class ResNet(nn.Module):
    """The official ResnetGenerator: bias is that of convolutions before a norm."""

    def __init__(self, norm=INSTANCE, dropout=False, inputs=3, outputs=3, n=3, blocks=2):
        super().__init__()
        bias = norm in (INSTANCE, TRACKED)
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, n, 7, bias=bias), norm(n), nn.ReLU(True)]
        for width in (n, 2 * n):
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=bias)]
            layers += [norm(2 * width), nn.ReLU(True)]
        layers += [Block(4 * n, norm, dropout, bias) for _ in range(blocks)]
        for width in (4 * n, 2 * n):
            layers += [nn.ConvTranspose2d(width, width // 2, 3, 2, 1, 1, bias=bias)]
            layers += [norm(width // 2), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(n, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x)


class Level(nn.Module):
    """The official UnetSkipConnectionBlock, with its activation in place."""

    def __init__(self, outer, inner, below, norm, dropout=False):
        super().__init__()
        bias = norm is INSTANCE
        layers = [nn.LeakyReLU(0.2, True), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if below is not None:
            layers += [norm(inner), below]
        width = inner if below is None else 2 * inner
        layers += [nn.ReLU(True), nn.ConvTranspose2d(width, outer, 4, 2, 1, bias=bias), norm(outer)]
        self.model = nn.Sequential(*layers, *[nn.Dropout(0.5)] * dropout)

    def forward(self, x):
        return torch.cat([x, self.model(x)], 1)


class Outermost(nn.Module):
    def __init__(self, inputs, outputs, n, below, bias):
        super().__init__()
        down = nn.Conv2d(inputs, n, 4, 2, 1, bias=bias)
        up = nn.ConvTranspose2d(2 * n, outputs, 4, 2, 1)
        self.model = nn.Sequential(down, below, nn.ReLU(True), up, nn.Tanh())

    def forward(self, x):
        return self.model(x)


class UNet(nn.Module):
    """The official UnetGenerator."""

    def __init__(self, downs, norm=BATCH, dropout=True, inputs=3, outputs=3, n=2):
        super().__init__()
        level = Level(8 * n, 8 * n, None, norm)
        for _ in range(downs - 5):
            level = Level(8 * n, 8 * n, level, norm, dropout)
        for width in (4 * n, 2 * n, n):
            level = Level(width, 2 * width, level, norm)
        self.model = Outermost(inputs, outputs, n, level, norm is INSTANCE)

    def forward(self, x):
        return self.model(x)


def drawn(network, seed=0):
    """Draw the weights and statistics of a network, so that each of them matters."""
    source = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=source)
        elif value.is_floating_point():
            one = 1.0 if value.dim() == 1 and key.endswith("weight") else 0.0
            value.normal_(one, 0.2 if value.dim() == 1 else 0.1, generator=source)
    return network


def official(network, x, evaluate=False):
    """Return what the official test makes of each image alone, in 0..1.

    It normalizes to -1..1, and runs the network in train mode unless --eval is given. Dropout is
    off, as torchherd promises.
    """
    network.train(not evaluate)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        return torch.cat([(network((image[None] - 0.5) / 0.5) + 1) / 2 for image in x])


def images(n, channels, height, width):
    source = torch.Generator().manual_seed(1)
    return torch.rand(n, channels, height, width, generator=source)


@pytest.fixture
def converted(tmp_path, capfd):
    """Saves a checkpoint, exports it by the command, and returns the file and what was printed."""

    def run(content, *flags):
        torch.save(content, tmp_path / "weights.pth")
        out = tmp_path / "model.pt"
        status = export.main([str(tmp_path / "weights.pth"), "-o", str(out), *flags])
        printed = capfd.readouterr()
        assert (status, printed.err) == (0, "")
        return out, printed.out

    return run


@pytest.fixture
def refused(tmp_path, capfd):
    """Saves a checkpoint, exports it by the command, and returns the line on stderr."""

    def run(content, *flags):
        torch.save(content, tmp_path / "weights.pth")
        out = tmp_path / "model.pt"
        assert export.main([str(tmp_path / "weights.pth"), "-o", str(out), *flags]) == 1
        message = capfd.readouterr().err
        assert message.count("\n") == 1 and not out.exists()
        return message

    return run


def without(state, ending):
    return {key: value for key, value in state.items() if not key.endswith(ending)}


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3), "exp_avg": torch.ones(3, 3, 7, 7)}}}
# What is saved, by its name: the network, and what becomes of its state dict.
LAYOUTS = {
    "plain": (ResNet, lambda s: s),
    "DataParallel": (ResNet, lambda s: prefixed(s, "module.")),
    "InstanceNorm before PyTorch 0.4": (
        lambda: ResNet(TRACKED),
        lambda s: without(s, "num_batches_tracked"),
    ),
    "InstanceNorm with statistics": (lambda: ResNet(TRACKED), lambda s: s),
    "dropout": (lambda: ResNet(dropout=True), lambda s: s),
    "batch norm": (lambda: ResNet(BATCH), lambda s: s),
    "batch norm and dropout": (lambda: ResNet(BATCH, True), lambda s: s),
    "no norm": (lambda: ResNet(none), lambda s: s),
    "epoch beside it": (ResNet, lambda s: {**s, "epoch": 9}),
    "state_dict": (ResNet, lambda s: {"epoch": 9, "state_dict": s}),
    "optimizer": (ResNet, lambda s: {"G": s, "optimizer": OPTIMIZER}),
    "options": (
        ResNet,
        lambda s: {"netG_A": s, "netD_A": {}, "opt": argparse.Namespace(lr=0.1, name="x")},
    ),
    "deep": (ResNet, lambda s: {"state_dict": {"G_A": prefixed(s, "module.")}}),
    "half": (ResNet, lambda s: {key: value.half() for key, value in s.items()}),
    "grey": (lambda: ResNet(inputs=1, outputs=1), lambda s: s),
    "U-Net 128": (lambda: UNet(7), lambda s: s),
    "U-Net 256": (lambda: UNet(8), lambda s: prefixed(s, "module.")),
    "U-Net with instance norm": (lambda: UNet(5, INSTANCE), lambda s: {"netG": s}),
    "U-Net without a norm": (lambda: UNet(5, none, False), lambda s: s),
    "U-Net before PyTorch 0.4": (lambda: UNet(5), lambda s: without(s, "num_batches_tracked")),
    "grey U-Net to colour": (lambda: UNet(6, inputs=1), lambda s: s),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoint_computes_what_the_official_test_does(converted, name):
    make, save = LAYOUTS[name]
    network = drawn(make())
    out, _ = converted(save(network.state_dict()))
    if name == "half":
        network.half().float()
    exported = formats.load_torchscript(out)
    channels = next(iter(network.state_dict().values())).shape[1]
    side = 256 if name == "U-Net 256" else 128 if name.startswith("U-Net") else 64
    x = images(3, channels, side, 2 * side)
    # The official network normalizes by another kernel, in another order of sums.
    assert (exported(x) - official(network, x)).abs().max() <= 1e-5
    assert exported(x).std() > 0.03


@pytest.mark.parametrize("make", [lambda: ResNet(BATCH, True), lambda: UNet(5)])
def test_eval_uses_the_statistics_of_the_training(converted, make):
    network = drawn(make())
    x = images(2, 3, 32, 64)
    exported = formats.load_torchscript(converted(network.state_dict(), "--eval")[0])
    assert (exported(x) - official(network, x, evaluate=True)).abs().max() <= 1e-5
    assert (exported(x) - official(network, x)).abs().max() > 0.01


@pytest.mark.parametrize("state", [ResNet().state_dict(), without(UNet(5).state_dict(), "_mean")])
def test_eval_needs_statistics(refused, state):
    assert "no batch norm with running statistics" in refused(state, "--eval")


def test_one_of_several_networks_is_chosen_by_its_name(converted, refused):
    a, b = drawn(ResNet(), 1), drawn(ResNet(dropout=True), 2)
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 4), nn.LeakyReLU(), nn.Conv2d(4, 1, 4))
    content = {
        "netG_A": prefixed(a.state_dict(), "module."),
        "netG_B": prefixed(b.state_dict(), "module."),
        "netD_A": {"model": prefixed(discriminator.state_dict(), "model.")},
    }
    says = "has the generators netG_A.module, netG_B.module; choose one by --network NAME"
    assert says in refused(content)
    assert f"no network netD_A, or not only one; {says}" in refused(content, "--network", "netD_A")
    assert "or not only one" in refused(content, "--network", "module")
    x = images(1, 3, 32, 32)
    for name, network in (("netG_A", a), ("netG_B.module", b)):
        exported = formats.load_torchscript(converted(content, "--network", name)[0])
        assert (exported(x) - official(network, x)).abs().max() <= 1e-5


@pytest.mark.parametrize("flags", [("--half",), ("--method", "script"), ("--dtype", "bf16")])
def test_options_of_an_export_fit_a_u_net(converted, flags):
    network = drawn(UNet(5, inputs=1))
    exported = formats.load_torchscript(converted(network.state_dict(), *flags)[0])
    x = images(2, 1, 64, 32)
    error = (exported(x) - official(network, x)).square().mean()
    assert error < (1e-10 if "script" in flags else 10**-3.5)


@pytest.mark.parametrize(
    ("network", "flags", "says"),
    [
        (UNet(6), ("--size", "256x100"), "takes sides that are multiples of 64; give for example"),
        (ResNet(inputs=6), (), "takes 6 channels and returns 3"),
        (ResNet(outputs=2), (), "takes 3 channels and returns 2"),
    ],
)
def test_generators_that_cannot_be_served_are_refused(refused, network, flags, says):
    assert says in refused(drawn(network).state_dict(), *flags)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("model.model.3.weight"), "missing key model.model.3.weight"),
        (lambda s: s.pop("model.model.1.model.3.model.5.weight"), "missing key model.model.1.m"),
        (lambda s: s.update({"model.x": torch.ones(1)}), "unexpected key model.x"),
        (lambda s: s.update({"model.model.3.bias": torch.ones(3).int()}), "not a floating-point"),
        (lambda s: s.update({"model.model.3.bias": torch.ones(5)}), "has shape [5], want [3]"),
    ],
)
def test_u_nets_that_do_not_fit_are_refused(refused, change, says):
    state = drawn(UNet(5)).state_dict()
    change(state)
    message = refused(state)
    assert "not a CycleGAN or pix2pix generator: " in message and says in message


def test_pickled_network_is_named(refused):
    message = refused(nn.Sequential(nn.Conv2d(3, 3, 3)))
    assert "holds Python objects (torch.nn.modules." in message
    assert "torch.save(net.state_dict()" in message


def test_input_range_is_from_the_flag_or_the_file_or_the_official_code(converted):
    network = drawn(ResNet(none))
    state, x = network.state_dict(), images(1, 3, 32, 32) / 100

    def exported(content, *flags):
        return formats.load_torchscript(converted(content, *flags)[0])(x)

    network.eval()
    with torch.no_grad():
        book, unit = (network(x * high) / 2 + 0.5 for high in (255, 1))
    assert torch.equal(exported(state, "--input-range=0:255"), book)
    stated = {checkpoint.INPUT_RANGE: [0.0, 255.0], "state_dict": state}
    assert torch.equal(exported(stated), book)
    assert torch.equal(exported(stated, "--input-range", "0:1"), unit)
    assert (exported(state) - official(network, x)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("content", "architecture"),
    [
        (UNet(7).state_dict(), "pix2pix U-Net, ngf 2, 7 levels, batch norm"),
        (
            {"G": prefixed(ResNet(BATCH, outputs=1).state_dict(), "module.")},
            "CycleGAN generator, ngf 3, 2 blocks, transposed convolutions, batch norm, "
            "3 to 1 channels",
        ),
        (
            {"G_A": ResNet(none).state_dict(), "G_B": UNet(5, INSTANCE).state_dict()},
            "G_A: CycleGAN generator, ngf 3, 2 blocks, transposed convolutions, no norm; "
            "G_B: pix2pix U-Net, ngf 2, 5 levels",
        ),
    ],
)
def test_info_describes_checkpoints(tmp_path, content, architecture):
    torch.save(content, tmp_path / "weights.pth")
    assert info.describe(tmp_path / "weights.pth")["architecture"] == architecture


def test_info_describes_an_exported_u_net(converted):
    lines = info.describe(converted(UNet(5, inputs=1).state_dict())[0])
    assert lines["architecture"].startswith("pix2pix U-Net, ngf 2, 5 levels, instance norm with w")
    assert lines["input"] == "float32 [N, 1, H, W] in 0..1, images of size 32x32"


def served(model, body, *flags):
    """Serve a model without further settings, and return its response to an image as an array."""
    words = [str(paths.torchherd()), "serve", str(model)]
    words += ["--listen", "127.0.0.1:{port}", "--admin-listen", "off", *flags]
    with serving.started(shlex.join(words), SECONDS) as url:
        serving.wait_until_serving(url, body, SECONDS)
        response = serving.put(f"{url}?format=png", body)
    assert response.status == 200, response.body
    return np.asarray(Image.open(io.BytesIO(response.body)))


def as_png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def noise_image(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def tensor(image):
    """Return an image as torchvision's ToTensor does: [1, C, H, W] in 0..1."""
    pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None] / 255


def test_served_checkpoint_gives_the_pixels_of_the_official_test(converted):
    """A pix2pix checkpoint, with no settings beside the file: Pillow's resize, -1..1, and back."""
    network, image = drawn(UNet(8)), noise_image(300, 200)
    out, printed = converted(network.state_dict())
    assert "with the settings resize-filter: bicubic, grayscale: rgb" in printed
    checked = subprocess.run(
        [paths.torchherd(), "models", "check", out],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    resized = image.resize((256, 256), Image.Resampling.BICUBIC)
    expected = official(network, tensor(resized))[0].permute(1, 2, 0).numpy() * 255
    # The official code cuts off. Where the value is nearly whole, either byte is right.
    difference = served(out, as_png(image)) - expected.astype(np.uint8).astype(int)
    assert np.abs(difference).max() <= 1 and np.count_nonzero(difference) < 100


def test_served_size_keep_fits_a_u_net_and_grey_images(converted):
    network, image = drawn(UNet(5, inputs=1)), noise_image(100, 70).convert("L")
    out, printed = converted(network.state_dict(), "--size", "keep")
    assert "channels: gray, multiple-of: 32" in printed
    padded = np.pad(np.asarray(image), ((0, 26), (0, 28)), mode="reflect")
    expected = official(network, tensor(Image.fromarray(padded)))[0].permute(1, 2, 0).numpy() * 255
    expected = expected[:70, :100]
    difference = served(out, as_png(image)) - expected.astype(np.uint8).astype(int)
    assert np.abs(difference).max() <= 1 and np.count_nonzero(difference) < 100


def test_served_colourizer_adds_a_and_b_to_the_lightness(converted):
    """pix2pix's colourizer: L / 50 - 1 in, a and b / 110 out. Grey stays grey where they are 0."""
    network = drawn(UNet(5, inputs=1, outputs=2))
    last = network.model.model[3]
    nn.init.zeros_(last.weight)
    last.bias.data = torch.atanh(torch.tensor([40.0, -30.0]) / 110)
    out, _ = converted(network.state_dict())
    grey = Image.new("RGB", (48, 40), (145, 145, 145))
    pixels = served(out, as_png(grey)).reshape(-1, 3)
    light = color.rgb2lab(np.full((1, 1, 3), 145, np.uint8))[0, 0, 0]
    want = np.rint(color.lab2rgb(np.array([[[light, 40, -30]]]))[0, 0] * 255)
    assert np.abs(pixels - want).max() <= 1
