"""Route templates: matching, precedence, and refused templates."""

import pytest

from local.functions_host.errors import HostError
from local.functions_host.routes import Router


def router(*templates: str, prefix: str = "api") -> Router:
    """A router whose functions are named like their routes."""
    built = Router(prefix)
    for template in templates:
        built.add(template, template, None)
    return built


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("tasks", "/api/tasks", {}),
        ("tasks", "/api/tasks/", {}),
        ("tasks", "/API/Tasks", {}),
        ("tasks", "/api/tasks/1", None),
        ("tasks", "/tasks", None),
        ("tasks", "/api//tasks", None),
        ("tasks/{id}", "/api/tasks/7f", {"id": "7f"}),
        ("tasks/{id}", "/api/TASKS/7F", {"id": "7F"}),
        ("tasks/{id}", "/api/tasks", None),
        ("tasks/{id}", "/api/tasks/a/b", None),
        ("tasks/{task-id}/result", "/api/tasks/1/result", {"task-id": "1"}),
        ("tasks/{id?}", "/api/tasks", {}),
        ("tasks/{id?}", "/api/tasks/1", {"id": "1"}),
        ("tasks/{state=all}", "/api/tasks", {"state": "all"}),
        ("tasks/{state=all}", "/api/tasks/failed", {"state": "failed"}),
        ("tasks/{state=all}/{page?}", "/api/tasks", {"state": "all"}),
        ("tasks/{state=all}/{page?}", "/api/tasks/failed/2", {"state": "failed", "page": "2"}),
        ("queues/{*path}", "/api/queues", {}),
        ("queues/{*path}", "/api/queues/", {}),
        ("queues/{*path}", "/api/queues/v1/org/api", {"path": "v1/org/api"}),
        ("queues/{*path}", "/api/queues/v1//api/", {"path": "v1//api/"}),
        ("queues/{*path=none}", "/api/queues", {"path": "none"}),
        ("a.b/{x}", "/api/aXb/1", None),
        ("n/{n:int}", "/api/n/-12", {"n": "-12"}),
        ("n/{n:int}", "/api/n/2147483648", None),
        ("n/{n:int}", "/api/n/1.5", None),
        ("n/{n:int?}", "/api/n", {}),
        ("n/{n:alpha}", "/api/n/Abc", {"n": "Abc"}),
        ("n/{n:alpha}", "/api/n/a1", None),
        ("n/{n:guid}", "/api/n/0f8fad5b-d9cb-469f-a165-70867728950e", {"n": "0f8fad5b-d9cb-469f-a165-70867728950e"}),
        ("n/{n:guid}", "/api/n/0F8FAD5BD9CB469FA16570867728950E", {"n": "0F8FAD5BD9CB469FA16570867728950E"}),
        ("n/{n:guid}", "/api/n/0f8fad5b", None),
    ],
)
def test_route_template_matches_as_in_asp_net(template: str, path: str, expected: dict[str, str] | None) -> None:
    match = router(template).match("GET", path)
    assert match == (None if expected is None else (template, expected))


@pytest.mark.parametrize(
    ("prefix", "route", "path"),
    [("", "tasks", "/tasks"), ("", "/{*rest}", "/anything/at/all"), ("v1/beta", "tasks", "/v1/beta/tasks")],
)
def test_route_prefix_comes_from_host_json(prefix: str, route: str, path: str) -> None:
    assert router(route, prefix=prefix).match("GET", path) is not None


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("/api/tasks/newest", "tasks/newest"),
        ("/api/tasks/12", "tasks/{id:int}"),
        ("/api/tasks/ab", "tasks/{id}"),
        ("/api/tasks/ab/result", "tasks/{id}/result"),
        ("/api/tasks/ab/else", "tasks/{*rest}"),
        ("/api/else", "{*all}"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_literals_precede_constrained_parameters_then_parameters_then_catch_alls(
    path: str, function: str, backwards: bool
) -> None:
    templates = ["{*all}", "tasks/{*rest}", "tasks/{id}", "tasks/{id}/result", "tasks/{id:int}", "tasks/newest"]
    match = router(*(reversed(templates) if backwards else templates)).match("GET", path)
    assert match is not None
    assert match[0] == function


def test_route_for_other_methods_falls_through_to_the_next_match() -> None:
    built = Router("api")
    built.add("newest", "tasks/newest", ["GET"])
    built.add("update", "tasks/{id}", ["post"])
    assert built.match("GET", "/api/tasks/newest") == ("newest", {})
    assert built.match("POST", "/api/tasks/newest") == ("update", {"id": "newest"})
    assert built.match("DELETE", "/api/tasks/newest") is None


def test_functions_may_share_a_route_with_different_methods() -> None:
    built = Router("api")
    built.add("read", "tasks", ["GET"])
    built.add("write", "tasks", ["POST", "PUT"])
    assert built.match("GET", "/api/tasks") == ("read", {})
    assert built.match("PUT", "/api/tasks") == ("write", {})


@pytest.mark.parametrize(("first", "second"), [(["GET", "POST"], ["POST"]), (None, ["GET"]), (["GET"], None)])
def test_the_same_route_with_overlapping_methods_is_refused(
    first: list[str] | None, second: list[str] | None
) -> None:
    built = Router("api")
    built.add("one", "tasks/{id}", first)
    with pytest.raises(HostError, match=r"^two: the route 'Tasks/\{id\}' conflicts with that of the function one\.$"):
        built.add("two", "Tasks/{id}", second)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("admin/tasks", "conflicts with the host's built-in routes"),
        ("Runtime", "conflicts with the host's built-in routes"),
        ("administration", "conflicts with the host's built-in routes"),
        ("/tasks", "has an empty segment"),
        ("tasks//new", "has an empty segment"),
        ("tasks/{id}.json", "is not one parameter or one literal"),
        ("tasks/{}", "is not one parameter or one literal"),
        ("tasks/{id", "is not one parameter or one literal"),
        ("tasks/{id:length(3)}", r"the constraint 'length\(3\)', which the development host does not support"),
        ("{*rest}/end", "has something after its catch-all parameter"),
        ("{id?}/end", "has something after its optional parameter id"),
        ("{id=1?}", "makes the parameter id optional twice"),
        ("{id}/{ID}", "names a parameter twice"),
    ],
)
def test_route_template_that_the_real_host_refuses_is_refused(route: str, reason: str) -> None:
    with pytest.raises(HostError, match=rf"^f: the route .*{reason}.*\.$"):
        Router("api").add("f", route, None)
