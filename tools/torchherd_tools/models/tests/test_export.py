import json
import math
import re
import warnings
import zipfile

import pytest
import torch

from torchherd_tools import files, testing
from torchherd_tools.models import checkpoint, checks, export, formats, generator, info, precision


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(generator.random_state(generator.Layout(4, 2), 0), path)
    return path


@pytest.fixture
def refuse(capsys):
    """Runs a command in this process and returns its one line on stderr."""

    def run(*arguments, command=export):
        assert command.main([*map(str, arguments)]) == 1
        message = capsys.readouterr().err
        assert message.startswith(f"{command.__name__.rpartition('.')[2]}: ")
        assert message.count("\n") == 1
        return message

    return run


def changed(path, change):
    state = dict(torch.load(path, weights_only=True))
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("layout", [generator.Layout(4, 2), generator.Layout(4, 2, True)])
@pytest.mark.parametrize("method", ["trace", "script"])
def test_exported_file_computes_what_pytorch_does(weights, tmp_path, capsys, method, layout):
    torch.save(generator.random_state(layout, 0), weights)
    out = tmp_path / "deep" / "model.pt"
    with warnings.catch_warnings(action="error"):
        assert export.main([str(weights), "-o", str(out), "--method", method]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert files.sha256(out.read_bytes()) in printed.out
    eager = generator.from_state(torch.load(weights, weights_only=True), generator.OFFICIAL_RANGE)
    exported = formats.load_torchscript(out)
    for batch, height, width in ((1, 228, 228), (3, 32, 44)):
        x = torch.rand(batch, 3, height, width)
        assert (exported(x) - eager(x)).abs().max() <= 1e-5
    assert [path.name for path in out.parent.iterdir()] == ["model.pt"]


def test_exported_file_has_no_path_of_the_machine(weights, tmp_path, root):
    out = tmp_path / "model.pt"
    done = testing.run(export.main, [str(weights), "-o", str(out)])
    assert (done.returncode, done.stderr) == (0, "")
    assert str(root).encode() not in out.read_bytes()
    assert b"site-packages" not in out.read_bytes()


def test_an_error_has_no_traceback(root, tmp_path):
    path = root / "testdata" / "modules" / "negate.pt"
    done = testing.run(export.main, [str(path), "-o", str(tmp_path / "model.pt")])
    assert done.returncode == 1
    assert done.stderr.startswith(f"export: {path}: not a weights file")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("model.4.bias"), "missing key model.4.bias"),
        (
            lambda s: s.pop("model.1.weight"),
            "a 7x7 convolution model.1.weight or a 4x4 convolution model.model.0.weight; has 19 ",
        ),
        (lambda s: s.pop("model.11.conv_block.5.weight"), "missing key model.11.conv_block.5.w"),
        (lambda s: s.update({"model.99.weight": torch.zeros(1)}), "unexpected key model.99.weight"),
        (
            lambda s: s.update({"model.7.weight": torch.zeros(16, 8, 5, 5)}),
            "model.7.weight has shape [16, 8, 5, 5], want [16, 8, 3, 3]",
        ),
        (
            lambda s: s.update({"model.1.weight": torch.zeros(4)}),
            "not a CycleGAN or pix2pix generator, which begins with",
        ),
        (lambda s: s.update({"model.1.bias": torch.full((4,), 1)}), "model.1.bias is not a fl"),
        (
            lambda s: s.update({"model.19.weight": torch.full((3, 4, 7, 7), torch.nan)}),
            "differs from eager PyTorch by nan",
        ),
    ],
)
def test_weights_that_do_not_fit_are_rejected(refuse, weights, tmp_path, change, says):
    changed(weights, change)
    out = tmp_path / "model.pt"
    out.write_bytes(b"an older file")
    assert says in refuse(weights, "-o", out)
    assert out.read_bytes() == b"an older file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "weights.pth"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a weights file"),
        (b"hello", "not a weights file"),
        (None, "no such file"),
        ("testdata/modules/garbage.pt", "not a weights file"),
        ("testdata/modules/negate.pt", "not a weights file"),
        ("testdata/modules/checkpoint.pth", "has 1 tensors, such as weight [3, 4, 1, 1]"),
    ],
)
def test_other_files_are_rejected_in_one_line(refuse, root, tmp_path, content, says):
    path = tmp_path / "weights.pth"
    if isinstance(content, str):
        path = root / content
    elif content is not None:
        path.write_bytes(content)
    message = refuse(path, "-o", tmp_path / "model.pt")
    assert says in message and str(path) in message
    assert not (tmp_path / "model.pt").exists()


