"""What the paper reports, to be read beside a run's own figures."""

# Table 2, test accuracy in percent: (model, aux, bptt): name, figure of each task.
TABLE_2 = {
    ("irnn", "none", "full"): ("iRNN", {"mnist": 97.0, "pmnist": 82.0}),
    ("urnn", "none", "full"): ("uRNN", {"mnist": 95.1, "pmnist": 91.4}),
    ("lstm", "none", "full"): ("LSTM, full BPTT", {"mnist": 98.3, "pmnist": 89.4, "cifar10": 58.8}),
    ("lstm", "none", 300): ("LSTM, truncated 300", {"mnist": 11.3, "pmnist": 88.8, "cifar10": 49.0}),
    ("transformer", "none", "full"): ("Transformer", {"mnist": 98.9, "pmnist": 97.9, "cifar10": 62.2}),
    ("lstm", "r", 300): ("r-LSTM, truncated 300", {"mnist": 96.4, "pmnist": 92.8, "cifar10": 65.9}),
    ("lstm", "p", 300): ("p-LSTM, truncated 300", {"mnist": 95.4, "pmnist": 92.5, "cifar10": 64.7}),
    ("lstm", "r", "full"): ("r-LSTM, full BPTT", {"mnist": 98.4, "pmnist": 95.2, "cifar10": 72.2}),
    ("lstm", "p", "full"): ("p-LSTM, full BPTT", {"mnist": 98.0, "pmnist": 92.8, "cifar10": 67.6}),
}


def reported(cfg):
    """The figure for a run's model, losses, truncation and task; None where the table has none. The paper's
    pictures are whole, and so are its training and test sets."""
    _, figures = TABLE_2.get((cfg.model, cfg.aux, cfg.bptt), (None, {}))
    return figures.get(cfg.task) if cfg.size in (None, 28) else None
