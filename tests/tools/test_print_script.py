"""A printed script has the line numbers of Redis' errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from local.redis_server import RedisServer
from shared.store.redis import scripts
from shared.store.redis.scripts import IncludeError, read_scripts
from tools.print_script import main


def test_it_prints_the_names_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "task/apply" in capsys.readouterr().out.splitlines()
    assert main(["task/nothing"]) == 2
    assert "task/apply" in capsys.readouterr().err


def test_its_line_numbers_are_those_of_redis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RedisServer(tmp_path) as server, server.connect() as client, pytest.raises(ResponseError) as raised:
        # A map without a record: the script fails within an include.
        client.eval(read_scripts()["task/create"], 1, "{04s}", b"\x81\xa3now\x00", b"")
    number = re.search(r"user_script:(\d+):", str(raised.value))
    assert number
    assert main(["task/create"]) == 0
    printed = capsys.readouterr().out.splitlines()
    (line,) = [line for line in printed if re.match(rf"\s*{number[1]}  ", line)]
    assert "rec.c, rec.m" in line


def test_a_script_declares_each_include_once_and_before_its_use() -> None:
    for name, source in read_scripts().items():
        sections = re.findall(r"^-- \[(.+)\]$", source, re.MULTILINE)
        assert len(sections) == len(set(sections)), name
        assert sections[-1] == "script", name


def test_no_two_includes_of_a_script_declare_the_same_name() -> None:
    declared = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
    for name, source in read_scripts().items():
        names = [each for match in declared.finditer(source) for each in match[1].split(", ")]
        assert sorted(names) == sorted(set(names)), name


def test_a_script_has_each_function_that_it_uses_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = """local function first() return 1 end
-- It is named here: for_nobody.
local function for_nobody()
  if first() then
    return 2
  end
end
local function second()
  return first() + 1
end
local function for_nobody_either() return for_nobody() end
"""
    (tmp_path / "includes" / "one").mkdir(parents=True)
    (tmp_path / "includes" / "one" / "a.lua").write_text(include)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "script.lua").write_text("-- @include one/a\nreturn second()\n")
    monkeypatch.setattr(scripts, "LUA", tmp_path)
    monkeypatch.setattr(scripts, "_INCLUDES", tmp_path / "includes")
    script = read_scripts()["task/script"]
    assert re.findall(r"^local function (\w+)", script, re.MULTILINE) == ["first", "second"]
    with RedisServer(tmp_path / "server") as server, server.connect() as client:
        assert client.eval(script, 0) == 2


def test_a_script_that_another_calls_takes_its_keys_and_arguments_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "called.lua").write_text("return ARGV[2] .. ARGV[1] .. KEYS[1] .. ARGV[1]\n")
    (tmp_path / "task" / "script.lua").write_text("-- @function join task/called\nreturn join('key', ARGV[1], 2)\n")
    monkeypatch.setattr(scripts, "LUA", tmp_path)
    with RedisServer(tmp_path / "server") as server, server.connect() as client:
        assert client.eval(read_scripts()["task/script"], 0, "1") == "21key1"
        assert client.eval(read_scripts()["task/called"], 1, "key", "1", "2") == "21key1"


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a": "-- @include one/b\n"}, "there is no one/b"),
        ({"a": "-- @include one/a\n"}, "one/a includes itself"),
        ({"a": "-- @include one/b\n", "b": "-- @include one/a\n"}, "includes itself"),
    ],
    ids=["missing", "itself", "in a circle"],
)
def test_a_bad_include_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], complaint: str
) -> None:
    (tmp_path / "includes" / "one").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "includes" / "one" / f"{name}.lua").write_text(text)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "script.lua").write_text("-- @include one/a\nreturn 1\n")
    monkeypatch.setattr(scripts, "LUA", tmp_path)
    monkeypatch.setattr(scripts, "_INCLUDES", tmp_path / "includes")
    with pytest.raises(IncludeError, match=complaint):
        read_scripts()
