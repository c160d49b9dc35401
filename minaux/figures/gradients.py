"""What `cli.py gradcheck` prints: the relative errors of small models' gradients."""

from ..gradcheck import RELATIVE, check_model


def table(models, seed):
    """(a table with a column for each of the models, [(aux, truncation)], and a row for each parameter; which
    gradients are wrong)."""
    errors = {(model, e.name): e for model in models for e in check_model(*model, seed)}
    lines = [f"Relative errors by parameter, --aux and --bptt; the largest allowed is {RELATIVE:g}.", ""]
    lines.append(" " * 15 + "".join(f"{f'{aux} {K}':>11}" for aux, K in models))
    for name in dict.fromkeys(name for _, name in errors):
        row = (errors.get((model, name)) for model in models)
        lines.append(f"{name:15}" + "".join(" " * 11 if e is None else f"{e.relative:11.1e}" for e in row))
    wrong = [f"{name} ({aux} {K})" for ((aux, K), name), e in errors.items() if e.wrong]
    if not wrong:
        lines += ["", f"all {len(errors)} gradients are right"]
    return "\n".join(lines), wrong
