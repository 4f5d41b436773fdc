# ruff: noqa: E501 (a case is a line)
"""Mistakes in overrides and in YAML files of experiments, studies, and settings of all verbs."""

from __future__ import annotations

from pathlib import Path

from tests.bad_input.world import Case, Command, World, given

_LONG = "a" * 300  # of which a file system allows 255

_TRAIN: dict[str, str] = {
    # unknown keys and options
    "loss.alhpa=0.3": r"unknown key loss\.alhpa: loss has alpha, log_entropy \(did you mean alpha\?\)",
    "+foo=1": r"unknown key foo: the configuration has name, seed",
    "+trainer.foo=3": r"unknown key trainer\.foo: trainer has accelerator",
    "+scheduler.foo=3": r"unknown key scheduler\.foo: scheduler has name, warmup_ratio",
    "eval.grader.foo=0": r"unknown key eval\.grader\.foo: eval\.grader has num_workers",
    "model.config.hidden_siez=97": r"unknown key model\.config\.hidden_siez: .*did you mean hidden_size",
    "model.lora.r=3": r"model\.lora\.r: what is not there yet is added one by one: \+model\.lora\.r=VALUE",
    "engine.foo=1": r"unknown key engine\.foo: engine has max_batch_tokens",
    "loss=rdi": r"loss=rdi: no such option; choose dpo, .*did you mean redi",
    "loss=": r"loss=: no such option; choose dpo, mild_redi, redi",
    "loss=null": r"loss=null: no such option; choose dpo, mild_redi, redi",
    "loss=../loss/redi": r"loss=\.\./loss/redi: no such option; choose dpo, mild_redi, redi",
    "trainer=[]": r"trainer is missing, and train reads it: drop ~trainer",
    "model=3": r"model=3: no such option; choose hf",
    "debug=foo": r"debug=foo: no such option; choose fast, none, traceback",
    "~callbacks": r"callbacks is missing, and train reads it: drop ~callbacks",
    "~loss": r"loss is missing, and train reads it: drop ~loss",
    "~optimizer.lr": r"optimizer\.lr is required: add optimizer\.lr=VALUE",
    "defaults=[]": r"unknown key defaults: the configuration has paths",
    "hydra.run.dir=/tmp": r"hydra\.run\.dir=/tmp: Hydra's settings work beside its flags alone; paths\.output_dir=DIR",
    "logger=foo": r"logger=foo: no such option; choose mlflow, none",
    # what is no override at all
    "=3": r"=3: cannot be read as KEY=VALUE; write a key",
    'loss.alpha="0.5': r'loss\.alpha="0\.5: cannot be read as KEY=VALUE .*; quote what holds',
    "init_overrides=[a=1]": r"init_overrides=\[a=1\]: cannot be read as KEY=VALUE .*; quote what holds =",
    "name=${seed": r"name=\$\{seed: cannot be read as KEY=VALUE .*; quote what holds",
    "loss.alpha=0.5,0.6": r"loss\.alpha=0\.5,0\.6: several values need -m",
    "+loss.alpha=0.5": r"\+loss\.alpha: is there already; drop the \+",
    # interpolations
    "paths.outputs_dir=${nowhere}": r"paths\.outputs_dir: Interpolation key 'nowhere' not found; correct what stands",
    "paths.outputs_dir=${oc.env:NOWHERE_AT_ALL}": r"paths\.outputs_dir: .*variable 'NOWHERE_AT_ALL' not found.*; correct",
    "paths.outputs_dir=${foo:bar}": r"paths\.outputs_dir: Unsupported interpolation type foo; correct what stands",
    "paths.cache_dir=${paths.cache_dir}": r"paths\.cache_dir: Recursive interpolation detected; correct what stands",
    # wrong types
    "loss.alpha=high": r"loss\.alpha=high: must be a number",
    "loss.alpha=null": r"loss\.alpha=null: must be a number",
    "loss.alpha=true": r"loss\.alpha=True: must be a number",
    "loss.alpha={a:1}": r"loss\.alpha=\{'a': 1\}: must be a number",
    "data.batch_size=1.5": r"data\.batch_size=1\.5: must be a whole number",
    "data.prompt_template=[1]": r"data\.prompt_template=\[1\]: must be a text",
    "data.source=null": r"data\.source=null: must be a mapping \{KEY: VALUE\}",
    "data.source.num_heldout=x": r"data\.source\.num_heldout=x: must be a whole number of at least 0",
    "model.config=3": r"model\.config=3: must be a mapping \{KEY: VALUE\} or null",
    "model.config.hidden_size=x": r"model\.config\.hidden_size=x: must be a whole number of at least 1",
    "model.vocab_size=x": r"model\.vocab_size=x: must be a whole number or null",
    "eval.grader=3": r"eval\.grader=3: must be a mapping \{KEY: VALUE\}",
    "eval.seed=x": r"eval\.seed=x: must be a whole number",
    "callbacks.collapse=3": r"callbacks\.collapse=3: must be null, which switches it off",
    "debug.traceback=maybe": r"debug\.traceback=maybe: must be true or false",
    "model.gradient_checkpointing=2": r"model\.gradient_checkpointing=2: must be full, selective or none",
    "seed=true": r"seed=True: must be a whole number from 0 to 4294967295",
    "seed=1e3": r"seed=1000\.0: must be a whole number from 0",
    "init_from=3": r"init_from=3: neither a Hugging Face folder",
    "init_overrides=3": r"init_overrides=3: must be a list of texts",
    "init_overrides=[3]": r"init_overrides=\[3\]: must be a list of texts",
    "optimizer.betas=0.9": r"optimizer\.betas=0\.9: must be two numbers in \[0, 1\)",
    "optimizer.fused=maybe": r"optimizer\.fused=maybe: must be true, false or null",
    "trainer.deterministic=perhaps": r"trainer\.deterministic=perhaps: must be true, false or warn",
    "logger.experiment_name=null": r"logger\.experiment_name=null: must be a text",
    # out of range
    "loss.alpha=1.5": r"loss\.alpha=1\.5: must be in \[0, 1\]",
    "loss.alpha=nan": r"loss\.alpha=nan: must be in \[0, 1\]",
    "loss.alpha=1e400": r"loss\.alpha=inf: must be in \[0, 1\]",
    "optimizer.lr=0": r"optimizer\.lr=0: must be a number above 0",
    "optimizer.lr=null": r"optimizer\.lr is required: add optimizer\.lr=VALUE",
    "optimizer.eps=-1": r"optimizer\.eps=-1: must be a number above 0",
    "optimizer.betas=[0.9,2]": r"optimizer\.betas=\[0\.9, 2\]: must be two numbers in \[0, 1\)",
    "optimizer.weight_decay=-1": r"optimizer\.weight_decay=-1: must be a number of at least 0",
    "scheduler.warmup_ratio=10": r"scheduler\.warmup_ratio=10\.0: must be in \[0, 1\]",
    "seed=4294967296": r"seed=4294967296: must be a whole number from 0 to 4294967295",
    "trainer.max_epochs=0": r"trainer\.max_epochs=0: must be a whole number of at least 1",
    "trainer.max_epochs=-1": r"trainer\.max_epochs=-1: must be a whole number of at least 1 \(or -1 beside",
    "trainer.max_steps=0": r"trainer\.max_steps=0: must be a whole number of at least 1, or -1",
    "trainer.accelerator=quantum": r"trainer\.accelerator=quantum: must be one of auto, cpu",
    "trainer.val_check_interval=-1": r"trainer\.val_check_interval=-1: must be a share",
    "+trainer.limit_train_batches=1.5": r"trainer\.limit_train_batches=1\.5: must be a share from 0\.0 to 1\.0 or a num",
    "+trainer.max_time=soon": r"trainer\.max_time=soon: must be a time DD:HH:MM:SS",
    "model.config.num_hidden_layers=-1": r"model\.config\.num_hidden_layers=-1: must be a whole number of at least 1",
    "model.vocab_size=3": r"model\.vocab_size=3: must be at least 257",
    "data.source.num_problems=0": r"data\.source\.num_problems=0: must be a whole number of at least 1",
    "data.max_prompt_tokens=0": r"data\.max_prompt_tokens=0: must be a whole number of at least 1",
    "eval.num_samples=1000000000000": r"eval\.num_samples=1000000000000: must be at most 100,000",
    "eval.grader.num_workers=1000000": r"eval\.grader\.num_workers=1000000: must be at most 1,024",
    f"data.development_path={_LONG}": r"a{300}: File name too long; give a shorter path",
    "eval.top_p=0": r"eval\.top_p=0\.0: must be in \(0, 1\]",
    "callbacks.probes.num_examples=true": r"callbacks\.probes\.num_examples=True: must be a whole number of at least 1",
    "callbacks.checkpoints.monitor=0": r"callbacks\.checkpoints\.monitor=0: no such metric",
    "eval.grader.memory_mb=-5": r"eval\.grader\.memory_mb=-5: must be at least 512",
    "engine.device=tpu": r"engine\.device=tpu: must be auto, cpu, mps",
    "callbacks.state.keep_last=0": r"callbacks\.state\.keep_last=0: must be a whole number of at least 1",
    "callbacks.numerics.explosion=1": r"callbacks\.numerics\.explosion=1: must be a number above 1",
    "logger.flush_seconds=0": r"logger\.flush_seconds=0\.0: must be a number above 0",
    # choices that are none
    "model.dtype=float64": r"model\.dtype=float64: must be one of float32, bfloat16, float16",
    "eval.benchmark=maths": r"eval\.benchmark=maths: must be one of null, heldout",
    "callbacks.collapse.action=explode": r"callbacks\.collapse\.action=explode: must be one of warn, stop",
    "trainer.devices=2": r"trainer\.devices=2: must be 1",
    "data.student_tokenizer=foo": r"data\.student_tokenizer=foo: must be one of arithmetic, bpe",
    "loss._target_=os.system": r"loss\._target_=os\.system .*choose an objective with loss=NAME",
    "logger.tracking_uri=ftp://x": r"logger\.tracking_uri=ftp://x: give sqlite:////absolute",
    "logger.tracking_uri=sqlite:///rel.db": r"logger\.tracking_uri=sqlite:///rel\.db: give sqlite:////absolute",
    # what is not there
    "data=jsonl": r"data\.path is required and has no default: add data\.path=VALUE",
    "data.development_path=/nowhere": r"data\.development_path=/nowhere: no such file; give a JSONL file",
    "init_from=demo_stf": r"init_from=demo_stf: neither a Hugging Face folder .*did you mean demo_sft",
    "resume=/nowhere": r"resume=/nowhere: no run\.json there; name the results folder",
    "+experiment=redi_9b": r"experiment=redi_9b: no such option; .*did you mean redi_1p5b",
    # names that lead elsewhere
    "name=../../x": r"name=\.\./\.\./x: names files, so it must be made of letters",
    "name=/abs": r"name=/abs: names files, so it must be made of letters",
    "name=": r"name=: names files, so it must be made of letters",
    "eval.name=a/b": r"eval\.name=a/b: names files, so it must be made of letters",
    "+experiment=../../x": r"experiment=\.\./\.\./x: no such option; choose demo",
    "+experiment=/etc/passwd": r"experiment=/etc/passwd: no such option; choose demo",
    "paths.output_dir=": r"paths\.output_dir=: give a folder",
    # contradictions
    "callbacks.checkpoints.monitor=val/loss": r"callbacks\.checkpoints\.monitor=val/loss: no such metric .*choose",
    "+eval.members.a={}": r"eval\.members: heldout is no suite and has no members",
    "model.dtype=bfloat16": r"model\.dtype=bfloat16: small steps would be rounded away; keep float32",
    "model.tokenizer=null": r"model\.tokenizer=null: a new model needs one; choose arithmetic",
    "eval=paper_suite": r"eval=paper_suite: training is judged on one benchmark; choose one",
}

