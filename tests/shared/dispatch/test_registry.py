"""The registry: which backend serves a path, and which addresses are never called."""

import itertools

import pytest

from shared.dispatch.registry import MAX_PATH_CHARS, MAX_QUERY_CHARS, BackendRegistry, UnknownBackend
from shared.settings import Settings, SettingsError


def registry(
    backends: dict[str, object] | None = None, base_url: str | None = None, *, loopback: bool = False
) -> BackendRegistry:
    return BackendRegistry(
        Settings.model_validate(
            {
                "redis_connection_string": "redis://127.0.0.1",
                "event_grid_topic_uri": "https://topic.example.org/api/events",
                "backends": {
                    path: {"url": entry} if isinstance(entry, str) else entry
                    for path, entry in (backends or {}).items()
                },
                "backend_base_url": base_url,
                "lease_s": 600,
                "allow_loopback_backends": loopback,
            }
        )
    )


SEVERAL = registry(
    {
        "/v1": "https://one.example.org",
        "/v1/org": "https://two.example.org/",
        "/v1/org/api": {"url": "https://three.example.org:8443/deep/base/", "lease_s": 60},
        "/v2/org/": "http://10.0.0.4",
    }
)
GATEWAY = registry({"/v1/org": "https://two.example.org"}, "https://gateway.example.org/models")


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/v1", "https://one.example.org/v1"),
        ("/v1/", "https://one.example.org/v1/"),
        ("/v1/other", "https://one.example.org/v1/other"),
        ("/v1/organic", "https://one.example.org/v1/organic"),
        ("/v1/org", "https://two.example.org/v1/org"),
        ("/v1/org/", "https://two.example.org/v1/org/"),
        ("/v1/org/apiary", "https://two.example.org/v1/org/apiary"),
        ("/v1/org/api", "https://three.example.org:8443/deep/base/v1/org/api"),
        ("/v1/org/api/detect", "https://three.example.org:8443/deep/base/v1/org/api/detect"),
        ("/v2/org/x", "http://10.0.0.4/v2/org/x"),
        ("/v1/a-b_c.d~e:f@g+h,i=j", "https://one.example.org/v1/a-b_c.d~e:f@g+h,i=j"),
        ("/v1/..." + "x" * (MAX_PATH_CHARS - 7), "https://one.example.org/v1/..." + "x" * (MAX_PATH_CHARS - 7)),
    ],
)
def test_the_longest_prefix_of_whole_segments_serves_a_path(path: str, url: str) -> None:
    endpoint = SEVERAL.endpoint(path)
    assert endpoint.url == url
    assert endpoint.path == path


def test_an_endpoint_has_its_backends_lease_or_the_default_lease() -> None:
    assert SEVERAL.endpoint("/v1/org/api").backend.lease_s == 60
    assert SEVERAL.endpoint("/v1/org").backend.lease_s == 600


@pytest.mark.parametrize("path", ["/v3", "/v2", "/v2/organic", "/V1", "/", ""])
def test_a_path_that_no_prefix_serves_is_unknown(path: str) -> None:
    with pytest.raises(UnknownBackend):
        SEVERAL.endpoint(path)


@pytest.mark.parametrize(
    "path",
    [
        "v1",
        "//v1",
        "/v1//x",
        "/v1/.",
        "/v1/..",
        "/v1/../x",
        "/v1/./x",
        "/v1/x%2e",
        "/v1/a b",
        "/v1/a\n",
        "/v1/a\x00",
        "/v1/a\\b",
        "/v1/a;b",
        "/v1/a?b",
        "/v1/a#b",
        "/v1/ä",
        "/v1/a|b",
        "/v1/" + "x" * MAX_PATH_CHARS,
    ],
)
def test_a_path_that_is_not_plain_is_unknown_even_with_a_gateway_for_all_paths(path: str) -> None:
    for backends in (SEVERAL, GATEWAY):
        with pytest.raises(UnknownBackend):
            backends.endpoint(path)


def test_a_gateway_serves_every_path_that_no_prefix_does() -> None:
    assert GATEWAY.endpoint("/v1/org/x").url == "https://two.example.org/v1/org/x"
    assert GATEWAY.endpoint("/v1/organic").url == "https://gateway.example.org/models/v1/organic"


