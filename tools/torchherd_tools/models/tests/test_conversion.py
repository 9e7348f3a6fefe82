"""TorchScript files become packages that compute the same and that the server serves."""

import subprocess

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchherd_tools.models import export, formats, generator

SIZE = (16, 24)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 3, 3, padding=1)


class Control(Network):
    """Decides by its input's height, and loops."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        n, c, h, w = x.shape
        y = F.pad(x, [0, 0, 0, 1]) if h % 2 == 1 else x
        for _ in range(2):
            y = y + torch.relu(self.first(y))
        return {"aux": x.mean(1), "out": torch.sigmoid(y[:, :, :h, :w].reshape(n, c, h, w))}


class Loop(Network):
    """Runs once for each image, which can't be exported for any number of them."""

    def forward(self, x: Tensor) -> Tensor:
        done = []
        for index in range(x.size(0)):
            done.append(torch.sigmoid(self.first(x[index : index + 1])))
        return torch.cat(done)


class TwoInputs(Network):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.first(image) * mask


class Dropout(Network):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.first(x), 0.5, True)


def scripted(module, path):
    with formats.quiet_jit():
        torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def traced(module, path):
    with formats.quiet_jit():
        made = torch.jit.trace(module.eval(), torch.rand(1, 3, *SIZE), check_trace=False)
        torch.jit.save(made, path)
    return path


def converted(path, *flags):
    """Return the package of a TorchScript file, in batches of up to 3."""
    out = path.with_suffix(".pt2")
    flags = ["--format", "pt2", "--size", "24x16", "--dynamic-batch", "1:3", *flags]
    assert export.main([str(path), "-o", str(out), *flags]) == 0
    return out


def worst(package, path, counts=(1, 2, 3), *, takes=torch.float32, choose=lambda y: y):
    """Return by how much a package's values differ from those of the file for each image alone."""
    script, compiled = formats.load_torchscript(path), formats.load_package(package)
    difference = 0.0
    for count in counts:
        images = torch.rand(count, 3, *SIZE)
        with torch.inference_mode():
            want = torch.cat([choose(script(image[None].to(takes))) for image in images])
        found = compiled(images)
        assert found.dtype == torch.float32
        difference = max(difference, (found - want).abs().max().item())
    return difference