_TRAIN_TOGETHER: dict[tuple[str, ...], str] = {
    (
        "+experiment=demo",
        "+experiment=demo_sft",
    ): r"\+experiment=demo \+experiment=demo_sft: one run has one experiment",
    ("loss=dpo", "loss.reference=null"): r"loss\.reference=null: DPO needs a reference; choose init",
    ("loss=dpo", "init_from=null"): r"loss\.reference=init: DPO needs a trained reference.*set init_from",
    ("loss=simpo", "loss.gamma=-1"): r"loss\.gamma=-1\.0: must be a number of at least 0",
    ("loss=simpo", "callbacks.collapse.alpha_factor=0.5"): r"callbacks\.collapse\.alpha_factor=0\.5: .*leave it at 1",
    ("model=hf", "name=own", "model.path="): r"model\.path=: no such Hugging Face folder",
    (
        "model=hf",
        "name=own",
        "model.path=.",
    ): r"model\.path=\.: no Hugging Face folder there \(config\.json is missing\)",
    ("data.num_development=0", "callbacks.accuracy.every_n_steps=10"): r".*no problems to measure .*set data\.num_dev",
    ("eval=jsonl", "eval.path=."): r"eval\.path=\.: no such file; give a JSONL file",
    ("-m", "loss.alpha=7,0.2"): r"loss\.alpha=7\.0: must be in \[0, 1\]",
    ("-m", "name=../x"): r"name=\.\./x: names files",
    ("-m", "+experiment=../x"): r"experiment=\.\./x: no such option; choose demo",
    ("init_from=demo_sft", "init_overrides=['foo=1']"): r"in the stage init_from=demo_sft: unknown key foo: .*has",
}

