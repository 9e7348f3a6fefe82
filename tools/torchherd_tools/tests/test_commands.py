"""The commands, and the files of the checkout that they need."""

import pytest

from torchherd_tools import __main__ as commands
from torchherd_tools import paths
from torchherd_tools.testdata import fixtures


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        commands.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: torchherd_tools {name} ")


def test_help_lists_the_commands(capsys):
    assert commands.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in commands.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"), [([], "no command"), (["nothing"], "unknown command nothing")]
)
def test_usage_errors(arguments, says, capsys):
    assert commands.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"torchherd_tools: {says}\nusage: ")


def test_a_command_without_its_checkout_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "lib" / "torchherd_tools" / "paths.py"))
    assert fixtures.main([]) == 1
    message = capsys.readouterr().err
    assert message.startswith("fixtures: ") and "not in a checkout of torchherd" in message
    assert message.count("\n") == 1
