"""The registry: which backend serves a path, and which addresses are never called."""

import itertools
import json
import posixpath
import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def piped(
    pipelines: dict[str, list[str]], backends: dict[str, object] | None = None, base_url: str | None = None
) -> BackendRegistry:
    entries = backends or {"/v1/detect": "https://d.example.org", "/v1/sort": "https://s.example.org"}
    return registry({**entries, "pipelines": pipelines}, base_url)


def test_a_pipeline_with_a_name_is_a_route_through_its_endpoints() -> None:
    named = piped({"/v1/find/": ["/v1/detect?min=0.5", "/v1/sort/all/"]})
    assert named.pipelines == ["/v1/find"]
    route = named.route("/v1/find/", "max=9")
    assert (route.path, route.name, route.is_pipeline) == ("/v1/find", "/v1/find", True)
    assert [endpoint.url for endpoint in route.endpoints] == [
        "https://d.example.org/v1/detect?min=0.5&max=9",
        "https://s.example.org/v1/sort/all",
    ]
    plain = named.route("/v1/detect", "x=1")
    assert (plain.path, plain.is_pipeline, plain.endpoints[0].query) == ("/v1/detect", False, "x=1")


def test_a_pipeline_is_no_endpoint_even_with_a_gateway_for_all_paths() -> None:
    named = piped({"/v1/find": ["/v1/detect", "/v1/sort"]}, base_url="https://gateway.example.org")
    for ask in (lambda: named.endpoint("/v1/find"), lambda: named.resolve("https://gateway.example.org/v1/find")):
        with pytest.raises(UnknownBackend, match="pipeline"):
            ask()
    with pytest.raises(UnknownBackend):
        named.route("/v1/find", "x=" + "y" * MAX_QUERY_CHARS)


@pytest.mark.parametrize(
    ("pipelines", "named"),
    [
        ({"/v1/find": ["/v2/other"]}, "/v2/other"),
        ({"/v1/find": ["/v1/detect", "/v1/find"]}, "/v1/find"),
        ({"/v1/find": ["/v1/detect"], "/v1/more": ["/v1/find"]}, "/v1/more"),
        ({"/v1/find": ["https://d.example.org/v1/detect"]}, "https"),
        ({"find": ["/v1/detect"]}, "find"),
        ({"/v1/listed": ["/v1/detect"]}, "/v1/listed"),
        ({"/v1/find": []}, "/v1/find"),
        ({"/v1/find": ["/v1/detect"] * 17}, "/v1/find"),
    ],
)
def test_a_bad_pipeline_stops_the_start_and_is_named(pipelines: dict[str, list[str]], named: str) -> None:
    backends: dict[str, object] = {
        "/v1/detect": "https://d.example.org",
        "/v1/listed": {"url": "https://l.example.org", "endpoints": ["/v1/listed"]},
    }
    with pytest.raises(SettingsError, match=f"BACKENDS.*pipelines.*{named}"):
        BackendRegistry(
            Settings.from_env(
                {
                    "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
                    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
                    "BACKENDS": json.dumps({**backends, "pipelines": pipelines}),
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
        ("/v1/other", "https://one.example.org/v1/other"),
        ("/v1/organic", "https://one.example.org/v1/organic"),
        ("/v1/org", "https://two.example.org/v1/org"),
        ("/v1/org/apiary", "https://two.example.org/v1/org/apiary"),
        ("/v1/org/api", "https://three.example.org:8443/deep/base/v1/org/api"),
        ("/v1/org/api/detect", "https://three.example.org:8443/deep/base/v1/org/api/detect"),
        ("/v2/org/x", "http://10.0.0.4/v2/org/x"),
        ("/v1/a-b_c.d~e:f@g+h,i=j", "https://one.example.org/v1/a-b_c.d~e:f@g+h,i=j"),
        ("/v1/caf%C3%A9/a%20b", "https://one.example.org/v1/caf%C3%A9/a%20b"),
        ("/v1/..." + "x" * (MAX_PATH_CHARS - 7), "https://one.example.org/v1/..." + "x" * (MAX_PATH_CHARS - 7)),
    ],
)
def test_the_longest_prefix_of_whole_segments_serves_a_path(path: str, url: str) -> None:
    endpoint = SEVERAL.endpoint(path)
    assert endpoint.url == url
    assert endpoint.path == path


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/v1/", "/v1"),
        ("/v1/org/", "/v1/org"),
        ("/v1/org/api/", "/v1/org/api"),
        ("/v1/%6Frg/%61pi", "/v1/org/api"),
        ("/v1/org%2Dapi%7E%5f", "/v1/org-api~_"),
        ("/v1/a%3Ab%40c%2Bd%2Ce%3Df", "/v1/a:b@c+d,e=f"),
        ("/v1/caf%c3%a9", "/v1/caf%C3%A9"),
        ("/v1/café", "/v1/caf%C3%A9"),
        ("/v1/a b", "/v1/a%20b"),
        ("/v1/{a}|b", "/v1/%7Ba%7D%7Cb"),
        ("/v1/%7Ba%7D%7cb/", "/v1/%7Ba%7D%7Cb"),
        ("/v1/*'()!$&", "/v1/%2A%27%28%29%21%24%26"),
    ],
)
def test_an_endpoint_has_one_path_however_it_is_written(written: str, path: str) -> None:
    assert SEVERAL.endpoint(written) == SEVERAL.endpoint(path)
    assert SEVERAL.endpoint(written).path == path
    assert SEVERAL.resolve(f"https://one.example.org{written}".replace(" ", "%20")).path == path


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
        "/v1//",
        "/v1/%2e",
        "/v1/%2E%2e",
        "/v1/.%2E/x",
        "/v1/%20..%20/x",
        "/v1/%20",
        "/v1/%2F",
        "/v1/a%2Fb",
        "/v1/..%2f",
        "/v1/a%5Cb",
        "/v1/a%3Bb",
        "/v1/a%3Fb",
        "/v1/a%23b",
        "/v1/a%25b",
        "/v1/%252e%252e",
        "/v1/a%00",
        "/v1/a%0d%0aX: y",
        "/v1/a%1F",
        "/v1/a%7f",
        "/v1/a%C2%85",
        "/v1/a%E2%80%AEb",
        "/v1/a%EF%BF%BD",
        "/v1/a%",
        "/v1/a%4",
        "/v1/a%zz",
        "/v1/a%ff",
        "/v1/a%C3",
        "/v1/%C0%AE%C0%AE",
        "/v1/%ED%A0%80",
        "/v1/a\n",
        "/v1/a\x00",
        "/v1/a\\b",
        "/v1/a;b",
        "/v1/a?b",
        "/v1/a#b",
        "/v1/a\u202eb",
        "/v1/a\ufffdb",
        "/v1/a\ud800",
        "/v1/" + "x" * MAX_PATH_CHARS,
        "/v1/" + "ä" * 50,
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
    ("query", "called"),
    [
        ("a={b}|c&d=é", "a=%7Bb%7D%7Cc&d=%C3%A9"),
        ('a="<`>"', "a=%22%3C%60%3E%22"),
        ("a=%7bb%7d{c}&d=100%", "a=%7bb%7d%7Bc%7D&d=100%"),
    ],
)
def test_a_query_string_is_escaped_where_it_must_be_and_no_more(query: str, called: str) -> None:
    assert SEVERAL.endpoint("/v1/x", query).url == f"https://one.example.org/v1/x?{called}"
    assert SEVERAL.resolve(f"https://one.example.org/v1/x?{query}").query == called


