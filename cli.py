"""minaux's command line: parse and wire only."""

import functools
import json
import os
import re
import shlex
import signal
import sys

# Whether Ctrl-C is heard: in the background of a script a shell starts programs with it ignored.
HEARD = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
if __name__ == "__main__" and HEARD:  # Ctrl-C while modules are imported ends it without a word
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    import click
    from tqdm import tqdm

    import datasets
    from minaux import __version__
    from minaux.figures import analyses, plots, reconstructions
    from minaux.figures import demo as demonstration
    from minaux.figures import export as exporting
    from minaux.figures import table as tables
    from minaux.training import config, evaluation, loop, paper, report
    from minaux.training.checkpoint import RunDirectory, check_out
    from minaux.training.config import CHOICES, UserError
    from minaux.training.output import show_all, unstoppable
    from minaux.training.predict import load_model, write_csv
    from minaux.training.run import backend, new_state, saved_state, set_up
    from minaux.training.shards import cores, ranks, run_program
    from minaux.training.stop import Stopped
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is missing: first . .venv/bin/activate, or pip install -r requirements.txt")


class NumberOrWord(click.ParamType):
    """A number, or a word ("full", "chrono")."""

    name = "number or word"

    def __init__(self, *words, number=int):
        self.words, self.number = words, number
        self.metavar = f"[{'INTEGER' if number is int else 'FLOAT'}|{'|'.join(words)}]"

    def get_metavar(self, param, ctx=None):
        return self.metavar

    def convert(self, value, param, ctx):
        if value in self.words or isinstance(value, self.number):
            return value
        try:
            number = self.number(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {' nor '.join(map(repr, self.words))}.", param, ctx)
        if self.number is int and number < 0:
            self.fail(f"{number} is below 0.", param, ctx)
        return number


class Duration(click.ParamType):
    """Seconds, from "90s", "30m", "2h" or a number of seconds."""

    name = "duration"

    def convert(self, value, param, ctx):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not match:
            self.fail(f"{value!r} is not a duration like 90s, 30m or 2h.", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def setting(name, text, default=None, kind=None):
    """An option of `train`: config.py has its default, which the help shows, and what values it takes."""
    field = config.Config.__dataclass_fields__.get(name)
    number = int if field and isinstance(1, field.type) and not isinstance(1.0, field.type) else float
    if name in CHOICES:
        kind = click.Choice(CHOICES[name])
    elif name in config.WORDS:
        kind = NumberOrWord(*config.WORDS[name], number=number)
    default = field.default if default is None else default
    words = f"default: {default}{span(name)}"
    return click.option(config.option(name), name, type=kind or number, help=f"{text}  [{words}]")


def span(name):
    """The values that an option takes, for its help, where a limit would surprise."""
    low, high = config.RANGES.get(name, (0, None))
    if high and high < 1000:
        return f"; {low} to {high}"
    return f"; {low} or more" if low and low > 1 else ""


def told(error):
    """An OSError or a MemoryError in one line."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    why = f" ({error})" if str(error) else ""
    return f"out of memory{why}: free some, or train with a smaller --hidden or --batch-size"


def one_line_errors(command):
    """End with one line on standard error and status 1 where the user, the data or the disk is at fault."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (UserError, datasets.DataError) as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # click ends quietly
        except (OSError, MemoryError) as error:
            raise click.ClickException(told(error)) from error
        except ModuleNotFoundError as error:  # one that only some tasks need
            raise click.ClickException(f"{error.name} is missing: pip install -r requirements.txt") from error
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)
            sys.exit(130)

    return wrapped


def load_task(cfg):
    """The run's Config, with what only the data tell, and its Task."""
    if cfg.task not in datasets.NAMES:
        raise UserError(f"there is no task {cfg.task!r}; there are {', '.join(datasets.NAMES)}")
    try:
        task = datasets.load(cfg.task, cfg.size, cfg.data_dir, cfg.max_length)
    except ValueError as error:
        raise UserError(str(error)) from None
    cfg.permutation = task.permutation
    return cfg, task


def saved_run(run, data_dir, device="cpu"):
    """The Run of a directory; its data may be elsewhere now, in `data_dir`."""
    cfg = RunDirectory(run).read_config()
    cfg.data_dir = data_dir or cfg.data_dir
    return set_up(*load_task(cfg), run, device=device)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli():
    """LSTMs with auxiliary losses (Trinh, Dai, Luong & Le, ICML 2018), on NumPy and CuPy."""


# What a line of `train`'s options has no room for.
BPTT = "300; 75 with --size 14; full for the baselines"
AUX_BPTT = "as --bptt, or its default where that is 0"
PAPER = "with --preset paper"  # of the LSTM; the baselines have theirs with either
LR = f"0.003; 0.001 {PAPER}; irnn and urnn 0.0003, transformer 0.0005"
FORGET_BIAS = "Initial bias of the forget gates; chrono and loguniform spread what the units remember."
HIDDEN = "LSTM units; hidden layers of classifier and heads are twice as wide, a uRNN 4 times, a Transformer 3/4."
SIZE = "Side of the pictures: mnist and pmnist 28, or 14 by 2x2 mean pooling; dogs 16 to 128."


@cli.command()
@setting("task", "What to learn.", "none, needed for a new run", click.Choice(datasets.NAMES))
@setting("aux", "Auxiliary losses: reconstruct the past, predict the future, both.")
@setting("model", "The model; all but the LSTM are baselines without auxiliary losses.")
@setting("bptt", "Truncation of the supervised loss in steps; at 0 it trains the classifier alone.", BPTT)
@setting(
    "checkpoint_every",
    "Save memory: keep every n-th state, n a multiple of 8, and recompute the steps between; 0 keeps all.",
)
@setting("aux_bptt", "Truncation of the auxiliary loss; at 0 it trains its own head alone, uncut.", AUX_BPTT)
@setting("aux_length", "Length of an auxiliary segment.", "100; 600 with --preset paper; a quarter with --size 14")
@setting("anchors", "Anchors a batch, for each auxiliary loss.")
@setting("aux_weight", "Weight of the auxiliary loss in joint training.")
@setting("feed_start", "r: probability of feeding the decoder its own output at the start")
@setting("feed_end", "... and from the end of pretraining on.")
@setting("forget_bias", FORGET_BIAS, "loguniform; 1 with --preset paper")
@setting("pretrain_epochs", "Epochs on the auxiliary loss alone.", "by preset; 0 with --aux none")
@setting("epochs", "Epochs on both losses.", "by preset")
@setting("batch_size", "Sequences a batch.", f"32; transformer 16; 128 {PAPER}")
@setting("hidden", HIDDEN)
@setting("lr", "Learning rate of RMSProp.", LR)
@setting("lr_schedule", "Over all batches of the run, cosine to 0.", f"cosine; constant {PAPER}")
@setting("clip", "Largest global norm of the gradient; 0 leaves it as it is.")
@setting(
    "dropconnect", "Probability, below 1, to drop a weight of the classifier's hidden layers.", f"0; 0.5 {PAPER}"
)
@setting("seed", "Of everything random but the validation split.")
@setting("device", "Where to compute; auto takes a GPU if CuPy finds one.")
@setting("dtype", "Floating point numbers.")
@setting(
    "threads", "Shards of a batch, each in a process with one thread.", "all cores, 8 or more sequences a shard"
)
@setting("limit_train", "Use only the first n training sequences, validation included.", "all")
@setting("limit_labels", "Use the labels of n training sequences only, of each class alike.", "all")
@setting("limit_test", "Use at most n test, and n validation, sequences.", "all")
@setting("valid", "Training sequences to set aside for validation.", "a tenth, at most 5000; 0 with --preset paper")
@setting("size", SIZE, "28; dogs 128")
@setting("max_length", "dbpedia: bytes of a text that are read, from its beginning.", "512")
@setting("data_dir", "Folder of the task's files; npz: the file.", "the project's datasets/data/TASK", click.Path())
@setting(
    "out", "Run directory.", "runs/TASK-AUX-BPTT-sSEED, with --size behind TASK where it is given", click.Path()
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out; other options may be left out.")
@setting("budget", "Stop training after this time (30m, 2h), test, and be ready to resume.", "none", Duration())
@setting("preset", "quick: 1 + 8 epochs; paper: the paper's protocol, 20 + 100 epochs.")
@click.option("--quiet", is_flag=True, default=None, help="Print nothing but errors and the result.")
@one_line_errors
def train(out, resume, **given):
    """Train a model, or go on with a run, and test it."""
    given = {name: value for name, value in given.items() if value is not None}
    if resume and out is None:
        raise click.UsageError("--resume needs --out RUN, the directory to go on with.")
    if not resume and "task" not in given:
        raise click.UsageError(f"--task is needed: one of {', '.join(datasets.NAMES)}.")
    if resume:
        RunDirectory(out).read_config()  # before a directory is made
    else:
        cfg = config.build(given, cores())
        size = f"{cfg.size}-" if "size" in given else ""
        kind = cfg.aux if cfg.model == "lstm" else cfg.model
        default = os.path.join("runs", f"{cfg.task}-{size}{kind}-{cfg.bptt}-s{cfg.seed}")
        out = default if out is None else out
    with RunDirectory(out).held():
        train_in(out, resume, given)


def train_in(out, resume, given):
    """Train a run in the directory `out`, which is held, or go on with it."""
    if resume:
        cfg = config.resumed(RunDirectory(out).read_config(), given)
    else:
        RunDirectory(out).check_new()  # before the data are read
        cfg = config.build(given, cores())
        if given.get("pretrain_epochs") and not cfg.pretrain_epochs:
            click.echo("--pretrain-epochs is 0 here: there is no auxiliary loss to pretrain with", err=True)
    run = set_up(*load_task(cfg), out, echo=tqdm.write)
    with unstoppable():
        train_and_tell(run, saved_state(run) if resume else new_state(run))


def train_and_tell(run, state):
    """Train and test, and say what it came to, or how to go on."""
    out = run.directory.path
    again = f"{datasets.program()} train --resume --out {shlex.quote(out)}"
    try:
        result = loop.train(run, state)
    except OSError as error:
        raise UserError(f"{told(error)}; mend that, and go on from the last checkpoint with: {again}") from error
    except Stopped as stopped:
        click.echo(f"\nstopped and saved after batch {state.step:,}; go on with: {again}", err=True)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        click.echo(f"\nstopped at once; go on from the last checkpoint with: {again}", err=True)
        sys.exit(130)
    untrained = ", of a classifier that is not trained (--epochs 0)" if not run.cfg.epochs else ""
    tested = f"on {result['test_examples']:,} sequences{untrained}"
    click.echo(f"test accuracy {result['test_accuracy']:.2%} {tested}")
    if paper.reported(run.cfg) is not None:
        click.echo(f"the paper reports {report.in_the_paper(run.cfg)}")
    click.echo(f"config.json, metrics.jsonl, checkpoint.npz and result.json are in {out}")
    if not result["complete"]:
        click.echo(
            f"the budget is spent after {result['steps']:,} batches; go on (with a new --budget) by: {again}"
        )


@cli.command()
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
@click.option("--data-dir", type=click.Path(), help="Folder of the task's files.  [default: the run's]")
@click.option("--device", type=click.Choice(CHOICES["device"]), default="auto", show_default=True)
@one_line_errors
def evaluate(run, as_json, data_dir, device):
    """Test RUN's best weights again, on the test sequences it was set up with.

    `step` says after how many batches of training these weights stood.
    """
    result = evaluation.evaluate_saved(saved_run(run, data_dir, device))
    if as_json:
        click.echo(json.dumps(result))
    else:
        for name, value in result.items():
            click.echo(f"{name:20} {value:.6g}" if isinstance(value, float) else f"{name:20} {value}")


@cli.command()
@click.option("--aux", type=click.Choice(CHOICES["aux"]), help="Only this one.  [default: each of them]")
@click.option(
    "--bptt", type=NumberOrWord("full"), help="Only this truncation, of all losses.  [default: 5 and full]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, data and draws.")
@one_line_errors
def gradcheck(aux, bptt, seed):
    """Check every parameter's gradient against finite differences, on a small model in float64.

    Truncated gradients are compared with differences of the loss whose states at the cuts are constants.
    """
    from minaux.figures import gradients

    truncations = [5, "full"] if bptt is None else [bptt]
    models = [(kind, K) for kind in ([aux] if aux else CHOICES["aux"]) for K in truncations]
    text, wrong = gradients.table(models, seed)
    click.echo(text)
    if wrong:
        raise click.ClickException(f"wrong gradients: {', '.join(wrong)}")


@cli.group()
def data():
    """List, download and check the tasks' files.

    They are in the project's datasets/data/NAME, or in the folder that --data-dir names.
    """


name_argument = click.argument("name", type=click.Choice(datasets.NAMES))
data_dir_option = click.option(
    "--data-dir", type=click.Path(), help="Folder of the files; npz: the file.  [default: datasets/data/NAME]"
)


@data.command("list")
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False),
    help="Folder to look in.  [default: datasets/data/NAME]",
)
@one_line_errors
def list_data(data_dir):
    """What is there of each task's files, how large, and where, by names and sizes; check reads them."""
    for name in datasets.NAMES:
        click.echo(f"{name:8} {datasets.describe(name, data_dir)}")


