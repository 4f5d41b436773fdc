"""What `--help` prints: an overview, and a page for each verb."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_GROUPS = "model data loss optimizer scheduler trainer callbacks logger eval protocol engine debug paths"
_COMMON = (
    "Results go below outputs/ (paths.outputs_dir=DIR, or REDI_LAB_OUTPUTS); paths.output_dir=DIR names the folder."
)

_VERBS: dict[str, tuple[str, str]] = {
    "train": (
        "train an experiment (also without a verb): the embedded demo, or +experiment=NAME",
        f"""\
[train] [+experiment=NAME] [GROUP=CHOICE ...] [KEY=VALUE ...]

Stages that an experiment starts from are trained once and reused. An interrupted run goes on with the same command, or
with resume=RUN_DIR; resume=never starts anew. Several values of a key, one run each: -m loss.alpha=0.2,0.5,0.8
Groups: {_GROUPS}
Hydra's flags work, too: --cfg job shows the composed configuration, --hydra-help lists them.""",
    ),
    "evaluate": (
        "score a Hugging Face folder on a benchmark, or compare results",
        """\
evaluate checkpoint=FOLDER [eval=math500|aime24|...|paper_suite|jsonl] [protocol=quick|paper] [engine=vllm]
evaluate checkpoint=FOLDER protocol=are_you_sure|negative|eccentric|premise|...    each problem in several ways
evaluate checkpoint=FOLDER sequential.width=0.02 | sequential.better_than=FOLDER    stop when that is answered
evaluate compare OLD_RESULTS NEW_RESULTS [NEW_RESULTS ...]      are these weights better?
evaluate compare --over-seeds RESULTS RESULTS RESULTS RESULTS [...]     is this way to train better? two seeds of each

See docs/benchmarks.md, docs/protocols.md and docs/statistics.md.""",
    ),
    "generate": (
        "sample a Hugging Face folder's own traces of problems, graded, to curate and train on",
        """\
generate checkpoint=FOLDER eval=fresh|jsonl|gsm8k|... [stop.right=N stop.wrong=M] [engine=vllm]

The same command goes on where it was interrupted. See docs/generate.md.""",
    ),
    "chat": (
        "talk with a checkpoint, asked as its training asked; or answer what is piped in",
        """\
chat checkpoint=FOLDER [temperature=0.6] [top_p=0.95] [seed=42] [max_new_tokens=N] [base=MODEL]
chat checkpoint=FOLDER prompt=TEXT       one answer and no more; so does: chat checkpoint=FOLDER < QUESTION

FOLDER is a Hugging Face folder, the results folder of a training, or an adapter (base=MODEL if its model was moved).
Greedy: temperature=0. Typing /new begins another conversation, Ctrl-C ends an answer.""",
    ),
    "merge": (
        "write an adapter and the model under it as one Hugging Face folder",
        "merge checkpoint=ADAPTER_FOLDER to=FOLDER [base=MODEL]",
    ),
    "curate": (
        "from raw generations to demonstrations and pairs, or look at the result",
        """\
curate data=openr1_math|openr1_220k|jsonl data.path=FILE [curation=paper|strict|grader]
curate preview path=RESULTS_FOLDER [n=3] [tokenizer=FOLDER]
curate hygiene [data=... data.path=FILE] [examples=3]     what is wrong with its wrong traces beyond their answers
curate steps checkpoint=FOLDER data.path=FILE [steps.search=binary]     the first wrong step of its wrong traces
curate revthink data=jsonl|arithmetic|chains [data.path=FILE]     forward and backward reasoning, as three tasks
curate omega checkpoint=REWARD_FOLDER data.path=FILE     weights of its tokens, by a token reward model
curate advise [OVERRIDES of a training] [context=4] [pairs=3000]     which alpha its pairs bear, by counting

Train on the result with data=curated data.path=RESULTS_FOLDER. See docs/curation.md.""",
    ),
    "plan": (
        "say what memory, time, money and disk a training will need, and which settings fit",
        """\
plan [OVERRIDES of a training] [gpu=h100|h200|a100|l40s|rtx4090|cpu] [devices=N] [nodes=N] [price=PER_DEVICE_HOUR]
plan [...] examples=N median=TOKENS longest=TOKENS    lengths are assumed, and no data is read

Without gpu= it is the device of this machine. No weights are loaded. See docs/planning.md.""",
    ),
    "sweep": (
        "search settings with Optuna; the same command continues a study, or joins it",
        """\
sweep +sweeps=NAME [sweep.KEY=VALUE ...] [OVERRIDES of its runs]

See docs/sweeps.md.""",
    ),
    "paper": (
        "make a table or figure of the paper again, from trainings that are reused",
        """\
paper                       list tables and figures
paper table2|figure3|tables|figures|all [scale=embedded|paper] [seeds=N] [workers=N] [OVERRIDES of its runs]

Trainings that are there are reused, and an interrupted command goes on. See docs/paper.md.""",
    ),
    "grade": (
        "add a verdict and its reason to every row of a file",
        """\
grade FILE.jsonl [prediction=KEY] [gold=KEY] [answers=boxed|marker|last_number] [workers=N]

See docs/grading.md.""",
    ),
    "compare": (
        "put runs side by side: a page, and the link into MLflow",
        """\
compare [RUN RUN ...] [last=2] [port=5000]

RUN is a results folder, an MLflow run id or a run's name; without one, the last two are taken.""",
    ),
    "runs": (
        "list runs with state, score and size, or remove what is no longer needed",
        """\
runs                        every run below outputs/, newest last
runs clean [keep_days=N]    what can go, and how much that frees; nothing is removed
runs clean yes=true         remove it

Safe to remove: training states of finished runs, and interrupted runs whose command has begun another one since.
Add interrupted=true for what could still be continued. Checkpoints, results and metrics of finished runs stay.""",
    ),
    "doctor": (
        "say what works on this machine, what does not, and the command that fixes it",
        "doctor [engine.python=PATH]",
    ),
    "slurm": (
        "print the batch file of a training on a SLURM cluster",
        """\
slurm [+experiment=NAME ...] [nodes=1] [gpus=1] [hours=24] > train.sbatch

gpus is of each node. Then: sbatch train.sbatch. See docs/cluster.md.""",
    ),
    "ui": ("serve the MLflow UI on 127.0.0.1", "ui [port=5000]"),
    "upload": (
        "make MLflow complete after its store failed, or copy a run to another store",
        "upload RUN_DIR [tracking_uri=URI]",
    ),
}


def overview() -> str:
    """All verbs, a line each."""
    lines = [f"  {verb:<10} {summary}" for verb, (summary, _) in _VERBS.items()]
    return "\n".join(
        [
            "Usage: redi-lab [VERB] [KEY=VALUE ...]        (or: python -m redi_lab ...)",
            "",
            *lines,
            "",
            "redi-lab VERB --help says more about a verb, redi-lab --version which version this is.",
            _COMMON,
        ]
    )


def page(verb: str) -> str:
    """How a verb is called."""
    summary, usage = _VERBS[verb]
    lines = usage.splitlines()
    commands = [f"  redi-lab {line}" if line and not line[0].isupper() else line for line in lines]
    return "\n".join([f"{verb}: {summary}", "", *commands, "", _COMMON])


def installed_version() -> str:
    """`redi-lab 0.1.0`."""
    try:
        return f"redi-lab {version('redi-lab')}"
    except PackageNotFoundError:  # a checkout that is on the path and not installed
        return "redi-lab (not installed: a checkout)"
