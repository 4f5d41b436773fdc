# ruff: noqa: E501 (a case is a line)
"""Mistakes in overrides and in YAML files, as commands. Wrong values of single settings: tests/config/test_settings.py."""

from __future__ import annotations

from tests.bad_input.world import Act, Case, World, given

_LONG = "a" * 300  # of which a file system allows 255

_TRAIN: dict[tuple[str, ...], tuple[str, ...]] = {
    # unknown keys and options
    ("loss.alhpa=0.3",): ("unknown key loss.alhpa", "did you mean alpha?"),
    ("model.config.hidden_siez=97",): ("unknown key model.config.hidden_siez", "did you mean hidden_size?"),
    ("model.lora.rank=3",): ("model.lora.rank", "model/lora=default"),
    ("+callbacks.collapse.foo=1",): ("unknown key callbacks.collapse.foo",),
    ("loss=rdi",): ("loss=rdi", "did you mean redi?"),
    ("loss=",): ("loss=:", "dpo"),
    ("loss=null",): ("loss=null", "dpo"),
    ("loss=../loss/redi",): ("loss=../loss/redi", "dpo"),
    ("data=_base",): ("data=_base",),
    ("~callbacks",): ("callbacks is missing",),
    ("~optimizer.lr",): ("optimizer.lr",),
    ("trainer=[]",): ("trainer is missing",),
    ("hydra.run.dir=/tmp",): ("hydra.run.dir=/tmp",),
    # not an override at all
    ("=3",): ("=3", "KEY=VALUE"),
    ('loss.alpha="0.5',): ('loss.alpha="0.5', "KEY=VALUE"),
    ("name=${seed",): ("name=${seed", "KEY=VALUE"),
    ("loss.alpha=0.5,0.6",): ("loss.alpha=0.5,0.6", "-m"),
    ("+loss.alpha=0.5",): ("+loss.alpha", "drop the +"),
    # interpolations
    ("paths.outputs_dir=${nowhere}",): ("paths.outputs_dir", "nowhere"),
    ("paths.outputs_dir=${oc.env:NOWHERE_AT_ALL}",): ("paths.outputs_dir", "NOWHERE_AT_ALL"),
    ("paths.outputs_dir=${foo:bar}",): ("paths.outputs_dir", "foo"),
    ("paths.cache_dir=${paths.cache_dir}",): ("paths.cache_dir",),
    # what is not there
    ("data=jsonl",): ("data.path is required", "data.path=VALUE"),
    (f"data.development_path={_LONG}",): ("a" * 300, "shorter"),
    ("data.development_path=/nowhere",): ("data.development_path=/nowhere",),
    ("init_from=demo_stf",): ("init_from=demo_stf", "did you mean demo_sft?"),
    ("resume=/nowhere",): ("resume=/nowhere", "run.json"),
    ("+experiment=redi_9b",): ("experiment=redi_9b", "did you mean redi_1p5b?"),
    ("+experiment=../../x",): ("experiment=../../x",),
    ("+experiment=/etc/passwd",): ("experiment=/etc/passwd",),
    # contradictions
    ("model.dtype=bfloat16",): ("model.dtype=bfloat16", "float32"),
    ("init_from=null", "model/lora=default"): ("model/lora", "init_from=null", "model/lora=none"),
    ("model/lora=qlora", "init_from=.", "trainer.accelerator=mps"): ("model.lora.quantization=nf4", "mps"),
    ("model.tokenizer=null",): ("model.tokenizer=null",),
    ("+experiment=demo", "+experiment=demo_sft"): ("+experiment=demo +experiment=demo_sft",),
    ("loss=simpo", "callbacks.collapse.alpha_factor=0.5"): ("callbacks.collapse.alpha_factor=0.5",),
    ("model=hf", "name=own", "model.path=."): ("model.path=.", "config.json"),
    ("init_from=demo_sft", "init_overrides=['foo=1']"): ("init_from=demo_sft", "unknown key foo"),
    # through Hydra's own command line
    ("-m", "loss.alpha=7,0.2"): ("loss.alpha=7",),
    ("-m", "+experiment=../x"): ("experiment=../x",),
}

