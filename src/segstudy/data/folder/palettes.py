"""Whether the classes in indexed pictures are the indices, the colours of their palettes, or grey values."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segstudy.data.folder.classes import MAX_UNDECLARED
from segstudy.errors import first_few
from segstudy.labels import IGNORE


@dataclass(frozen=True)
class Palettes:
    """Colours of indexed pictures, {index in use: {colour: number of masks}}, and the values in pictures without."""

    colours: dict[str, Counter[str]]
    grey: set[str]

    @classmethod
    def of(cls, masks: Iterable[tuple[Mapping[str, str], Iterable[str]]]) -> "Palettes":
        """From ({index in use: colour}, the keys in use) of each mask; without a palette, the first is empty."""
        colours: dict[str, Counter[str]] = defaultdict(Counter)
        grey: set[str] = set()
        for palette, keys in masks:
            for index, colour in palette.items():
                colours[index][colour] += 1
            grey |= set() if palette else set(keys)
        return cls(dict(colours), grey)

    def kind(self, numbers: Mapping[str, str], class_of: Mapping[str, str]) -> str:
        """What gives the classes: numbers (the indices), colours, or grey (the grey values of the palette).

        "" if it cannot be told. numbers, class_of: {number: class} and {colour: class} that are declared.
        """
        found = {colour for _, colour in self._found()}
        if all(colour == grey_key(index) for index, colour in self._found()):
            return "numbers"  # the same either way
        other = "grey" if self.are_grey() and not found <= class_of.keys() else "colours"
        by_index = not self._differing() and not self._contradiction(numbers, class_of)
        by_index &= self.grey <= ({*numbers, str(IGNORE)} if numbers else self.colours.keys())
        by_colour = self._fit_as_grey(numbers) if other == "grey" else self._fit_as_colours(numbers, class_of)
        if by_index and by_colour:
            if all(self.colours.get(value, {}).keys() == {grey_key(value)} for value in self.grey):
                return "numbers"  # the same either way, or all pictures have the one palette
            by_index = not numbers or self.colours.keys() <= {*numbers, str(IGNORE)}
        if by_index != by_colour:
            return "numbers" if by_index else other
        return ""

    def doubt(self, numbers: Mapping[str, str], class_of: Mapping[str, str]) -> str:
        """Why the indices may not be the classes."""
        pairs = ", ".join(f"{index} = {max(colours)}" for index, colours in list(self.colours.items())[:4])
        mixture = f"indexed masks have {pairs}; masks without a palette have the values {first_few(sorted(self.grey))}"
        return self._differing() or self._contradiction(numbers, class_of) or mixture

    def _found(self) -> list[tuple[str, str]]:
        return [(index, colour) for index, colours in self.colours.items() for colour in colours]

    def _differing(self) -> str:
        for index, colours in sorted(self.colours.items()):
            if len(colours) > 1:
                return f"index {index} is {' and '.join(f'{c} in {n} masks' for c, n in colours.most_common(2))}"
        return ""

    def _contradiction(self, numbers: Mapping[str, str], class_of: Mapping[str, str]) -> str:
        for index, colour in self._found():
            name, named = numbers.get(index), class_of.get(colour)
            if named is not None and name != named:
                return f"index {index} is {colour}, the colour of {named}, and number {index} is {name or 'no class'}"
        return ""

    def are_grey(self) -> bool:
        return all(len(set(colour.split(","))) == 1 for _, colour in self._found())

    def _fit_as_grey(self, numbers: Mapping[str, str]) -> bool:
        found = {colour.split(",")[0] for _, colour in self._found()}
        return found | self.grey <= {*numbers, str(IGNORE)} if numbers else self.grey <= found

    def _fit_as_colours(self, numbers: Mapping[str, str], class_of: Mapping[str, str]) -> bool:
        grey = set(map(grey_key, self.grey))
        if class_of:
            return {colour for index, colour in self._found() if index != str(IGNORE)} | grey <= class_of.keys()
        found = {colour for _, colour in self._found()}
        return not numbers and len(found) <= MAX_UNDECLARED and grey <= found


def grey_key(value: str) -> str:
    """The colour of a grey value."""
    return f"{value},{value},{value}"