def test_a_list_is_rejected(refuse, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(1)], path)
    assert "holds a list" in refuse(path, "-o", tmp_path / "model.pt")


@pytest.mark.parametrize("arguments", [(), ("weights.pth", "--random"), ("--random", "--ngf", "0")])
def test_usage_errors(capsys, tmp_path, arguments):
    with pytest.raises(SystemExit, match="2"):
        export.main([*arguments, "-o", str(tmp_path / "model.pt")])
    assert "usage:" in capsys.readouterr().err


def test_random_gives_the_same_file_for_the_same_seed(tool, tmp_path):
    layout = ["--random", "--ngf", "4", "--blocks", "1", "-o"]
    a, b, c = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    # The first one has hash seeds of its own.
    done = tool("export", *layout, a, "--seed", 5)
    assert (done.returncode, done.stderr) == (0, "")
    assert testing.run(export.main, [*layout, str(b), "--seed", "5"]).returncode == 0
    assert testing.run(export.main, [*layout, str(c), "--seed", "6"]).returncode == 0
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes() != c.read_bytes()


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("method", ["trace", "script"])
def test_half_weights_keep_the_images(weights, tmp_path, capsys, method, resize):
    torch.save(generator.random_state(generator.Layout(8, 2, resize), 0), weights)
    full, narrow = tmp_path / "full.pt", tmp_path / "narrow.pt"
    assert export.main([str(weights), "-o", str(full), "--method", method]) == 0
    assert export.main([str(weights), "-o", str(narrow), "--method", method, "--half"]) == 0
    assert "float16 weights keep" in capsys.readouterr().out
    assert narrow.stat().st_size < 0.65 * full.stat().st_size
    assert {each.dtype for each in formats.load_torchscript(narrow).parameters()} == {torch.half}
    x = torch.rand(3, 3, 44, 60)
    wide, narrowed = (formats.load_torchscript(path)(x) for path in (full, narrow))
    error = (wide - narrowed).square().mean()
    assert narrowed.dtype == torch.float32
    assert 0 < error < 1e-4, "40 dB"


def test_half_weights_that_lose_too_much_are_rejected(refuse, weights, tmp_path):
    # Near the smallest number of float16, every weight becomes 0 or that number.
    changed(weights, lambda s: s.update({"model.4.weight": s["model.4.weight"] * 1e-6}))
    out = tmp_path / "model.pt"
    assert re.search(r"keep \d+\.\d dB .* leave out --half", refuse(weights, "-o", out, "--half"))
    assert not out.exists()


def test_settings_are_in_the_file(weights, tmp_path):
    out = tmp_path / "model.pt"
    assert export.main([str(weights), "-o", str(out), "--size", "320x256"]) == 0
    found = formats.read_settings(out)
    assert (found.size, found.range, found.precision) == ("320x256", (0.0, 1.0), "fp32")
    assert (found.input, found.batch, found.device) == (None, None, None)
    assert found.architecture == "CycleGAN generator, ngf 4, 2 blocks, transposed convolutions"
    # PyTorch reads the record as an extra file of the TorchScript archive.
    extra = {formats.SETTINGS: ""}
    with formats.quiet_jit():
        torch.jit.load(str(out), _extra_files=extra)
    assert json.loads(extra[formats.SETTINGS])["size"] == "320x256"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["trace", "script"])
def test_reduced_generator_keeps_the_images(weights, tmp_path, capsys, method, dtype):
    out = tmp_path / "model.pt"
    flags = ["--method", method, "--dtype", dtype, "--size", "44x36"]
    assert export.main([str(weights), "-o", str(out), *flags]) == 0
    assert re.search(rf"{dtype} keeps \d+\.\d dB", capsys.readouterr().out)
    assert formats.read_settings(out).precision == dtype
    exported = formats.load_torchscript(out)
    assert {each.dtype for each in exported.parameters()} == {precision.DTYPES[dtype]}
    image = checks.photograph(36, 44)
    assert exported(image).dtype == torch.float32
    assert 35 < checks.least_psnr(exported, export.load_generator(weights), [image]) < 120


