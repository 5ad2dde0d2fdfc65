"""Connection strings of Redis: URLs, and the form of the Azure portal."""

import pytest

from shared.store.redis.client import RedisAddress

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://127.0.0.1", RedisAddress("127.0.0.1", 6379, False)),
        ("redis://redis.example.org:7000/", RedisAddress("redis.example.org", 7000, False)),
        ("redis://redis.example.org/0", RedisAddress("redis.example.org", 6379, False)),
        ("rediss://redis.example.org:10000", RedisAddress("redis.example.org", 10000, True)),
        ("REDISS://Redis.Example.org", RedisAddress("redis.example.org", 6379, True)),
        ("redis://:pass@h:1", RedisAddress("h", 1, False, None, "pass")),
        ("redis://user:pass@h:1", RedisAddress("h", 1, False, "user", "pass")),
        ("redis://:p%40ss%3Aw%2Frd%3D%3D@h:1", RedisAddress("h", 1, False, None, "p@ss:w/rd==")),
        ("redis://:abc+def%2F=@h:1", RedisAddress("h", 1, False, None, "abc+def/=")),
        ("redis://us%2Fer:p,w@h:1", RedisAddress("h", 1, False, "us/er", "p,w")),
        ("redis://[::1]:7000", RedisAddress("::1", 7000, False)),
        ("h", RedisAddress("h", 6379, False)),
        ("h:7000", RedisAddress("h", 7000, False)),
        ("h:7000,ssl=False", RedisAddress("h", 7000, False)),
        ("h,ssl=true", RedisAddress("h", 6380, True)),
        (
            "cache.redis.cache.windows.net:6380,password=aB3+/x9zQ==,ssl=True,abortConnect=False",
            RedisAddress("cache.redis.cache.windows.net", 6380, True, None, "aB3+/x9zQ=="),
        ),
        (
            " h:10000 , SSL = true , Password = a=b=c= , User = me , connectTimeout=5000 ,",
            RedisAddress("h", 10000, True, "me", "a=b=c="),
        ),
        ("h:1,password=", RedisAddress("h", 1, False)),
        ("password=x=,h:1", RedisAddress("h", 1, False, None, "x=")),
    ],
)
def test_both_forms_of_a_connection_string_are_parsed(text: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        f"http://:{SECRET}@h",
        f"unix://:{SECRET}@/var/run/redis.sock",
        f"redis+sentinel://:{SECRET}@h",
        f"://:{SECRET}@h",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}@h:port",
        f"redis://:{SECRET}@h:70000",
        f"redis://:{SECRET}@h/1",
        f"redis://:{SECRET}@h/{SECRET}",
        f"redis://:{SECRET}@[::1",
        f"password={SECRET}",
        f"ssl=True,password={SECRET}",
        f"h:{SECRET},password={SECRET}",
        ",",
    ],
)
def test_an_invalid_connection_string_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|is)") as refused:
        RedisAddress.parse(text)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("text", [f"redis://:{SECRET}@h", f"h,password={SECRET}"])
def test_an_address_does_not_show_its_password(text: str) -> None:
    assert SECRET not in repr(RedisAddress.parse(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b.westeurope.redis.azure.net:10000,ssl=True", True),
        ("rediss://B.WestEurope.Redis.Azure.NET:10000", True),
        ("b.westeurope.redis.azure.net:10000,password=x,ssl=True", False),
        ("redis.example.org:10000,ssl=True", False),
        ("b.westeurope.redis.azure.net.evil.example:10000", False),
    ],
)
def test_azure_managed_redis_without_a_password_needs_entra_id(text: str, expected: bool) -> None:
    assert RedisAddress.parse(text).wants_entra_id is expected