def check(torchherd, package):
    """Return what the server's own check prints about a package."""
    done = subprocess.run(
        [torchherd, "models", "check", package], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_traced_cyclegan_in_bfloat16(tmp_path, torchherd, capsys):
    state = generator.random_state(generator.Layout(2, 1), 0)
    path = traced(generator.from_state(state), tmp_path / "cyclegan.pt")
    package = converted(path, "--dtype", "bf16")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "it keeps " in printed.out and "dB in bf16" in printed.out
    assert "it takes float32 [N, 3, 16, 24], N 1 to 3" in printed.out
    found = formats.read_settings(package)
    assert (found.size, found.precision, found.range) == ("24x16", "bf16", None)
    assert (found.input, found.batch, found.device) == ((3, *SIZE), (1, 3), "cpu")
    assert 0.0001 < worst(package, path) < 0.02
    assert "fp32" not in check(torchherd, package)


def test_script_with_control_flow_several_outputs_and_settings(tmp_path, torchherd, capsys):
    path = tmp_path / "control.pt"
    with formats.quiet_jit():
        script = torch.jit.script(Control().eval())
        own = "# its own\nsize: 48x32\nchannels: bgr\noutput: out\nmax-batch-size: 8\n"
        torch.jit.save(script, path, _extra_files={"model.yaml": own})
    package = converted(path)
    inside = formats.read_record(package, "extra/model.yaml").decode()
    # The size is the command's, and the batch what the package takes.
    assert inside == "channels: bgr\nmax-batch-size: 3\n"
    assert inside in capsys.readouterr().out
    assert worst(package, path, choose=lambda y: y["out"]) <= 1e-4
    assert "input    bgr, images of size 24x16" in check(torchherd, package)


def test_output_of_several_must_be_chosen(tmp_path, capsys):
    path = scripted(Control(), tmp_path / "dict.pt")
    arguments = [str(path), "-o", str(tmp_path / "dict.pt2"), "--format", "pt2", "--size", "24x16"]
    assert export.main(arguments) == 1
    assert capsys.readouterr().err == (
        f"export: {path}: it returns several tensors: aux: float32 [1, 16, 24]; "
        "out: float32 [1, 3, 16, 24]; choose one, such as --output aux\n"
    )
    assert export.main([*arguments, "--output", "mask"]) == 1
    assert "it has no output mask: aux: " in capsys.readouterr().err


def test_loop_over_the_images_in_half_becomes_a_package_for_one_image(tmp_path, torchherd, capsys):
    path = scripted(Loop().half(), tmp_path / "loop.pt")
    package = converted(path)
    printed = capsys.readouterr().out
    assert f"{path}: converting it for batches of 1 to 3: RuntimeError: TS2EPConverter" in printed
    assert f"{path}: tracing it for batches of 1 to 3: UserError: the code takes the nu" in printed
    assert "N 1: batches of one image only" in printed
    assert printed.endswith("inside it:\nmax-batch-size: 1\n")
    found = formats.read_settings(package)
    assert (found.batch, found.precision) == ((1, 1), "fp16")
    assert worst(package, path, (1,), takes=torch.half) <= 0.005
    # It is served in batches of one, although the server's default is two.
    assert "\n2 " not in check(torchherd, package)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (TwoInputs, "takes image: Tensor, mask: Tensor, and a package takes one tensor of images"),
        (Dropout, "computes other values each time; call eval() before tracing or scripting"),
        ("nan.pt", "computes NaN or infinite values for images"),
        ("wrong_count.pt", "returns [0, 3, 16, 24] for one image, want one item"),
        ("needs_four.pt", "does not run on one image of 24x16: Given groups=1"),
        ("fails_on_black.pt", "cannot be converted, for the reasons above; nothing was written"),
        ("truncated.pt", "not a weights file"),
    ],
)
def test_files_that_cannot_be_converted(root, tmp_path, capsys, make, says):
    if isinstance(make, str):
        path = root / "testdata" / "modules" / make
    else:
        path = scripted(make(), tmp_path / "module.pt")
    out = tmp_path / "out.pt2"
    assert export.main([str(path), "-o", str(out), "--format", "pt2", "--size", "24x16"]) == 1
    message = capsys.readouterr().err
    assert f"{path}: {says}" in message and message.count("\n") == 1
    assert not out.exists()


def test_module_that_mixes_images_needs_a_batch_of_one(root, tmp_path, capsys):
    path = root / "testdata" / "modules" / "batch_norm_in_training.pt"
    flags = ["--format", "pt2", "--size", "24x16", "--dynamic-batch", "2:3"]
    assert export.main([str(path), "-o", str(tmp_path / "out.pt2"), *flags]) == 1
    printed = capsys.readouterr()
    assert "the file mixes the images of a batch of 2: compared with each image" in printed.out
    assert "leave out --dynamic-batch, for a batch of one" in printed.err


def test_torchscript_needs_the_format(root, tmp_path, capsys):
    path = root / "testdata" / "modules" / "negate.pt"
    assert export.main([str(path), "-o", str(tmp_path / "out.pt2")]) == 1
    assert "which torchherd serves as it is; --format pt2 compiles it" in capsys.readouterr().err


def test_output_is_for_torchscript(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save(generator.random_state(generator.Layout(2, 1), 0), path)
    flags = ["--format", "pt2", "--output", "0"]
    assert export.main([str(path), "-o", str(tmp_path / "out.pt2"), *flags]) == 1
    assert "--output is for TorchScript files" in capsys.readouterr().err
