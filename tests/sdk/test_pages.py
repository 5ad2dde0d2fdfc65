"""How a page is read that ``dev.py examples`` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sdk.commands import Command, Ports, Terminal, commands_in, matches
from tests.sdk.environments import Failure
from tests.sdk.examples import file_of, fragments

PAGE = """# A page

## Run it

```console
$ PORT=8081 python words.py
$ python call.py \\
    --least 3
{'words': 1}
…
```

This is `words.py`:

```python
run()
```

## More

```python
a = 1
```

And then:

```python
assert a == 1
```
"""


def test_a_command_goes_on_after_a_backslash_and_ends_before_what_it_prints() -> None:
    assert commands_in(PAGE) == (
        Command("PORT=8081 python words.py"),
        Command("python call.py --least 3", "{'words': 1}\n…"),
    )


def test_a_block_is_a_file_if_the_line_before_it_names_one() -> None:
    assert file_of("This is `words.py`:") == "words.py"
    assert file_of("Call it with `caller.mjs`:") == "caller.mjs"
    assert file_of("The function `count` counts:") == ""


def test_blocks_that_are_no_files_run_together_with_those_of_their_section() -> None:
    assert fragments(PAGE) == ["a = 1\n\nassert a == 1\n"]


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        ("words: 6", "words: 6\n", True),
        ("words: …", "words: 6\n", True),
        ("first\n…\nlast", "first\nsecond\nthird\nlast", True),
        ("words: 6", "words: 7", False),
        ("", "a warning", False),
        ("{…}", "[6]", False),
    ],
)
def test_an_ellipsis_stands_for_anything(expected: str, printed: str, fits: bool) -> None:
    assert matches(expected, printed) is fits


def test_a_port_is_replaced_by_a_free_one_and_shown_as_it_was() -> None:
    ports = Ports()
    line = ports.rewrite("PORT=8081 serve --upstream http://127.0.0.1:8093 --size 80810")
    assert "8081 " not in line
    assert line.endswith(" --size 80810")
    assert line == ports.rewrite("PORT=8081 serve --upstream http://127.0.0.1:8093 --size 80810")
    assert ports.restore(line) == "PORT=8081 serve --upstream http://127.0.0.1:8093 --size 80810"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (Command("false"), "ended with 1"),
        (Command("echo six", "seven"), "printed\nsix"),
        (Command("false | cat"), "ended with 1"),
    ],
)
def test_a_command_that_does_something_else_than_its_page_says_is_a_failure(
    command: Command, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(Failure, match=complaint):
        Terminal(tmp_path, {"PATH": "/usr/bin:/bin"}, Ports()).call(command)


def test_a_service_that_ends_before_it_listens_is_a_failure(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, {"PATH": "/usr/bin:/bin"}, Ports())
    with (
        pytest.raises(Failure, match="ended with 3"),
        terminal.going_on(Command("PORT=8081 sh -c 'echo why; exit 3'"), tmp_path / "log"),
    ):
        pass
