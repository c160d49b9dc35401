"""Names of runs, as figures show them."""

import os


def short_names(runs):
    """A label for each run: its directory's name, or the whole path where names repeat."""
    names = [os.path.basename(os.path.normpath(run)) for run in runs]
    return {run: name if names.count(name) == 1 else run for run, name in zip(runs, names)}