@pytest.mark.parametrize("query", ["a=1", "a=%20&b=+", "a=1&a=2", "x=(1)*[2],'3';$!@:/?-._~", "q" * MAX_QUERY_CHARS])
def test_a_query_string_is_part_of_the_url_but_not_of_the_queue(query: str) -> None:
    endpoint = SEVERAL.endpoint("/v1/x", query)
    assert endpoint.url == f"https://one.example.org/v1/x?{query}"
    assert endpoint.path == "/v1/x"


@pytest.mark.parametrize(
    "query", ["a#b", "a b", "a\r\nX: y", 'a="', "a<b", "ä", "a\x00", "{}", "q" * (MAX_QUERY_CHARS + 1)]
)
def test_a_query_string_that_must_be_escaped_is_refused(query: str) -> None:
    with pytest.raises(UnknownBackend, match="query string"):
        SEVERAL.endpoint("/v1/x", query)


@pytest.mark.parametrize(
    ("url", "path", "called"),
    [
        ("https://one.example.org/v1/x", "/v1/x", "https://one.example.org/v1/x"),
        ("https://one.example.org/v1/x?a=1", "/v1/x", "https://one.example.org/v1/x?a=1"),
        ("HTTPS://ONE.example.ORG:443/v1/x", "/v1/x", "https://one.example.org/v1/x"),
        ("http://10.0.0.4:80/v2/org", "/v2/org", "http://10.0.0.4/v2/org"),
        (
            "https://three.example.org:8443/deep/base/v1/org/api",
            "/v1/org/api",
            "https://three.example.org:8443/deep/base/v1/org/api",
        ),
        # A step of a pipeline names the next endpoint on its own host; the registry maps it to its backend.
        ("https://one.example.org/v1/org/next", "/v1/org/next", "https://two.example.org/v1/org/next"),
        ("https://three.example.org:8443/deep/base/v2/org", "/v2/org", "http://10.0.0.4/v2/org"),
    ],
)
def test_a_url_of_a_backend_maps_to_the_registered_endpoint_of_its_path(url: str, path: str, called: str) -> None:
    endpoint = SEVERAL.resolve(url)
    assert (endpoint.path, endpoint.url) == (path, called)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/v1/x",
        "one.example.org/v1/x",
        "//one.example.org/v1/x",
        "ftp://one.example.org/v1/x",
        "file:///etc/passwd",
        "https:///v1/x",
        "http://one.example.org/v1/x",
        "https://one.example.org:444/v1/x",
        "https://one.example.org:99999/v1/x",
        "https://one.example.org:x/v1/x",
        "https://one.example.org./v1/x",
        "https://one.example.org.evil.example/v1/x",
        "https://evil.example/v1/x",
        "https://evil.example#one.example.org/v1/x",
        "https://evil.example?one.example.org/v1/x",
        "https://one.example.org@evil.example/v1/x",
        "https://user@one.example.org/v1/x",
        "https://:password@one.example.org/v1/x",
        "https://one.example.org\\@evil.example/v1/x",
        "https://one.example.org/v1/x#fragment",
        "https://one.example.org",
        "https://one.example.org/",
        "https://one.example.org/v3/x",
        "https://one.example.org/v1/../v3",
        "https://one.example.org/v1/%2e%2e/v3",
        "https://one.example.org/v1//x",
        "https://one.example.org/v1/x y",
        "https://one.example.org/v1/x\n",
        "https://one.exam\tple.org/v1/x",
        "https://three.example.org:8443/v1/org/api",
        "https://three.example.org:8443/deep/baseline/v1/org/api",
        "https://three.example.org:8443/deep/base/../base/v1/org/api",
        "https://[::1/v1/x",
        "https://[v1.x]/v1/x",
    ],
)
def test_a_url_outside_the_registry_is_unknown_and_the_error_exposes_no_backend(url: str) -> None:
    with pytest.raises(UnknownBackend) as refused:
        SEVERAL.resolve(url)
    assert "example.org" not in str(refused.value)