# Told by the signatures of the classes, which takes the import of torch.
_SIGNATURES: dict[str, str] = {
    "optimizer._target_=os.system": r"optimizer\._target_=os\.system: cannot be imported; name a class",
    "optimizer._target_=nowhere.Adam": r"optimizer\._target_=nowhere\.Adam: cannot be imported; name a class",
    "+optimizer.foo=1": r"unknown key optimizer\.foo: AdamW takes .*weight_decay",
    "data.source._target_=redi_lab.nowhere.Source": r"data\.source\._target_=redi_lab\.nowhere\.Source: cannot be imported",
    "data.source._target_=null": r"data\.source\._target_=None: cannot be imported; name a class",
    "data.source._target_=pathlib.Path": r"data\.source\._target_=pathlib\.Path: is not what data\.source needs",
    "data.source.seed=x": r"data\.source\.seed=x: must be a whole number",
    "+data.source.foo=1": r"unknown key data\.source\.foo: ArithmeticSource takes num_problems",
    "callbacks.probes._target_=builtins.dict": r"callbacks\.probes\._target_=builtins\.dict: is not what .* needs",
    "+callbacks.probes.foo=1": r"unknown key callbacks\.probes\.foo: Probes takes",
    "callbacks.probes.every_n_steps=null": r"callbacks\.probes\.every_n_steps=null: must be a whole number",
    "callbacks.state.keep_last=null": r"callbacks\.state\.keep_last=null: must be a whole number",
    "callbacks.accuracy.num_samples=null": r"callbacks\.accuracy\.num_samples=null: needs a value; drop it",
    "engine.max_batch_tokens=null": r"engine\.max_batch_tokens=null: must be a whole number",
    "+engine.foo=1": r"unknown key engine\.foo: TransformersEngine takes max_batch_tokens",
}

