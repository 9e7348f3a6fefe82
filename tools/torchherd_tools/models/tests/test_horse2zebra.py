import io
from dataclasses import dataclass

import pytest
import torch

from torchherd_tools.models import formats, generator, horse2zebra


@pytest.fixture
def weights():
    data = io.BytesIO()
    torch.save(generator.random_state(generator.Layout(4, 1), 0), data)
    return data.getvalue()


@dataclass
class Done:
    """The exit status of the command and its output."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capsys):
    """Runs the command in this process."""

    def run(*arguments):
        status = horse2zebra.main([*map(str, arguments)])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def fetch(command, file_server, tmp_path):
    return lambda blob_id: command(
        *("--folder", tmp_path / "h2z", "--url", file_server.url, "--blob-id", blob_id)
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_blob_id_is_that_of_git():
    # The output of `git hash-object` for an empty file and for "hello\n".
    assert horse2zebra.blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert horse2zebra.blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_verified_file_is_kept_exported_and_not_downloaded_again(
    fetch, file_server, weights, tmp_path
):
    file_server.body = weights
    done = fetch(horse2zebra.blob_id(weights))
    assert done.returncode == 0, done.stderr
    assert "100 %" in done.stderr
    assert names(tmp_path / "h2z") == ["horse2zebra_0.4.0.pth", "model.pt"]
    model = formats.load_torchscript(tmp_path / "h2z" / "model.pt")
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)

    done = fetch(horse2zebra.blob_id(weights))
    assert (done.returncode, "already there" in done.stdout) == (0, True)
    assert file_server.gets == 1


def test_wrong_file_is_rejected_and_not_kept(fetch, file_server, weights, tmp_path):
    file_server.body = weights + b"!"
    done = fetch(horse2zebra.blob_id(weights))
    assert done.returncode == 1
    assert horse2zebra.blob_id(file_server.body) in done.stderr
    assert names(tmp_path / "h2z") == []


def test_wrong_file_already_there_is_replaced(fetch, file_server, weights, tmp_path):
    (tmp_path / "h2z").mkdir()
    (tmp_path / "h2z" / "horse2zebra_0.4.0.pth").write_bytes(b"cut off")
    file_server.body = weights
    assert fetch(horse2zebra.blob_id(weights)).returncode == 0
    assert (tmp_path / "h2z" / "horse2zebra_0.4.0.pth").read_bytes() == weights


def test_truncated_download_is_rejected(fetch, file_server, weights, tmp_path):
    file_server.body = weights[:1000]
    file_server.announced = len(weights)
    done = fetch(horse2zebra.blob_id(weights))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("horse2zebra: http://127.0.0.1")
    assert names(tmp_path / "h2z") == []


def test_missing_server_is_reported_in_one_line(command, file_server, tmp_path):
    file_server.close()
    done = command("--folder", tmp_path, "--url", file_server.url)
    assert done.returncode == 1
    assert "check the network" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        horse2zebra.main(["--help"])
    assert "--blob-id" in capsys.readouterr().out