# Classes of others, held against their signatures, which takes the import of torch.
_SIGNATURES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("optimizer._target_=os.system",): ("optimizer._target_=os.system",),
    ("optimizer._target_=nowhere.Adam",): ("optimizer._target_=nowhere.Adam",),
    ("optimizer._target_=torch.optim.Adam", "+optimizer.foo=1"): ("unknown key optimizer.foo", "weight_decay"),
    ("optimizer._target_=torch.optim.Adam", "+optimizer.amsgrad=maybe"): ("optimizer.amsgrad=maybe",),
    ("data.source._target_=pathlib.Path",): ("data.source._target_=pathlib.Path",),
    ("callbacks.probes._target_=builtins.dict",): ("callbacks.probes._target_=builtins.dict",),
    ("optimizer._target_=redi_lab.callbacks.probes.Probes",): ("optimizer._target_=redi_lab.callbacks.probes.Probes",),
}

_OTHER_VERBS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("trian",): ("trian", "train"),
    ("evaluate",): ("checkpoint is required",),
    ("evaluate", "checkpoint=/nowhere"): ("checkpoint=/nowhere",),
    ("evaluate", f"checkpoint={_LONG}"): ("a" * 300, "shorter"),
    ("evaluate", "checkpoint=.", "+model=student"): ("unknown key model",),
    ("evaluate", "compare", "a"): ("evaluate compare [--over-seeds] OLD_FOLDER NEW_FOLDER",),
    ("evaluate", "compare", "a", "b"): ("a:", "summary.json"),
    ("generate", "checkpoint=."): ("eval is required",),
    ("generate", "checkpoint=/nowhere", "eval=fresh"): ("checkpoint=/nowhere",),
    ("generate", "checkpoint=.", "eval=none"): ("eval=none", "eval=fresh"),
    ("generate", "checkpoint=.", "eval=paper_suite"): ("eval=paper_suite", "single benchmark"),
    ("generate", "checkpoint=.", "eval=fresh", "stop.right=0"): ("stop.right=0", "at least 1"),
    ("generate", "checkpoint=.", "eval=fresh", "data=reasoning_gym"): ("data.source.tasks is required",),
    ("data=reasoning_gym", "data.source.tasks=[gcd]"): ("data=reasoning_gym", "generate"),
    ("curate", "data=reasoning_gym", "data.source.tasks=[gcd]"): ("nothing to curate",),
    ("curate",): ("data is required",),
    ("curate", "data=jsonl", "data.path=/nowhere"): ("data.path=/nowhere",),
    ("curate", "preview"): ("path=FOLDER",),
    ("curate", "preview", "path=/nowhere"): ("/nowhere", "sft.parquet"),
    ("curate", "preview", "path=.", "n=x"): ("n=x",),
    ("curate", "advise", "context=0"): ("context=0",),
    ("curate", "advise", "pairs=x"): ("pairs=x",),
    ("curate", "advise", "contxt=3"): ("contxt",),
    ("curate", "advise", "context"): ("context",),
    ("curate", "advise", "loss=sft"): ("loss", "pairs"),
    ("curate", "steps"): ("data.path is required",),
    ("curate", "steps", "data.path=.", "checkpoint=/nowhere"): ("checkpoint=/nowhere",),
    ("curate", "steps", "data.path=.", "checkpoint=.", "steps.recovery=1"): ("steps.recovery=1", "below 1"),
    ("curate", "omega"): ("data.path is required",),
    ("curate", "omega", "data.path=.", "checkpoint=/nowhere"): ("checkpoint=/nowhere",),
    ("curate", "omega", "data.path=.", "checkpoint=.", "omega.top_share=2"): ("omega.top_share=2", "at most 1"),
    ("loss=token_reward",): ("loss=token_reward", "callbacks.accuracy=null", "callbacks.collapse=null", "eval=none"),
    ("+experiment=token_reward", "loss.kl_weight=0.1"): ("loss.kl_weight=0.1", "at most 0"),
    ("+experiment=rounds", "init_from=null"): ("rounds=3", "init_from"),
    ("curate", "data.source.num_heldout=3"): ("data.source.num_heldout",),
    ("grade",): ("FILE.jsonl",),
    ("grade", "/nowhere.jsonl"): ("/nowhere.jsonl",),
    ("grade", "a.jsonl", "workers=0"): ("workers=0",),
    ("grade", "a.jsonl", "answers=x"): ("answers=x",),
    ("compare", "foo=1"): ("unknown key foo", "last, port"),
    ("compare", "last=²"): ("last=²",),
    ("compare", "last=" + "9" * 5000): ("last=9",),
    ("compare", _LONG, "b"): ("a" * 300,),
    ("runs", "yes=maybe"): ("yes=maybe",),
    ("upload",): ("RUN_DIR",),
    ("upload", "/nowhere"): ("/nowhere",),
    ("ui", "port=99999"): ("port=99999", "65535"),
    ("ui", "logger.tracking_uri=https://host"): ("https://host",),
}