@data.command()
@name_argument
@data_dir_option
@one_line_errors
def fetch(name, data_dir):
    """Download NAME's files.

    What is there already and right, packed or unpacked, is left alone; nothing stays of a download that fails.
    """
    source = datasets.TASKS[name]
    if source.size:
        return datasets.fetch(name, data_dir, tell=tqdm.write)
    text = f"nothing to download: {name} is " + (f"in {source.folder}" if source.folder else "a file of yours")
    if data_dir:
        raise UserError(f"{text}; leave --data-dir out")
    click.echo(text)


@data.command()
@name_argument
@data_dir_option
@one_line_errors
def check(name, data_dir):
    """Read all of NAME's files and count what is in them.

    Archives are checked by their SHA-256, unpacked files by their size, labels and contents.
    """
    try:
        click.echo(datasets.check(name, data_dir))
    except ValueError as error:
        raise UserError(str(error)) from None


def left_out(line):
    click.echo(line, err=True)


@cli.command()
@click.argument("run", type=click.Path())
@click.option(
    "--data-dir",
    type=click.Path(),
    help="An .npz file with x, or the folder where the task's files are now.  [default: the run's test sequences]",
)
@click.option("--out", default="predictions.csv", show_default=True, help="The file to write.")
@one_line_errors
def predict(run, data_dir, out):
    """Classify sequences with RUN's best weights.

    With --data-dir FILE.npz: those of its array x, as the run's task has them (of tokens also the array lengths);
    labels are not needed. Without: the run's test sequences, with their labels in a column. Writes a row for each,
    in the file's order: its class, and the probability of every class.
    """
    check_out(out, "predictions.csv")
    classify = load_model(run)
    new = data_dir and not os.path.isdir(data_dir)
    if new:
        x, labels = datasets.npz.inputs(data_dir), None
    else:
        x, labels = datasets.pick(*saved_run(run, data_dir).sequences("test"))
    try:
        found = classify(x, threads=cores())
    except UserError as error:
        raise UserError(f"{data_dir}: {error}" if new else str(error)) from None
    write_csv(out, found, labels)
    click.echo(f"{out} has the classes of {len(found):,} sequences")


