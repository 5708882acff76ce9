"""How numbers are written, everywhere: terminal, report, card."""

import math
import re

MISSING = "–"

NOT_DEFINED = "n/a"


def counted(count: int, word: str) -> str:
    """1 image, 2 images, 1,234 images."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def format_number(value: float | None, digits: int = 3) -> str:
    """0.016, −0.016, 1,234.500; n/a for a value that is not finite, – for None."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return NOT_DEFINED
    text = f"{abs(value):,.{digits}f}"
    return f"−{text}" if value < 0 and text.strip("0.") else text


def format_signed(value: float | None, digits: int = 3) -> str:
    """As `format_number`, with a plus before a value above 0: +0.016."""
    text = format_number(value, digits)
    return f"+{text}" if value is not None and 0 < value < math.inf and text.strip("0.") else text


def format_percent(share: float | None) -> str:
    """A share as 32 %, or 0.4 % below one percent, without a line break."""
    if share is None or not math.isfinite(share):
        return format_number(share)
    return f"{format_number(100 * share, 1 if 0 < share < 0.00995 else 0)}\u00a0%"


def format_range(low: float, high: float, digits: int = 3) -> str:
    """−0.006 to 0.014."""
    return f"{format_number(low, digits)} to {format_number(high, digits)}"


def format_interval(low: float, high: float) -> str:
    """(0.005 to 0.027) without a line break, for a table; "" where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"({format_range(low, high)})".replace(" ", "\u00a0")


def format_millions(value: float | None) -> str:
    """2,686,613 → 2.69 M."""
    return MISSING if value is None else f"{format_number(value / 1e6, 2)} M"


def format_duration(seconds: float | None) -> str:
    """Seconds as m:ss, or h:mm:ss from one hour on."""
    if seconds is None:
        return MISSING
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def parse_duration(text: str) -> float | None:
    """Seconds of a time such as 90s, 8min, 2h or 1h30min; None if it is none, or 0."""
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)min)?(?:([\d.]+)s)?", text)
    try:
        hours, minutes, seconds = (float(part or 0) for part in parts.groups()) if parts else (0.0, 0.0, 0.0)
    except ValueError:  # 1.2.3s
        return None
    return 3600 * hours + 60 * minutes + seconds or None
