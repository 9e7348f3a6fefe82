import pytest
import torch

import export
import files
import generator


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(generator.random_state(generator.Layout(4, 2), 0), path)
    return path


@pytest.fixture
def refuse(capsys):
    """Runs the command in this process and gives its one line on stderr."""

    def run(*arguments):
        assert export.main([*map(str, arguments)]) == 1
        message = capsys.readouterr().err
        assert message.startswith("export.py: ")
        assert message.count("\n") == 1
        return message

    return run


def changed(path, change):
    state = dict(torch.load(path, weights_only=True))
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("method", ["trace", "script"])
def test_exported_file_answers_as_pytorch_does(script, weights, tmp_path, method):
    out = tmp_path / "deep" / "model.pt"
    done = script("export.py", weights, "-o", out, "--method", method)
    assert (done.returncode, done.stderr) == (0, "")
    assert files.sha256(out.read_bytes()) in done.stdout
    eager = generator.from_state(torch.load(weights, weights_only=True))
    exported = files.load_torchscript(out)
    for batch, height, width in ((1, 228, 228), (3, 32, 44)):
        x = torch.rand(batch, 3, height, width)
        assert (exported(x) - eager(x)).abs().max() <= 1e-5
    assert [path.name for path in out.parent.iterdir()] == ["model.pt"]


def test_exported_file_names_no_path_of_the_machine(script, weights, tmp_path, root):
    out = tmp_path / "model.pt"
    script("export.py", weights, "-o", out)
    assert str(root).encode() not in out.read_bytes()
    assert b"site-packages" not in out.read_bytes()


def test_a_refusal_shows_no_traceback(script, root, tmp_path):
    path = root / "testdata" / "modules" / "negate.pt"
    done = script("export.py", path, "-o", tmp_path / "model.pt")
    assert done.returncode == 1
    assert done.stderr.startswith(f"export.py: {path}: not a weights file")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("model.4.bias"), "missing key model.4.bias"),
        (lambda s: s.pop("model.1.weight"), "missing key model.1.weight"),
        (lambda s: s.pop("model.11.conv_block.5.weight"), "missing key model.11.conv_block.5.w"),
        (lambda s: s.update({"model.99.weight": torch.zeros(1)}), "unexpected key model.99.weight"),
        (
            lambda s: s.update({"model.7.weight": torch.zeros(16, 8, 5, 5)}),
            "model.7.weight has shape [16, 8, 5, 5], wanted [16, 8, 3, 3]",
        ),
        (lambda s: s.update({"model.1.weight": torch.zeros(4)}), "model.1.weight has 1 dimensions"),
        (lambda s: s.update({"epoch": 3}), "epoch is not a floating-point tensor"),
        (lambda s: s.update({"model.1.bias": torch.full((4,), 1)}), "model.1.bias is not a fl"),
        (
            lambda s: s.update({"model.19.weight": torch.full((3, 4, 7, 7), torch.nan)}),
            "differs from eager PyTorch by nan",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(refuse, weights, tmp_path, change, says):
    changed(weights, change)
    out = tmp_path / "model.pt"
    out.write_bytes(b"the one before")
    assert says in refuse(weights, "-o", out)
    assert out.read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "weights.pth"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a weights file"),
        (b"hello", "not a weights file"),
        (None, "no such file"),
        ("testdata/modules/garbage.pt", "not a weights file"),
        ("testdata/modules/negate.pt", "not a weights file"),
        ("testdata/modules/checkpoint.pth", "missing key model.1.weight"),
    ],
)
def test_other_files_are_refused_in_one_line(refuse, root, tmp_path, content, says):
    path = tmp_path / "weights.pth"
    if isinstance(content, str):
        path = root / content
    elif content is not None:
        path.write_bytes(content)
    message = refuse(path, "-o", tmp_path / "model.pt")
    assert says in message and str(path) in message
    assert not (tmp_path / "model.pt").exists()


def test_a_list_is_refused(refuse, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(1)], path)
    assert "holds a list" in refuse(path, "-o", tmp_path / "model.pt")


@pytest.mark.parametrize("arguments", [(), ("weights.pth", "--random"), ("--random", "--ngf", "0")])
def test_wrong_use_is_told(capsys, tmp_path, arguments):
    with pytest.raises(SystemExit, match="2"):
        export.main([*arguments, "-o", str(tmp_path / "model.pt")])
    assert "usage:" in capsys.readouterr().err


def test_random_gives_the_same_file_for_the_same_seed(script, tmp_path):
    made = []
    for name, seed in (("a.pt", 5), ("b.pt", 5), ("c.pt", 6)):
        out = tmp_path / name
        script("export.py", "--random", "--seed", seed, "--ngf", 4, "--blocks", 1, "-o", out)
        made.append(out.read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_bundled_model_is_the_one_that_its_card_describes(root):
    folder = root / "models" / "bundled"
    data = (folder / "model.pt").read_bytes()
    assert len(data) <= 4 << 20
    assert files.sha256(data) in (folder / "README.md").read_text()
