"""What is searched: keys, each with the numbers or the choices that it may take. No library is needed for it."""

from dataclasses import dataclass
from fractions import Fraction

DIGITS = 4  # significant ones of a number between two ends: what is read, recorded and run is the same
Value = float | int | str  # of a searched key: a number, or a choice as it is typed


@dataclass(frozen=True)
class Numbers:
    """A key and the numbers from `low` to `high`, both included; with a `step` those that so many steps lead to."""

    typed: str  # the key, with a + where it is added to the configuration
    low: float | int
    high: float | int
    step: float | int | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """The key."""
        return self.typed.lstrip("+")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int)

    def ends(self) -> list[str]:
        """Return the smallest and the largest value as they are typed."""
        return [str(self.low), str(self.high)]

    def describe(self) -> str:
        """Return the line that says the same, in one of the forms in which it can be typed."""
        kind = f"interval({self.low},{self.high})"
        if self.step is not None:  # what comes after the last number is no part of a range
            end = type(self.low)(exact(self.high) + exact(self.step))
            kind = f"range({self.low},{end},{self.step})"
        elif self.whole:
            kind = f"int({kind})"
        return f"{self.typed}={f'tag(log,{kind})' if self.log else kind}"

    def near(self, value: float) -> float | int:
        """Return a number that lies between the ends: one of the steps, or else one with few digits."""
        if self.whole:
            return int(value)
        if self.step is not None:
            return self.on_a_step(min(max(value, self.low), self.high))
        return min(max(rounded(value), self.low), self.high)

    def on_a_step(self, value: float) -> float:
        """Return the nearest number that steps lead to, as one would type it: sums of floats drift away from it."""
        low, step = exact(self.low), exact(self.step or 1)
        return float(low + round((exact(value) - low) / step) * step)

    def recorded(self, value: object) -> float | int:
        """Return the number by which a study remembers that a run had this value of the key.

        It may lie outside the interval. What has no place on the axis, as 0 on a logarithmic one, is taken for the
        lower end.
        """
        if isinstance(value, bool) or not isinstance(value, float | int) or (self.log and value <= 0):
            return self.low
        return value


@dataclass(frozen=True)
class Choices:
    """A key and the values to choose from, as they are typed."""

    typed: str
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The key."""
        return self.typed.lstrip("+")

    def ends(self) -> list[str]:
        """Return every choice."""
        return list(self.texts)

    def describe(self) -> str:
        """Return the line that says the same."""
        return f"{self.typed}=choice({','.join(self.texts)})"

    def recorded(self, value: object) -> str:
        """Return the choice; a value that is none cannot be recorded, so parsing makes it one."""
        return str(value)


Dimension = Numbers | Choices


def exact(number: float) -> Fraction:
    """Return a number as it is typed: 0.1 is a tenth, which no float is. Raises `ValueError` if it is not finite."""
    return Fraction(str(number))


def rounded(value: float) -> float:
    """Return a number with `DIGITS` significant digits, a whole one as it is."""
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