@pytest.mark.parametrize(
    "query",
    [
        *("a#b", "a b", "a\r\nX: y", "a\x00", "a\x7f", "a\u202eb", "a\ud800", "{ }"),
        *("q" * (MAX_QUERY_CHARS + 1), "é" * (MAX_QUERY_CHARS // 6 + 1)),
    ],
)
def test_a_query_string_that_is_too_long_or_has_blanks_or_control_characters_is_refused(query: str) -> None:
    with pytest.raises(UnknownBackend, match="query string"):
        SEVERAL.endpoint("/v1/x", query)


@pytest.mark.parametrize(
    ("url", "path", "called"),
    [
        ("https://one.example.org/v1/x", "/v1/x", "https://one.example.org/v1/x"),
        ("https://one.example.org/v1/x?a=1", "/v1/x", "https://one.example.org/v1/x?a=1"),
        ("https://one.example.org/v1/x/?a=1", "/v1/x", "https://one.example.org/v1/x?a=1"),
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
        "https://one.example.org/v1/%2E./v3",
        "https://one.example.org/v1/x%2f..%2f..%2Fv3",
        "https://one.example.org/v1/x%5c..%5Cv3",
        "https://one.example.org%2f@evil.example/v1/x",
        "https://one.example.org%40evil.example/v1/x",
        "https://three.example.org:8443/deep/base%2fv1/org/api",
        "https://three.example.org:8443/deep%2Fbase/v1/org/api",
        "https://three.example.org:8443/deep/base/%2e%2e/%2e%2e/v1/org/api",
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


_SEGMENTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from([".", "..", "%2e", "%2E%2e", "%2F", "%5c", "%00", "%25", "%3b", "%C3%A9", "é", "{x}", "a b", ""]),
    st.text("%0123456789abcdefABCDEF./\\;?#", max_size=8),
)
PATHS = st.lists(_SEGMENTS, max_size=5).map(lambda segments: "/" + "/".join(segments))
ORIGINS = ("https://one.example.org", "https://two.example.org", "https://three.example.org:8443/deep/base")


@settings(deadline=None)
@given(path=PATHS, query=st.just("") | st.text(max_size=9), below=st.sampled_from(["", "/v1", "/v1/org/api"]))
def test_an_accepted_path_stays_as_it_is_written_and_below_its_prefix(path: str, query: str, below: str) -> None:
    try:
        endpoint = SEVERAL.endpoint(below + path, query)
    except UnknownBackend:
        return
    assert SEVERAL.endpoint(endpoint.path, endpoint.query) == endpoint
    assert SEVERAL.resolve(endpoint.url) == endpoint
    assert endpoint.backend.serves(endpoint.path)
    called = urlsplit(endpoint.url)
    base = urlsplit(endpoint.backend.base_url)
    assert (called.scheme, called.netloc, called.fragment) == (base.scheme, base.netloc, "")
    assert re.fullmatch(r"(/([A-Za-z0-9._~:@+,=-]|%[0-9A-F]{2})+)+", called.path)
    for decoded in (called.path, unquote(called.path), unquote(unquote(called.path))):
        assert posixpath.normpath(decoded) == decoded, "no server finds another path in it"
        assert decoded.isprintable()
        assert not set("\\;?#") & set(decoded)
    assert all(" " < char < "\x7f" for char in endpoint.url)


@settings(deadline=None)
@given(text=st.text(max_size=30), origin=st.sampled_from(ORIGINS))
def test_no_url_leads_outside_the_registry(text: str, origin: str) -> None:
    bases = {backend.base_url for backend in SEVERAL._backends}
    for url in (origin + text, origin + "/v1/" + text, text):
        try:
            endpoint = SEVERAL.resolve(url)
        except UnknownBackend:
            continue
        assert endpoint.url.startswith(endpoint.backend.base_url + endpoint.backend.prefix)
        assert endpoint.backend.base_url in bases


def test_a_backend_that_names_its_endpoints_has_no_others() -> None:
    backends = registry(
        {
            "/v1/a": {"url": "https://a.example.org", "endpoints": ["/v1/a/x", "/v1/a/caf%c3%a9/", "/v1/a"]},
            "/v1": "https://one.example.org",
        }
    )
    for path in ("/v1/a/x", "/v1/a/x/", "/v1/a/%78", "/v1/a/café", "/v1/a", "/v1/b"):
        assert backends.resolve(backends.endpoint(path).url) == backends.endpoint(path)
    for path in ("/v1/a/y", "/v1/a/x/y", "/v1/a/X"):
        with pytest.raises(UnknownBackend, match="no backend is registered for this path"):
            backends.endpoint(path)
        with pytest.raises(UnknownBackend):
            backends.resolve(f"https://a.example.org{path}")
    assert backends.endpoint_of("/v1/a/y") is not None, "a task that was accepted before is still shown"


@pytest.mark.parametrize("endpoint", ["", "x", "/v1/ax", "/v1/b/x", "/v1/a/../b", "/v1/a/%2e%2e/b", "/v1/a/{x}"])
def test_an_endpoint_that_is_not_below_its_prefix_stops_the_start(endpoint: str) -> None:
    with pytest.raises(SettingsError, match=r"setting BACKENDS\['/v1/a'\]: "):
        registry({"/v1/a": {"url": "https://a.example.org", "endpoints": ["/v1/a/x", endpoint]}})


@pytest.mark.parametrize(("one", "other"), [("/v1/a", "/v1/a/"), ("/v1/a", "/v1/%61"), ("/v1/%c3%a9", "/v1/%C3%A9")])
def test_a_prefix_that_is_named_twice_stops_the_start(one: str, other: str) -> None:
    with pytest.raises(SettingsError, match="setting BACKENDS: it names a path prefix twice"):
        registry({one: "https://a.example.org", other: "https://b.example.org"})


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "v1", "//v1", "/v1//x", "/v 1", "/v1?x", "/v1/{*rest}", "/v1/%2e", "/v1/%", "/v1#", "https://x/v1"],
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
    "64:ff9b::169.254.169.254",  # by way of a translator (NAT64)
    "64:ff9b::a83f:8110",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",  # the same, if the translator's prefix has 48 bits
    "64:ff9b:1:ffa9:fe:a9fe::",
    "64:ff9b:1:ffff:a9:fea9:fe00:0",
    "2002:a9fe:a9fe::1",  # 6to4
    "2001:0:a9fe:a9fe::",  # Teredo: the server
    "2001:0:1402:201::5601:5601",  # Teredo: the client
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "2603:1020::5efe:169.254.169.254",  # ISATAP
]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "64:ff9b::127.0.0.1"]
ALLOWED = [
    "10.0.0.4",
    "172.16.0.1",
    "192.168.1.1",
    "20.50.2.1",
    "fd00::4",
    "2603:1020::1",
    "::ffff:10.0.0.4",
    "64:ff9b::10.0.0.4",
]


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