_OTHER_VERBS: dict[tuple[str, ...], str] = {
    ("trian",): r"unknown verb trian; choose one of train",
    ("evaluate",): r"checkpoint is required and has no default: add checkpoint=VALUE",
    ("evaluate", "checkpoint=/nowhere"): r"checkpoint=/nowhere: no Hugging Face folder there",
    ("evaluate", "checkpoint=.", "+model=student"): r"unknown key model: the configuration has name, seed, checkpoint",
    ("evaluate", "compare", "a"): r"usage: evaluate compare OLD_FOLDER NEW_FOLDER",
    ("evaluate", "compare", "a", "b"): r"a: no results folder with a readable summary\.json",
    ("curate",): r"data is required and has no default: add data=NAME, one of",
    ("curate", "data=jsonl", "data.path=/nowhere"): r"data\.path=/nowhere: no such file or folder, and not a hub id",
    ("curate", "preview"): r"curate preview: path=FOLDER is required",
    ("curate", "preview", "path=/nowhere"): r"/nowhere: no sft\.parquet there; give the results folder",
    ("curate", "preview", "path=.", "n=x"): r"curate preview: n=x: must be a whole number",
    ("curate", "data.source.num_heldout=3"): r"data\.source\.num_heldout: curate keeps every problem; hold",
    ("grade",): r"grade takes one file: redi-lab grade FILE\.jsonl",
    ("grade", "/nowhere.jsonl"): r"/nowhere\.jsonl: cannot be read: .*",
    ("grade", "a.jsonl", "workers=0"): r"grade takes one file: .*N from 1 on",
    ("compare", "foo=1"): r"unknown key foo: allowed are last, port",
    ("compare", "last=x"): r"last=x: must be a whole number",
    ("compare", "last=²"): r"last=²: must be a whole number",
    ("compare", "last=" + "9" * 5000): r"last=9+: must be a whole number",
    ("compare", _LONG, "b"): r"a{300}/metrics\.jsonl: File name too long; give a shorter path",
    ("evaluate", f"checkpoint={_LONG}"): r"a{300}/config\.json: File name too long; give a shorter path",
    ("upload",): r"upload takes one results folder",
    ("upload", "/nowhere"): r"/nowhere/mlflow\.json does not exist: name the output folder",
    ("ui", "port=99999"): r"port must lie between 1 and 65535, got 99999",
    ("ui", "logger.tracking_uri=https://host"): r"https://host is not a local database: open that address",
}