SHARING = {
    "/v1/long/prefix": "https://shared.example.org",
    "/v1/x": "https://shared.example.org/a",
    "/v1/y": "https://shared.example.org/a/b",
    "/v1": "https://other.example.org",
}


@pytest.mark.parametrize("order", list(itertools.permutations(SHARING)))
def test_the_url_in_a_task_document_maps_back_to_the_tasks_endpoint(order: tuple[str, ...]) -> None:
    """A legacy task manager reads a task's Endpoint and sends it back with every update."""
    backends = registry({path: SHARING[path] for path in order}, "https://shared.example.org/gateway")
    for path in ("/v1/long/prefix", "/v1/long/prefix/z", "/v1/x", "/v1/x/z", "/v1/y/z", "/v1/z", "/v9/z"):
        endpoint = backends.endpoint(path, "q=1")
        assert backends.resolve(endpoint.url) == endpoint


@pytest.mark.parametrize(
    "prefix", ["", "/", "v1", "//v1", "/v1//x", "/v 1", "/v1?x", "/v1/{*rest}", "/v1/%2e", "/v1#", "https://x/v1"]
)
def test_an_invalid_path_prefix_stops_the_start(prefix: str) -> None:
    with pytest.raises(SettingsError, match="setting BACKENDS"):
        registry({prefix: "https://models.example.org"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "models.example.org",
        "ftp://models.example.org",
        "https://",
        "https://models.example.org:port",
        "https://models.example.org:99999",
        "https://user:hunter2@models.example.org",
        "https://:hunter2@models.example.org",
        "https://models.example.org?key=hunter2",
        "https://models.example.org#hunter2",
        "https://[::1",
    ],
)
def test_an_invalid_base_url_stops_the_start_and_is_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        registry({"/v1/org": url})
    assert "setting BACKENDS['/v1/org']: " in str(refused.value)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        registry({"/v1/org": "https://models.example.org"}, url or "x")
    assert "setting BACKEND_BASE_URL: " in str(refused.value)
    assert "hunter2" not in str(refused.value)


FORBIDDEN = [
    "169.254.169.254",  # the identity service of a virtual machine
    "169.254.0.1",
    "168.63.129.16",
    "0.0.0.0",
    "224.0.0.1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::ffff:169.254.169.254",
    "::ffff:168.63.129.16",
    "::ffff:0.0.0.0",
]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"]
ALLOWED = ["10.0.0.4", "172.16.0.1", "192.168.1.1", "20.50.2.1", "fd00::4", "2603:1020::1", "::ffff:10.0.0.4"]


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize("loopback", [True, False])
def test_link_local_addresses_and_those_of_the_platform_are_never_called(address: str, loopback: bool) -> None:
    assert registry(base_url="https://models.example.org", loopback=loopback).forbids(address)


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_addresses_are_called_only_if_the_setting_allows_it(address: str) -> None:
    assert registry(base_url="https://models.example.org").forbids(address)
    assert not registry(base_url="https://models.example.org", loopback=True).forbids(address)


@pytest.mark.parametrize("address", ALLOWED)
def test_private_and_public_addresses_may_be_called(address: str) -> None:
    assert not registry(base_url="https://models.example.org").forbids(address)


@pytest.mark.parametrize(
    "host",
    [
        *(f"[{address}]" if ":" in address else address for address in [*FORBIDDEN, *LOOPBACK]),
        "localhost",
        "LOCALHOST",
        "2130706433",
        "2852039166",
        "127.1",
        "127.0.0.1.",
        "169.254.169.254.",
    ],
)
@pytest.mark.parametrize("port", ["", ":8080"])
def test_a_base_url_with_a_forbidden_address_stops_the_start(host: str, port: str) -> None:
    with pytest.raises(SettingsError, match="loopback, link-local and platform addresses are refused"):
        registry({"/v1": f"http://{host}{port}"})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "10.0.0.4", "[fd00::4]", "models.example.org"])
def test_a_base_url_with_an_allowed_address_does_not(host: str) -> None:
    assert registry({"/v1": f"http://{host}:8080"}, loopback=True).endpoint("/v1").url == f"http://{host}:8080/v1"