runs_argument = click.argument("runs", nargs=-1, required=True, metavar="RUN...")


@cli.command()
@runs_argument
@click.option("--out", default="curves.png", show_default=True, help="The picture to write: .png, .pdf or .svg.")
@one_line_errors
def plot(runs, out):
    """Draw the curves of RUNs: accuracy, losses, and whether r's decoder uses the state (its swap gap)."""
    plots.picture_kind(out)
    plots.save(plots.plot(list(dict.fromkeys(runs)), left_out), out)
    click.echo(f"{out} is written")


@cli.command()
@click.argument("run")
@click.option("--out", help="The file to write.  [default: reconstruction.png; text is printed]")
@click.option("--data-dir", type=click.Path(), help="The task's files, if they are elsewhere now.")
@one_line_errors
def reconstruct(run, out, data_dir):
    """Draw true segments, what RUN's auxiliary heads make of them, and a rival that does not know the sequence.

    r's rival is its own decoder started from another sequence's state, p's is the mean at each position. For r it
    draws the error against the distance from the anchor, too: how far back the state remembers. Text is printed
    line below line.
    """
    if out is not None:
        check_out(out, "reconstruction.png")  # before the data are read
    if RunDirectory(run).read_config().aux == "none":
        raise UserError(f"{run} has no auxiliary loss: there is nothing to reconstruct")
    looked_at = saved_run(run, data_dir)
    out = reconstructions.checked_out(out, looked_at.task.tokens)
    found = reconstructions.reconstruction(looked_at)
    if out is None:
        click.echo(found)
    else:
        reconstructions.save(found, out)
        click.echo(f"{out} is written")


