"""The parser of ``ax run``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.cli.options import RUN, HelpWanted, Parsed, UsageError, parse


def run(*words: str, **env: str) -> Parsed:
    return parse(words, RUN, env)


def test_defaults() -> None:
    parsed = run("true")
    assert parsed.command == ["true"]
    assert parsed.switches == {"new_netns": True, "start_daemon": True, "dns_override": False}
    assert parsed.texts == {}
    assert not any(parsed.lists.values())


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["ls", "-l", "--ip", "x"], ["ls", "-l", "--ip", "x"]),
        (["--", "ls", "--", "-l"], ["ls", "--", "-l"]),
        (["--", "--weird"], ["--weird"]),
        (["--name", "a", "ls", "--help"], ["ls", "--help"]),
        (["--name", "--", "ls"], ["ls"]),
        (["-", "x"], ["-", "x"]),
        (["", "x"], ["", "x"]),
        ([], []),
        (["--"], []),
    ],
)
def test_where_the_command_begins(words: list[str], command: list[str]) -> None:
    assert run(*words).command == command


def test_values() -> None:
    parsed = run("--ip", "10.0.0.1,fd00::1", "--ip=10.0.0.2", "--name=a=b", "--expose", "1:2", "--expose", "3:4", "x")
    assert parsed.csv("ip") == ["10.0.0.1", "fd00::1", "10.0.0.2"]
    assert parsed.csv("expose") == ["1:2", "3:4"]
    assert parsed.texts["name"] == "a=b"
    with pytest.raises(UsageError, match="empty"):
        run("--ip", " 10.0.0.1, ,", "x").csv("ip")
    assert run("--name", "a", "--name", "b", "x").texts["name"] == "b"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--new-netns"], True),
        (["--no-new-netns"], False),
        (["--new-netns=false"], False),
        (["--new-netns=0"], False),
        (["--new-netns=TRUE"], True),
        (["--no-new-netns", "--new-netns"], True),
    ],
)
def test_switches(words: list[str], value: bool) -> None:
    parsed = run(*words, "x")
    assert parsed.switches["new_netns"] is value
    assert parsed.command == ["x"], "a switch does not eat the next word"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frob", "x"], "there is no option --frob"),
        (["--ips", "x"], "there is no option --ips; did you mean --ip?"),
        (["--no-new-netn", "x"], "there is no option --no-new-netn; did you mean --no-new-netns?"),
        (["--no-ip", "x"], "there is no option --no-ip"),
        (["--no-new-netns=true", "x"], "there is no option --no-new-netns"),
        (["-x"], "there is no option -x"),
        (["--ip"], "--ip needs a value: --ip IP[,IP]"),
        (["--new-netns=maybe", "x"], "--new-netns: 'maybe' is neither true nor false"),
        (["--transport", "udp", "x"], "--transport: 'udp' is not one of unix, tcp"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--ip", "x", "--help"], ["--help", "ls"]])
def test_help(words: list[str]) -> None:
    with pytest.raises(HelpWanted):
        run(*words)


def test_environment() -> None:
    parsed = run("x", AX_TRANSPORT="tcp", AX_START_DAEMON="0", AX_RUN_DIR="/r", AX_IP="10.0.0.1")
    assert parsed.texts == {"transport": "tcp", "run_dir": "/r"}
    assert parsed.switches["start_daemon"] is False
    assert parsed.lists["ip"] == [], "what an app is, is not inherited by what it starts"
    parsed = run("--start-daemon", "--transport=unix", "x", AX_TRANSPORT="tcp", AX_START_DAEMON="no")
    assert (parsed.texts["transport"], parsed.switches["start_daemon"]) == ("unix", True)
    assert run("x", AX_TRANSPORT="").texts == {}
    with pytest.raises(UsageError, match="AX_TRANSPORT: 'udp' is not one of"):
        run("x", AX_TRANSPORT="udp")


@given(st.lists(st.sampled_from(["--ip", "--ip=1", "--name", "--new-netns", "--no-new-netns", "--", "-", "a", ""])))
def test_every_word_goes_somewhere(words: list[str]) -> None:
    try:
        parsed = run(*words)
    except UsageError:
        return
    assert words[len(words) - len(parsed.command) :] == parsed.command
