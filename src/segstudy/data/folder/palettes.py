"""Whether the classes in indexed pictures are the indices, the colours of their palettes, or grey values."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from segstudy.data.folder.classes import MAX_UNDECLARED
from segstudy.data.folder.counts import Counted, MaskCounts, keys_of
from segstudy.data.folder.description import Description
from segstudy.data.folder.mask_format import MaskFormat, rgb_of_key
from segstudy.data.folder.pictures import with_values
from segstudy.data.folder.problems import Question
from segstudy.errors import DataError, first_few
from segstudy.formatting import counted as number_of
from segstudy.labels import IGNORE

Names = Mapping[str, str]


class Palettes:
    """Whether the classes in indexed pictures are indices, colours or grey values.

    masks: ({index in use: colour}, the keys in use) of each; without a palette, the first is empty.
    numbers, class_of: {number: class} and {colour: class} that are declared.
    """

    def __init__(self, masks: Iterable[tuple[Names, Iterable[str]]], numbers: Names, class_of: Names):
        self.numbers, self.class_of = numbers, class_of
        self.colours: dict[str, Counter[str]] = {}  # {index in use: {colour: number of masks}}
        self.grey: set[str] = set()  # values in pictures without a palette
        for palette, keys in masks:
            for index, colour in palette.items():
                self.colours.setdefault(index, Counter())[colour] += 1
            self.grey |= set() if palette else set(keys)

    def kind(self) -> str:
        """What gives the classes: numbers (the indices), colours, or grey (the grey values of the palette).

        "" if it cannot be told.
        """
        found = {colour for _, colour in self._found()}
        if all(colour == grey_key(index) for index, colour in self._found()):
            return "numbers"  # the same either way
        other = "grey" if self.are_grey() and not found <= self.class_of.keys() else "colours"
        declared = {*self.numbers, str(IGNORE)} if self.numbers else set()
        is_clear = not self._differing() and not self._contradiction()
        by_index = is_clear and self.grey <= (declared or self.colours.keys())
        if other == "grey":
            values = {colour.split(",")[0] for colour in found}
            by_colour = values | self.grey <= declared if declared else self.grey <= values
        else:
            by_colour = self._fit_as_colours()
        if by_index and by_colour:
            if all(self.colours.get(value, {}).keys() == {grey_key(value)} for value in self.grey):
                return "numbers"  # the same either way, or all pictures have the one palette
            by_index = not declared or self.colours.keys() <= declared
        if by_index != by_colour:
            return "numbers" if by_index else other
        return ""

    def doubt(self) -> str:
        """Why the indices may not be the classes."""
        pairs = ", ".join(f"{index} = {max(colours)}" for index, colours in list(self.colours.items())[:4])
        mixture = f"indexed masks have {pairs}; masks without a palette have the values {first_few(sorted(self.grey))}"
        return self._differing() or self._contradiction() or mixture

    def are_grey(self) -> bool:
        return all(len(set(colour.split(","))) == 1 for _, colour in self._found())

    def _found(self) -> list[tuple[str, str]]:
        return [(index, colour) for index, colours in self.colours.items() for colour in colours]

    def _differing(self) -> str:
        for index, colours in sorted(self.colours.items()):
            if len(colours) > 1:
                pairs = (f"{c} in {number_of(n, 'mask')}" for c, n in colours.most_common(2))
                return f"index {index} is " + " and ".join(pairs)
        return ""

    def _contradiction(self) -> str:
        for index, colour in self._found():
            name, named = self.numbers.get(index), self.class_of.get(colour)
            if named is not None and name != named:
                return f"index {index} is {colour}, the colour of {named}, and number {index} is {name or 'no class'}"
        return ""

    def _fit_as_colours(self) -> bool:
        grey, found = set(map(grey_key, self.grey)), {colour for _, colour in self._found()}
        if self.class_of:
            return {colour for index, colour in self._found() if index != str(IGNORE)} | grey <= self.class_of.keys()
        return not self.numbers and len(found) <= MAX_UNDECLARED and grey <= found


def resolve_palettes(
    counted: Counted, mask_format: MaskFormat, description: Description
) -> tuple[MaskFormat, Counted, list[str]]:
    """(format, counts by its keys, notes): whether the indices of indexed pictures or their colours are classes.

    Raises DataError that asks if both are possible.
    """
    if mask_format.kind == "colours" and not (description.mask_values or description.declares_classes):
        _refuse_grey_among_colours(counted)
    indexed = [c for c in counted.values() if c.colours]
    if mask_format.kind != "numbers" or not indexed:
        return mask_format, counted, []
    palettes = Palettes(((c.colours, c.pixels) for c in counted.values()), *description.declared_keys())
    kind = description.mask_values or palettes.kind()
    if not kind:
        raise Question(
            f"are the classes in indexed masks the indices or the colours? {palettes.doubt()}\n"
            "  → in dataset.yaml, if the indices are: mask_values: numbers\n"
            "    if the colours are: mask_values: colours, and palette: [[red, green, blue], …], a colour of each class"
            + ("\n    if their grey values are: mask_values: grey" if palettes.are_grey() else "")
        )
    if kind == "numbers":
        colours = {key: rgb_of_key(max(found)) for key, found in palettes.colours.items()}
        return replace(mask_format, palette=colours), counted, []
    what = "by colour" if kind == "colours" else "by grey value"
    note = f"{len(indexed)} indexed masks are read {what}, not by index: {palettes.doubt()}"
    return with_values(mask_format, kind), {name: _recounted(c, kind) for name, c in counted.items()}, [note]


def _recounted(counts: MaskCounts, kind: str) -> MaskCounts:
    """The counts of a mask read as numbers, with the keys that it has when read by colour or grey value."""

    def rename(numbers: Mapping[str, int]) -> dict[str, int]:
        renamed: Counter[str] = Counter()
        for key, number in numbers.items():
            colour = counts.colours.get(key, grey_key(key))
            renamed[colour if kind == "colours" else colour.split(",")[0]] += number
        return dict(renamed)

    return replace(counts, pixels=rename(counts.pixels), inner=rename(counts.inner), colours={})


def _refuse_grey_among_colours(counted: Counted) -> None:
    """Raise DataError if pictures without colours hold values that are no colour of the other masks."""
    grey = {name: c for name, c in counted.items() if c.mode in ("L", "LA", "1") or c.mode.startswith("I")}
    colours = set(keys_of(c for name, c in counted.items() if name not in grey))
    other = {name: found for name, c in grey.items() if (found := sorted(c.pixels.keys() - colours))}
    if other:
        name, values = next(iter(other.items()))
        raise DataError(
            f"{len(other)} of {number_of(len(counted), 'mask')} are grey pictures, with values that are no colour of "
            f"the other masks, e.g. {name}: {first_few([value.split(',')[0] for value in values])}\n"
            "  → save all masks alike; if the values are colours like the others, in dataset.yaml: mask_values: colours"
        )


def grey_key(value: str) -> str:
    """The colour of a grey value."""
    return ",".join([value] * 3)
