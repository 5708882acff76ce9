"""`python -m attack [SECTION …]` in tests/: run the sections in full; their counts go to results/robustness.md."""

import re
import sys
from pathlib import Path

from attack import damaged_files

SECTIONS = {"Damaged files": damaged_files.section}
"""Heading in results/robustness.md → the function that runs the section and returns its text."""

RESULTS = Path(__file__).parents[2] / "results" / "robustness.md"

HEAD = """# Robustness

What `make attack` counted: commands that were given damaged files, wrong settings and hostile folders, and how they
answered. Each section says when and how it was run.
"""


def main(words: list[str]) -> None:
    chosen = [name for name in SECTIONS if not words or any(word.lower() in name.lower() for word in words)]
    if not chosen:
        sys.exit(f"no section {' '.join(words)}; sections: {', '.join(SECTIONS)}")
    for name in chosen:
        write_section(name, SECTIONS[name]())


def write_section(name: str, text: str) -> None:
    """Add or replace a section; the others stay as they are."""
    whole = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else HEAD
    parts = re.split(r"(?m)^## ", whole)
    kept = [part for part in parts[1:] if part.splitlines()[0] != name] + [f"{name}\n\n{text.strip()}\n"]
    order = {section: place for place, section in enumerate(SECTIONS)}
    kept.sort(key=lambda part: order.get(part.splitlines()[0], len(order)))
    RESULTS.write_text("\n## ".join([parts[0].rstrip() + "\n", *(part.rstrip() + "\n" for part in kept)]), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
