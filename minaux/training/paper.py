"""What the paper reports, to be read beside a run's own figures."""

# Table 2, test accuracy in percent: (model, aux, bptt): the figure of each task.
TABLE_2 = {
    ("irnn", "none", "full"): {"mnist": 97.0, "pmnist": 82.0},
    ("urnn", "none", "full"): {"mnist": 95.1, "pmnist": 91.4},
    ("lstm", "none", "full"): {"mnist": 98.3, "pmnist": 89.4, "cifar10": 58.8},
    ("lstm", "none", 300): {"mnist": 11.3, "pmnist": 88.8, "cifar10": 49.0},
    ("transformer", "none", "full"): {"mnist": 98.9, "pmnist": 97.9, "cifar10": 62.2},
    ("lstm", "r", 300): {"mnist": 96.4, "pmnist": 92.8, "cifar10": 65.9},
    ("lstm", "p", 300): {"mnist": 95.4, "pmnist": 92.5, "cifar10": 64.7},
    ("lstm", "r", "full"): {"mnist": 98.4, "pmnist": 95.2, "cifar10": 72.2},
    ("lstm", "p", "full"): {"mnist": 98.0, "pmnist": 92.8, "cifar10": 67.6},
}


def reported(cfg):
    """The figure for a run's model, losses, truncation and task; None where the table has none. The paper's models
    have 128 units, one truncation for all losses, and whole pictures."""
    if cfg.hidden != 128 or cfg.size not in (None, 28) or cfg.aux != "none" and cfg.aux_bptt != cfg.bptt:
        return None
    return TABLE_2.get((cfg.model, cfg.aux, cfg.bptt), {}).get(cfg.task)
