"""What a person reads while a run goes on."""

from .windows import direct_credit, fit_length


def duration(seconds):
    """Seconds as people say them: "45 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def introduction(run, state, seconds):
    """What will be trained, and how long that should take."""
    cfg = run.cfg
    epochs = f"{cfg.pretrain_epochs} + {cfg.epochs}" if cfg.pretrain_epochs else f"{cfg.epochs}"
    model = "LSTM" if cfg.aux == "none" else f"{cfg.aux}-LSTM"
    truncation = f"truncation {cfg.bptt}"
    if cfg.aux != "none":
        L = fit_length(cfg.aux_length, run.T)
        truncation += f", auxiliary {cfg.aux_bptt}; segments of {L}"
    if cfg.aux in ("r", "rp"):
        truncation += f" ({direct_credit(L, run.aux_K)} of r's {L - 1} targets get direct credit)"
    return "\n".join(
        [
            f"{model} on {cfg.task}: {run.parameters():,} parameters, {run.T} steps a sequence, {truncation}",
            f"{len(run.train_rows):,} training, {len(run.valid_rows):,} validation and {len(run.test_rows):,} "
            f"test sequences",
            f"{epochs} epochs, {run.total_steps - state.step:,} batches of {cfg.batch_size} to go: about "
            f"{duration(seconds)} on the {run.device}" + (f", {cfg.shards} threads" if run.device == "cpu" else ""),
            f"writing to {run.directory.path}",
        ]
    )


def evaluation(split, step, phase, report):
    """One line for an evaluation: accuracy, and each auxiliary loss beside its rivals without memory."""
    text = f"step {step}, {phase}: {split} accuracy {report['accuracy']:.2%}, loss {report['loss_supervised']:.4f}"
    rivals = {
        "constant": "constant",
        "position_mean": "per-position mean",
        "copy": "copying",
        "swap_gap": "swap gap",
    }
    for kind in "rp":
        if f"{kind}_loss" in report:
            others = [
                f"{word} {report[f'{kind}_{k}']:.4f}" for k, word in rivals.items() if f"{kind}_{k}" in report
            ]
            text += f"; {kind} {report[f'{kind}_loss']:.4f} ({', '.join(others)})"
    return text
