"""Names, paths and errors from anywhere do not act on the terminal, a figure or a spreadsheet."""

import io

import pytest
from matplotlib.figure import Figure
from rich.table import Table

from segstudy import console
from segstudy.console import SafeConsole, print_error, printable
from segstudy.drawing import as_array, image_grid
from segstudy.errors import DataError

NASTY = "\x1b[2J\x1b]0;title\x07cat\r\u202egnp.\x9bm"


def test_control_characters_are_shown_as_text() -> None:
    shown = r"\x1b[2J\x1b]0;title\x07cat\r\u202egnp.\x9bm"
    assert printable(NASTY) == shown
    assert printable("é\tשלום\n") == "é\tשלום\n"
    file = io.StringIO()
    table = Table(NASTY)
    table.add_row(NASTY)
    SafeConsole(file=file, width=200).print(table, NASTY, markup=False)
    assert not set(file.getvalue()) & set("\x1b\x07\r\u202e\x9b")
    assert file.getvalue().count("title") == 3


def test_errors_and_lines_are_printable(capsys: pytest.CaptureFixture) -> None:
    print_error(DataError(f"no class {NASTY}"))
    console.print_line(NASTY)
    out, err = capsys.readouterr()
    assert "cat" in out
    assert "cat" in err
    assert not set(out + err) & set("\x1b\x07\r\u202e\x9b")


def test_a_name_is_no_formula_in_a_picture() -> None:
    import numpy as np

    picture = np.zeros((8, 8, 3), np.uint8)
    names = [r"$\frac{1$ dogs", "a$b"]
    figure: Figure = image_grid([[picture] * 2], names, {r"$x_$": (1, 2, 3)}, [r"$\badly{$"])
    as_array(figure)
    assert {r"\$\frac{1\$ dogs", r"a\$b"} <= {text.get_text() for text in figure.axes[0].texts}