@cli.command()
@runs_argument
@one_line_errors
def table(runs):
    """Print what RUNs came to, a row for each, with the paper's figure beside it, in Markdown.

    Runs that differ in their seeds alone share a row, with their mean. The paper's figure stands where task, model,
    auxiliary loss, truncation and sizes are those of its Table 2, and training and test sets are whole.
    """
    click.echo(tables.table(list(dict.fromkeys(runs)), left_out))


@cli.command()
@click.argument("run")
@click.option("--out", required=True, metavar="FILE.safetensors", help="The file to write.")
@one_line_errors
def export(run, out):
    """Write RUN's best weights for PyTorch: they load into nn.LSTM, nn.Linear and nn.Embedding as they are.

    Baselines are refused. docs/tasks.md has six lines of Python that load the file and classify with it.
    """
    check_out(out, "weights.safetensors")
    exporting.export(run, out)
    click.echo(f"{out} is written")


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=click.Choice([*analyses.GRIDS, "cost"]))
@click.option("--out", required=True, type=click.Path(), help="Directory of the runs, table.md and picture.png.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Runs of each kind: --seed and the next.",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[TRAIN OPTIONS]...")
@one_line_errors
def analyse(name, out, seeds, options):
    """Run one of the paper's analyses: a grid of runs that ends with a table and a picture.

    The same command goes on where an earlier one stopped, with other --threads if you like. Started several times,
    on one machine or on several that share the directory, it divides the runs, and whoever ends last writes the
    table. Further options are those of `train`, for all runs of the grid: --task above all, --epochs,
    --limit-train. What the grid sets itself is refused, as --epochs is with `labels`. With --size 14 the grid's
    lengths are a quarter of the usual. `cost` takes no options. A run counts as done when --budget is spent. With
    more --seeds the same command makes the runs that are missing.

    \b
    truncation   accuracy of none, r and p against the truncation, down to 1 and 0
    labels       accuracy of none, r and p against the number of labels, 100 to 10,000
    curves       training loss, accuracy and generalisation of none, r and p
    anchors      r's accuracy with more anchors and shorter segments
    length       accuracy, time and memory against the length: --task dogs at 16x16 to 128x128
    cost         time and memory of a training step against the length of the sequences

    Hours of one core on MNIST at 28x28: truncation 5 and curves 1 with --epochs 3, labels 3. Length takes 3 for
    10,000 pictures and 6 epochs, cost two minutes on two cores.
    """
    if name == "cost":
        if options or seeds > 1:
            raise UserError(f"cost takes no further options: leave {options[0] if options else '--seeds'} out")
        text = analyses.cost(out, min(cores(), 256), click.echo)
    else:
        given = train_options(options)
        try:
            text = analyses.run_grid(name, out, given, seeds, cores(), check_run, train_run, click.echo)
        except (KeyboardInterrupt, SystemExit):
            click.echo("\nthe analysis is not complete: the same `analyse` command goes on with it", err=True)
            raise
    if text is not None:
        click.echo(f"{text}\n{os.path.join(out, 'table.md')} and picture.png are written")


def train_options(words):
    """The options of `train` that the words of a command line give."""
    with train.make_context("cli.py train", list(words)) as context:
        return {k: v for k, v in context.params.items() if v is not None and k not in ("out", "resume")}


def check_run(options):
    """Raise UserError if the data, or the device, do not go with these options of `train`."""
    set_up(*load_task(config.build(options, cores())), "")


def train_run(out, options):
    """Train a run of an analysis, or go on with it, unless it is finished. Raises Held if another process does,
    UserError if it fails: then the others may still do."""
    try:
        with RunDirectory(out).held():
            if not analyses.finished(out):
                train_in(out, os.path.exists(RunDirectory(out).checkpoint), options)
    except (OSError, MemoryError) as error:
        raise UserError(told(error)) from error


@cli.command()
@click.option(
    "--out", type=click.Path(), default="runs/demo", show_default=True, help="Directory of the three runs."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@one_line_errors
def demo(out, seed):
    """See in two minutes what the auxiliary losses do where back-propagation is short.

    Trains an LSTM, an r-LSTM and a p-LSTM on MNIST at 14x14 with the same labels, whose gradient goes back 3 of
    196 steps. Ends with the accuracy of each, their curves, and what r reconstructs and p predicts. Two minutes on
    two cores. The LSTM ends near 61 %, r near 72, p near 78 (means of three seeds). An LSTM that trains for as
    long as p sees each label 13 times instead of 3, and comes to 77 %. The same command goes on where an earlier
    one stopped.
    """

    def draw(run, picture):
        reconstruct.callback(run=run, out=picture, data_dir=None)

    demonstration.demo(out, seed, train_run, draw, click.echo)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="All figures as one JSON object.")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Timed training steps of each case."
)
@click.option("--case", "what", type=click.Choice(["lstm", "none", "r", "p"]), multiple=True, help="Only such.")
@click.option("--batch-size", type=click.IntRange(1), multiple=True, help="Only batches of so many sequences.")
@click.option("--steps", type=click.IntRange(302), multiple=True, help="Only sequences so long.")
@click.option("--threads", type=click.IntRange(1, 256), help="Worker processes on the CPU.  [default: all cores]")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True)
@one_line_errors
def bench(as_json, rounds, what, batch_size, steps, threads, device):
    """Time training steps, and PyTorch's in turn, from the same weights on the same inputs.

    On two cores it takes a quarter of an hour, with PyTorch; `--steps 784 --case none --batch-size 32` a minute.
    --case, --batch-size and --steps may be repeated. A figure is the median of the rounds, a ratio the median of
    the rounds' ratios. MB: the rise of the processes' peaks since before the first step. Let nothing
    else run: PyTorch's threads wait for each other at every step, our processes once a batch, so a busy machine
    flatters ours.

    \b
    tuned        PyTorch keeps freed memory for the next batch, as ours does: it is started with
                 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 (works with glibc)
    as it comes  PyTorch gives freed memory back to the system, and pays for it in page faults
    speed-up     PyTorch's time divided by ours
    LSTM alone   forward and backward of one layer
    folded       the input embeddings are folded into PyTorch's LSTMs, too
    own outputs  r's decoder is fed its own outputs; elsewhere it is the truth
    of sgemm     operations of the matrix products, against the rate of large ones in the
                 same round (on a busy machine that can pass 100 %)

    Under mpiexec it times a training step on all ranks, on one, and how much of it is communication.
    On the GPU the LSTM alone also runs by the slower paths that other widths take, and by PyTorch's cuDNN.

    \b
    a kernel a step  a product and one kernel for each step, instead of a kernel for many
    op by op         NumPy's code as it stands, on CuPy
    of copy          the bytes that must be moved at least, against the rate of a large copy
    times            how many times as long it takes as ours
    """
    from minaux.bench import cpu as bench
    from minaux.bench import gpu as bench_gpu
    from minaux.bench import ranks as bench_ranks

    timed = bench_ranks if ranks.size() > 1 else bench_gpu if device == "gpu" else bench
    cases = bench.chosen(timed.cases(steps or timed.LENGTHS), what, batch_size)
    if ranks.size() > 1:
        if threads or device == "gpu":
            raise UserError("bench: each rank is one process on the CPU; leave --threads and --device out")
        machine, found = bench_ranks.machine(), (bench_ranks.measure(case, rounds) for case in cases)
    elif device == "gpu":
        xp, _ = backend("gpu")
        machine, found = bench_gpu.machine(xp, rounds), bench_gpu.run(xp, cases, rounds)
    else:
        threads = threads or min(cores(), 256)
        machine, found = bench.machine(threads, rounds), bench.bench(threads, cases, rounds)
    if as_json:
        return click.echo(json.dumps({"machine": machine, "rows": list(found)}))
    click.echo("\n".join(timed.head(machine)))
    for row in found:
        tqdm.write(timed.line(row))


def main():
    """The command `minaux`, and what `python cli.py` runs."""
    if HEARD:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    show_all()
    try:
        run_program(cli)
    except OSError as error:  # outside of a command: --help into a full disk, say
        sys.exit(f"Error: {told(error)}")


if __name__ == "__main__":
    main()