_STUDY = ("name=s", "sweep.space={loss.alpha:[0.5]}")
_SWEEP: dict[tuple[str, ...], tuple[str, ...]] = {
    (): ("+sweeps=NAME",),
    ("+sweeps=../x",): ("sweeps=../x", "alpha_lr"),
    ("name=s",): ("sweep.space",),
    ("name=s", "sweep.space={loss.alpha:[0.5,7]}"): ("sweep.space", "loss.alpha=7"),
    ("name=../x",): ("name=../x",),
    ("name=s", "--flag"): ("--flag",),
    ("name=s", "sweep.space={loss.alpha:0.5}"): ("sweep.space.loss.alpha=0.5",),
    ("name=s", "sweep.space={loss.alpha:{low:1,high:0}}"): ("sweep.space.loss.alpha",),
    ("name=s", "sweep.space={loss.alhpa:[0.5]}"): ("sweep.space", "unknown key loss.alhpa", "alpha?"),
    ("name=s", "sweep.space={seed:[1,2]}"): ("sweep.space.seed",),
    (*_STUDY, "sweep.sampler=best"): ("sweep.sampler=best",),
    (*_STUDY, "sweep.seeds=[a]"): ("sweep.seeds[0]=a",),
    (*_STUDY, "sweep.seeds=[]"): ("sweep.seeds=[]",),
    (*_STUDY, "sweep.metric=val/x"): ("sweep.metric=val/x",),
    (*_STUDY, "sweep.storage=redis://x"): ("sweep.storage=redis://x",),
    (*_STUDY, "sweep.storage=sqlite:///x"): ("sweep.storage=",),
}

_BOMB = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))

_YAML: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "control characters": (b"# @package _global_\nname: \x00\n", ("experiment/mine.yaml",)),
    "random bytes": (bytes(range(255, 0, -1)), ("experiment/mine.yaml", "UTF-8")),
    "an alias of itself": ("# @package _global_\na: &a [*a]\n", ("experiment/mine.yaml", "alias")),
    "an alias bomb": ("# @package _global_\n" + _BOMB, ("experiment/mine.yaml", "alias")),
    "lists 1,100 deep": ("a: " + "[" * 1100, ("experiment/mine.yaml", "nested")),
    "a number of 5,000 digits": ("a: " + "9" * 5000, ("experiment/mine.yaml", "5000 digits")),
    "broken YAML": ("a: [1, 2", ("experiment/mine.yaml, line 1",)),
    "a list": ("- a\n- b\n", ("experiment", "@package _global_")),
    "a missing option": ("# @package _global_\ndefaults:\n  - override /loss: nowhere\n", ("loss=nowhere", "dpo")),
    "an unknown key": ("# @package _global_\nfoo: 1\n", ("unknown key foo",)),
    "a key twice": ("# @package _global_\nseed: 1\nseed: 2\n", ("experiment/mine.yaml, line 3", "seed")),
    "a wrong type": ("# @package _global_\ndata:\n  batch_size: many\n", ("data.batch_size=many",)),
}


def _with_experiment(text: str | bytes) -> Act:
    def command(world: World) -> list[str]:
        world.write("conf/experiment/mine.yaml", text)
        return ["-cd", str(world.folder / "conf"), "+experiment=mine"]

    return command


KINDS = {
    "an override of train": [Case(" ".join(o), given(*o), parts) for o, parts in _TRAIN.items()],
    "settings of another's class": [Case(" ".join(o), given(*o, "logger=none"), p) for o, p in _SIGNATURES.items()],
    "arguments of other verbs": [Case(" ".join(o), given(*o), parts) for o, parts in _OTHER_VERBS.items()],
    "a sweep": [Case(" ".join(("sweep", *o)), given("sweep", *o), parts) for o, parts in _SWEEP.items()],
    "an experiment's YAML": [Case(n, _with_experiment(text), parts) for n, (text, parts) in _YAML.items()],
}
