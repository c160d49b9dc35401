"""What figures and tables call things: names of runs and files, whatever name a directory has, and accuracies."""

import os

from ..training.config import UserError

LSTMS = {"none": "LSTM", "r": "r-LSTM", "p": "p-LSTM"}  # by their auxiliary losses


def readable(runs, read, tell=None):
    """{run: read(run)}. What is no run is left out, and tell(line) hears of it. Without `tell`, and where nothing
    is left, UserError is raised."""
    found, errors = {}, []
    for run in runs:
        try:
            found[run] = read(run)
        except UserError as error:
            errors.append(error)
    if errors and not (found and tell):
        raise errors[0]
    for error in errors:
        tell(f"left out: {error}")
    return found


def mean_and_range(percent):
    """The mean of accuracies in percent, of several with the lowest and highest: "78.1 (75.2 to 81.4)"."""
    mean = f"{sum(percent) / len(percent):.1f}"
    return f"{mean} ({min(percent):.1f} to {max(percent):.1f})" if len(percent) > 1 else mean


def short_names(runs):
    """A label for each run: its directory's name, or the whole path where names repeat."""
    names = [os.path.basename(os.path.normpath(run)) for run in runs]
    return {run: printable(name if names.count(name) == 1 else run) for run, name in zip(runs, names)}


def printable(name):
    """The name, with escapes for bytes that are not UTF-8 and for characters that nobody sees, like line ends."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def escaped(text):
    return text.encode("unicode_escape").decode()


def write_name(text, name):
    """Make matplotlib's `text` say the name as it is: no mathematics, in fonts that have its characters. What none
    has is escaped."""
    families, missing = fonts(name)
    text.set_parse_math(False)
    text.set_fontfamily(families)
    text.set_text("".join(escaped(c) if c in missing else c for c in name))


def fonts(name):
    """(the fonts that have the name's characters, the characters that none has)."""
    from matplotlib import font_manager

    own = font_manager.fontManager.ttflist
    families, missing = ["DejaVu Sans"], set(name)
    for font in sorted(own, key=lambda font: font.name != "DejaVu Sans"):
        # Of emoji some fonts hold bitmaps, which cannot be scaled; the last resort has boxes for everything.
        if not missing or "Emoji" in font.name or font.name.startswith("Last Resort"):
            continue
        try:
            had = {c for c in missing if ord(c) in font_manager.get_font(font.fname).get_charmap()}
        except (OSError, RuntimeError):  # a damaged font
            continue
        if had:
            families.append(font.name)
            missing -= had
    return list(dict.fromkeys(families)), missing
