"""The reference of the SDK is made of what is public, and says what lacks a docstring."""

from __future__ import annotations

from pathlib import Path

from tools.sdk_reference import Reference

SOURCE = '''
"""The face of the package."""

__all__ = ["AsyncCounter", "Counter", "count"]


class Counter:
    """Counts words.

    Parameters:
        least: the fewest letters of a word that counts.
    """

    def __init__(self, least: int = 1, most: int | None = None) -> None:
        self.least = least

    @property
    def words(self) -> int:
        """How many were counted."""
        return 0

    def add(self, text: str, *, at_s: float = 0.0) -> int:
        """Count the words of a text.

        Raises:
            ValueError: there is none.
        """
        return 0

    def clear(self) -> None: ...

    def _forget(self) -> None: ...


class AsyncCounter:
    """Counts words for those who wait."""

    async def add(self, text: str) -> int: ...


def count(text: str) -> dict[str, int]:
    """How often each word of ``text`` is in it."""
    return {}


def helper() -> None: ...
'''


def reference(folder: Path) -> Reference:
    (folder / "taskbackbone").mkdir()
    (folder / "taskbackbone" / "__init__.py").write_text(SOURCE)
    return Reference(folder)


def test_it_shows_what_is_public_with_signature_text_and_errors(tmp_path: Path) -> None:
    page = reference(tmp_path).page

    assert (
        "### Counter\n\n```python\nCounter(least: int = 1, most: int | None = None)\n```\n\nCounts words.\n" in page
    )
    assert "Parameters:\n\n- `least`: the fewest letters of a word that counts.\n" in page
    assert "- `words: int`: How many were counted.\n" in page
    assert "#### Counter.add\n\n```python\ndef add(text: str, *, at_s: float = 0.0) -> int\n```\n" in page
    assert "Raises:\n\n- `ValueError`: there is none.\n" in page
    assert "How often each word of `text` is in it.\n" in page
    assert "_forget" not in page
    assert "helper" not in page


def test_the_awaited_face_of_a_class_is_told_in_a_sentence(tmp_path: Path) -> None:
    page = reference(tmp_path).page

    told = "Counts words for those who wait.\n\nIts methods are those of Counter, to be awaited.\n"
    assert f"### AsyncCounter\n\n{told}" in page
    assert "AsyncCounter.add" not in page


def test_it_names_what_is_public_and_undocumented(tmp_path: Path) -> None:
    assert reference(tmp_path).missing == [
        "taskbackbone.Counter does not say what most is",
        "taskbackbone.Counter.clear has no docstring",
    ]