_SWEEP: dict[tuple[str, ...], str] = {
    (): r"sweep: name a study, \+sweeps=NAME with one of .* or name=NAME",
    ("+sweeps=../x",): r"sweeps=\.\./x: no such study; choose one of alpha_lr",
    ("name=../x",): r"name=\.\./x: names files",
    ("name=s", "--flag"): r"--flag: sweep takes no flags",
    ("name=s",): r"sweep\.space is empty: name what is searched",
    ("name=s", "sweep.space={loss.alpha:0.5}"): r"sweep\.space\.loss\.alpha=0\.5: give a list of choices",
    ("name=s", "sweep.space={loss.alpha:[0.5,0.5]}"): r"sweep\.space\.loss\.alpha=.*: a choice is repeated",
    (
        "name=s",
        "sweep.space={loss.alpha:{low:1,high:0}}",
    ): r"sweep\.space\.loss\.alpha: a range needs numbers low < high",
    (
        "name=s",
        "sweep.space={loss.alpha:{low:0,high:1}}",
    ): r"sweep\.space\.loss\.alpha: .*say which are meant with type",
    ("name=s", "sweep.space={loss.alpha:{lo:0,high:1}}"): r"unknown key sweep\.space\.loss\.alpha\.lo: a parameter has",
    ("name=s", "sweep.space={loss.alpha:[0.5,7]}"): r"sweep\.space at loss\.alpha=7: loss\.alpha=7\.0: must be in",
    (
        "name=s",
        "sweep.space={loss.alhpa:[0.5]}",
    ): r"sweep\.space at loss\.alhpa=0\.5: unknown key loss\.alhpa: .*alpha\?",
    ("name=s", "sweep.space={seed:[1,2]}"): r"sweep\.space\.seed: seeds are not searched",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.sampler=best"): r"sweep\.sampler=best: must be one of tpe",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.seeds=3"): r"sweep\.seeds=3: must be a list, each item a whole",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.seeds=[a]"): r"sweep\.seeds\[0\]=a: must be a list, each item",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.seeds=[]"): r"sweep\.seeds=\[\]: name at least one seed",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.metric=val/x"): r"sweep\.metric=val/x: .*choose one of",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.storage=redis://x"): r"sweep\.storage=redis://x: must begin",
    (
        "name=s",
        "sweep.space={loss.alpha:[0.5]}",
        "sweep.storage=sqlite:///x",
    ): r"sweep\.storage=.*: give .* absolute path",
    ("name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.num_trials=0"): r"sweep\.num_trials=0: must be a whole number",
}