def test_reduced_generator_that_loses_too_much_is_rejected(refuse, weights, tmp_path):
    # The last layer's values exceed float16: they become infinite, and their tanh is 1.
    changed(weights, lambda s: s.update({"model.19.bias": torch.tensor([-1e5, 1e5, 0])}))
    changed(weights, lambda s: s.update({"model.19.weight": s["model.19.weight"] * 1e5}))
    out = tmp_path / "model.pt"
    message = refuse(weights, "-o", out, "--dtype", "fp16")
    assert re.search(r"in fp16 the images keep (\d+\.\d|nan) dB .* leave out --dtype", message)
    assert not out.exists()


def packaged(folder, *flags):
    """Return a generator, and its AOTInductor package for 24x20 images in batches of 1 to 3."""
    state = generator.random_state(generator.Layout(2, 1, True), 0)
    torch.save(state, folder / "weights.pth")
    flags = ["--format", "pt2", "--size", "24x20", "--dynamic-batch", "1:3", *flags]
    out = folder / "model.pt2"
    assert export.main([str(folder / "weights.pth"), "-o", str(out), *flags]) == 0
    return generator.from_state(state, generator.OFFICIAL_RANGE), out


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A generator and its package with the default options."""
    return packaged(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def reduced_package(tmp_path_factory):
    """A generator and its package in bfloat16."""
    return packaged(tmp_path_factory.mktemp("bf16"), "--dtype", "bf16")


def test_package_computes_what_pytorch_does_at_every_batch_size(package):
    eager, out = package
    compiled = formats.load_package(out)
    for batch in (1, 2, 3):
        x = torch.rand(batch, 3, 20, 24)
        assert (compiled(x) - eager(x)).abs().max() <= 1e-4


def test_package_in_bfloat16_keeps_the_images(reduced_package):
    eager, out = reduced_package
    compiled = formats.load_package(out)
    images = [*checks.noise((n, 20, 24) for n in (1, 2, 3)), checks.photograph(20, 24)]
    assert 35 < checks.least_psnr(compiled, eager, images) < 100
    assert compiled(images[0]).dtype == torch.float32
    assert formats.read_settings(out).precision == "bf16"


def test_package_checks_its_input_if_the_environment_says_so(package, tmp_path):
    """The variable is read at the first call, so the test needs a process of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        f"model = torch._inductor.aoti_load_package({str(package[1])!r})\n"
        "print(*(model(torch.rand(n, 3, 20, 24)).shape[0] for n in (1, 2, 3)))\n"
        "model(torch.rand(1, 3, 20, 25))\n"
    )
    done = testing.run_script(script, environment={"AOTI_RUNTIME_CHECK_INPUTS": "1"})
    assert done.stdout == "1 2 3\n"
    assert "unmatched dim value at 3, expected: 24, but got: 25" in done.stderr


def test_package_carries_settings_and_no_sources(package):
    _, out = package
    found = formats.read_settings(out)
    assert (found.size, found.precision) == ("24x20", "fp32")
    assert (found.input, found.batch, found.device) == ((3, 20, 24), (1, 3), "cpu")
    sources = [name for name in formats.records(out) if name.endswith(".cpp")]
    assert all(formats.read_record(out, name) == b"" for name in sources)


def test_package_of_one_batch_size_for_grey_images_without_frozen_weights(weights, tmp_path):
    torch.save(generator.random_state(generator.Layout(4, 2, inputs=1), 0), weights)
    out = tmp_path / "model.pt2"
    flags = ["--format", "pt2", "--size", "24x20", "--dynamic-batch", "1:1", "--no-freeze"]
    assert export.main([str(weights), "-o", str(out), *flags]) == 0
    assert formats.load_package(out)(torch.rand(1, 1, 20, 24)).shape == (1, 3, 20, 24)
    assert formats.read_settings(out).input == (1, 20, 24)
    text = b"resize-filter: bicubic\ngrayscale: rgb\nchannels: gray\n"
    assert formats.read_record(out, "extra/model.yaml") == text


