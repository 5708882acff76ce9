"""A file is replaced whole or not at all."""

from pathlib import Path

import pytest

from segstudy.files import replacing


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    file.write_text("old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_after_an_error_a_file_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(file) as partial:
        partial.write_text(f"ne{1 // 0}")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OSError, match="figures"), replacing(file / "inside.csv") as partial:
        partial.write_text("new")
    assert file.read_text() == "old"