_BOMB = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))

_YAML: dict[str, tuple[str | bytes, str]] = {
    "control characters": (
        b"# @package _global_\nname: \x00\n",
        r".*experiment/mine\.yaml: unacceptable character .*UTF-8",
    ),
    "random bytes": (bytes(range(255, 0, -1)), r".*experiment/mine\.yaml: 'utf-8' codec .*; correct it, or save it"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), r".*experiment/mine\.yaml: 'utf-8' codec .*; correct it, or save it"),
    "an alias of itself": ("# @package _global_\na: &a [*a]\n", r".*experiment/mine\.yaml: its aliases stand for .*"),
    "an alias bomb": ("# @package _global_\n" + _BOMB, r".*experiment/mine\.yaml: its aliases stand for more than .*"),
    "lists 5,000 deep": ("a: " + "[" * 5000, r".*experiment/mine\.yaml: is nested too deeply; correct it"),
    "a number of 5,000 digits": ("a: " + "9" * 5000, r".*experiment/mine\.yaml: .*5000 digits.*; correct it"),
    "broken YAML": ("a: [1, 2", r".*experiment/mine\.yaml, line \d+: .*; correct the YAML"),
    "a tab": ("a:\n\tb: 1", r".*experiment/mine\.yaml, line \d+: .*; correct the YAML"),
    "a list": ("- a\n- b\n", r"experiment: its YAML file must begin with # @package _global_"),
    "a missing option": (
        "# @package _global_\ndefaults:\n  - override /loss: nowhere\n",
        r"loss=nowhere: no such option; choose dpo",
    ),
    "an unknown key": ("# @package _global_\nfoo: 1\n", r"unknown key foo: the configuration has name"),
    "a key twice": (
        "# @package _global_\nseed: 1\nseed: 2\n",
        r".*experiment/mine\.yaml, line 3: found duplicate key seed; correct",
    ),
    "a wrong type": (
        "# @package _global_\ndata:\n  batch_size: many\n",
        r"data\.batch_size=many: must be a whole number",
    ),
}


def _with_experiment(text: str | bytes) -> Command:
    def command(world: World) -> list[str]:
        world.write("conf/experiment/mine.yaml", text)
        return ["-cd", str(Path(world.folder) / "conf"), "+experiment=mine"]

    return command


KINDS = {
    "an override of train": [Case(o, given(o), m) for o, m in _TRAIN.items()],
    "overrides that contradict each other": [Case(" ".join(o), given(*o), m) for o, m in _TRAIN_TOGETHER.items()],
    "settings that a class does not take": [Case(o, given(o, "logger=none"), m) for o, m in _SIGNATURES.items()],
    "arguments of other verbs": [Case(" ".join(o), given(*o), m) for o, m in _OTHER_VERBS.items()],
    "a sweep": [Case(" ".join(("sweep", *o)), given("sweep", *o), m) for o, m in _SWEEP.items()],
    "an experiment's YAML": [Case(n, _with_experiment(t), m) for n, (t, m) in _YAML.items()],
}