def test_package_needs_one_size(refuse, weights, tmp_path):
    out = tmp_path / "model.pt2"
    message = refuse(weights, "-o", out, "--format", "pt2", "--size", "keep")
    assert "give --size WIDTHxHEIGHT" in message and not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_package_for_cuda_needs_a_gpu(refuse, weights, tmp_path):
    out = tmp_path / "model.pt2"
    message = refuse(weights, "-o", out, "--format", "pt2", "--device", "cuda")
    assert "finds none here; export on the machine that will serve it" in message
    assert not out.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_package_for_cuda(tmp_path, dtype):
    _, out = packaged(tmp_path, "--device", "cuda", "--dtype", dtype)
    assert formats.read_settings(out).device == "cuda"


def described(capsys, path):
    assert info.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def test_info_describes_an_exported_file(capsys, weights, tmp_path):
    out = tmp_path / "model.pt"
    export.main([str(weights), "-o", str(out), "--size", "keep", "--half"])
    capsys.readouterr()
    lines = described(capsys, out)
    shapes = generator.state_shapes(generator.Layout(4, 2)).values()
    assert lines == {
        "file": str(out),
        "format": "TorchScript, archive version 3",
        "architecture": "CycleGAN generator, ngf 4, 2 blocks, transposed convolutions",
        "input": "float32 [N, 3, H, W] in 0..1, images of size keep",
        "weights": f"{sum(map(math.prod, shapes))} float16",
        "computes in": "fp32",
        "size": f"{out.stat().st_size} bytes",
        "sha256": files.sha256(out.read_bytes()),
        "made by": export.MADE_BY,
    }


def test_info_describes_a_package(capsys, package):
    lines = described(capsys, package[1])
    assert lines["format"].startswith("AOTInductor package")
    assert lines["architecture"] == "CycleGAN generator, ngf 2, 1 blocks, resizing"
    assert lines["input"] == "float32 [N, 3, 20, 24] in 0..1, N 1 to 3"
    assert lines["computes in"] == "fp32"
    assert "machine " in lines["compiled for"] and "cpu_isa " in lines["compiled for"]


def test_info_describes_files_of_other_programs(capsys, root, weights, tmp_path):
    lines = described(capsys, weights)
    assert lines["format"].startswith("weights file")
    assert lines["architecture"] == "CycleGAN generator, ngf 4, 2 blocks, transposed convolutions"
    torch.save(checkpoint.read(weights).tensors, weights, _use_new_zipfile_serialization=False)
    assert described(capsys, weights)["format"] == "weights file, legacy format before PyTorch 1.6"
    lines = described(capsys, root / "testdata" / "modules" / "checkpoint.pth")
    assert lines["architecture"] == "unknown; 1 tensors, the first weight [3, 4, 1, 1]"
    module = torch.nn.Sequential(torch.nn.Conv2d(5, 2, 3), torch.nn.ReLU())
    with formats.quiet_jit():
        torch.jit.save(torch.jit.script(module), tmp_path / "other.pt")
    lines = described(capsys, tmp_path / "other.pt")
    assert lines["input"] == "not recorded; [N, 5, H, W] by the first convolution"
    assert (lines["weights"], lines["made by"]) == ("92 float32", "not recorded")
    torch.export.save(torch.export.export(module, (torch.rand(1, 5, 8, 8),)), tmp_path / "e.pt2")
    assert "torchherd can't serve it" in described(capsys, tmp_path / "e.pt2")["note"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"hello", "not a model file"),
        ("truncated.pt", "not a model file"),
        ("broken", "corrupt: "),
    ],
)
def test_info_rejects_other_files_in_one_line(refuse, root, tmp_path, content, says):
    path = tmp_path / "file.pt"
    if content == "broken":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("constants.pkl", "code/x.py"):
                archive.writestr(f"model/{name}", b"nothing")
    elif isinstance(content, str):
        path = root / "testdata" / "modules" / content
    elif content is not None:
        path.write_bytes(content)
    message = refuse(path, command=info)
    assert says in message and str(path) in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("--size", "3x3"),
        ("--size", "big"),
        ("--format", "pt2", "--dynamic-batch", "4:2"),
        ("--format", "x"),
        ("--dtype", "int8"),
        ("--half", "--dtype", "bf16"),
        ("--half", "--format", "pt2"),
        ("--input-range", "255:0"),
        ("--input-range", "255"),
        ("--method", "script", "--format", "pt2"),
        ("--device", "cuda"),
        ("--no-freeze",),
        ("--dynamic-batch", "1:4"),
    ],
)
def test_conflicting_options(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        export.main(["weights.pth", "-o", "model.pt", *arguments])
    assert "usage:" in capsys.readouterr().err
