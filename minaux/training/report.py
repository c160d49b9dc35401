"""What a person reads while a run goes on."""

from ..optim import learning_rate
from ..windows import direct_credit, fit_length
from . import paper
from .shards import at_work


def duration(seconds):
    """Seconds as people say them: "45 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


NAMES = {"lstm": "LSTM", "irnn": "iRNN", "urnn": "uRNN", "transformer": "Transformer"}


def model_name(cfg):
    """As people write it: "r-LSTM"."""
    return NAMES[cfg.model] if cfg.aux == "none" else f"{cfg.aux}-{NAMES[cfg.model]}"


def introduction(run, state):
    """What will be trained."""
    cfg = run.cfg
    epochs = f"{cfg.pretrain_epochs} + {cfg.epochs}" if cfg.pretrain_epochs else f"{cfg.epochs}"
    todo = run.total_steps - state.step
    lengths = run.lengths[run.train_rows]
    shortest, longest = lengths.min(), lengths.max()
    n = len(run.labelled.all_rows)
    training = f"{len(run.train_rows):,} training" + (f" ({n:,} with labels)" if n < len(run.train_rows) else "")
    lines = [
        f"{model_name(cfg)} on {cfg.task}: {run.parameters:,} parameters, "
        f"{longest if shortest == longest else f'{shortest} to {longest}'} steps a sequence",
        f"{training}, {len(run.valid_rows):,} validation, {len(run.test_rows):,} test",
    ]
    if cfg.model != "transformer":
        lines.append(f"supervised loss: truncation {cfg.bptt}")
    if cfg.aux != "none":
        L = fit_length(cfg.aux_length, longest)
        varies = fit_length(cfg.aux_length, shortest) < L  # with the shortest sequence of each batch
        fitted = f" (shortened from {cfg.aux_length})" if L < cfg.aux_length else ""
        length = f"up to {L}" if varies else L
        lines.append(f"auxiliary loss: truncation {cfg.aux_bptt}, segments of {length}{fitted}")
    if "r" in cfg.aux:
        credit = direct_credit(L, run.aux_K)
        which = " of the longest segments" if varies else ""
        reached = f"{credit} of {L - 1} targets{which}"
        lines.append(f"direct credit: r's gradient gets to the step that read the target for {reached}")
    if paper.reported(cfg) is not None:
        lines.append(f"the paper reports {in_the_paper(cfg)}")
    end = cfg.schedule_steps["lr"]
    if todo and cfg.lr_schedule == "cosine" and run.total_steps > end:
        why = "this run's first epochs were to end there"
        lines.append(
            f"the learning rate falls to 0 at batch {end:,} and stays there ({why}): later batches change nothing"
        )
    if todo == end < 2 * run.pretrain_steps and cfg.epochs and cfg.lr_schedule == "cosine":
        rate = learning_rate(cfg.lr, "cosine", run.pretrain_steps, end)
        lines.append(
            f"the learning rate's cosine spans pretraining too, {run.pretrain_steps:,} of {end:,} batches: joint "
            f"training begins at {rate:.2g}, nearer to {cfg.lr:g} with more --epochs"
        )
    threads = min(at_work(cfg.threads), cfg.shards)
    where = f"{threads} thread" + "s" * (threads > 1) if run.device == "cpu" else "the GPU"
    where += f" for {cfg.shards} shards" * (run.device == "cpu" and threads < cfg.shards)
    begun = f"going on after batch {state.step:,}: " if state.step else ""
    todo = f"{todo:,} batches of {cfg.batch_size} to go, on {where}" if todo else "all are done, it is tested again"
    lines.append(f"{begun}{epochs} epochs, {todo}; writing to {run.directory.path}")
    return "\n".join(lines)


def in_the_paper(cfg):
    """The paper's figure for such a run, and what it is from."""
    losses = {"none": "no auxiliary loss"}.get(cfg.aux, f"aux {cfg.aux}")
    cut = f", {losses}, truncation {cfg.bptt}" if cfg.model == "lstm" else ""
    return f"{paper.reported(cfg)} % (Table 2: {cfg.task}{cut}; all training images)"


def progress(row, rate):
    """The progress bar's words for a batch."""
    losses = {"class": row["loss_supervised"], "aux": row["loss_auxiliary"]}
    words = [f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None]
    return ", ".join([*words, f"{rate:.0f} seq/s"])


def evaluation(split, step, phase, found):
    """Accuracy, and a line for each auxiliary loss, beside its rivals without memory."""
    where = f"weights after batch {step:,}" if split == "test" else f"batch {step:,}, {phase}"
    lines = [f"{where}: {split} accuracy {found['accuracy']:.2%}, loss {found['loss_supervised']:.4f}"]
    if phase == "pretraining" and split == "valid":  # the classifier is untrained
        lines = [f"{where}: validation"]
    rivals = {"constant": "constant", "position_mean": "position mean", "copy": "copy", "swap_gap": "swap gap"}
    for kind in "rp":
        if f"{kind}_loss" in found:
            others = [f"{word} {found[f'{kind}_{k}']:.4f}" for k, word in rivals.items() if f"{kind}_{k}" in found]
            lines.append(f"    {kind} {found[f'{kind}_loss']:.4f}: " + ", ".join(others))
    return "\n".join(lines)
