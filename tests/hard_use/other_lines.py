"""Bad command lines of the commands besides `lines.BASES`: wrong values of options, and wrong arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from place import LORA, TINY

RAW = "\udcff"
"""A byte that is not UTF-8, as the system hands it over."""
LONG = "a" * 20_001
QUICK = ("--model", str(TINY), "--size", "64", "--quiet")
LINES: Mapping[str, tuple[str, ...]] = {
    "train-generator": (
        *("train-generator", "many", "--style", str(LORA), "--pairs", "4", "--steps", "1", "--matching-steps", "0"),
        *("--output", "out", *QUICK),
    ),
    "tune": ("tune", "photo.png", "--style", str(LORA), "--distance", "0.3", "--output", "out", *QUICK),
    "evaluate": ("evaluate", "pictures", "results", "--style", "pictures", "--metrics", "histogram", "--quiet"),
    "compare": ("compare", "pictures", "results"),
    "benchmark": ("benchmark", "photo.png", "--style", str(LORA), "--methods", "sms", "--output", "out", *QUICK),
    "export": ("export", "generator.safetensors", "--out", "made.onnx", "--quiet"),
    "push": ("push", "generator.safetensors", "somebody/generator", "--quiet"),
    "studio": ("studio", "--no-browser", "--data", "studio"),
}
"""A line of each command, with all that it needs; each option is given a wrong value."""
APPLY = ("apply", "generator", "photo.png", "--out", "out", "--quiet")
PLACES = ("", "photo.png", "photo.png/below", "/dev/null/out", "/proc/out")
FOLDERS = ("", "nowhere", "pipe", "/dev/null", "bad/empty folder")
TABLES = ("", "nowhere", "photo.png", "pipe", "/dev/zero", "pictures", "bad/broken.json", "bad/binary.csv")
STYLES = ("nowhere", f"{LORA}=nan", f"{LORA}=9", f"{LORA}=much")
WEIGHTS = ("", "=", "clip", "clip=", "nothing=photo.png", "clip=nowhere", "alexnet=pipe", "alexnet=/dev/zero", RAW)
METRICS = ("", ",", "nothing", "histogram;csd", LONG)
DEVICES = ("", "gpu", "cuda:99", "cpu:3")
METHODS = ("", "nonsense", "SMS ")
VALUES: Mapping[tuple[str, str], Sequence[str]] = {
    ("train-generator", "--style"): STYLES,
    ("train-generator", "--name"): ("", ".x", "a b", "../a", LONG, RAW),
    ("train-generator", "--style-prompt"): (RAW, LONG),
    ("train-generator", "--caption"): (RAW, LONG),
    ("train-generator", "--captions"): TABLES,
    ("train-generator", "--licence"): (RAW, LONG),
    ("train-generator", "--model"): ("", "nowhere"),
    ("train-generator", "--style-model"): ("", "nowhere"),
    ("train-generator", "--from"): ("", "nowhere", "photo.png", "pipe", "bad/run of nothing", str(LORA)),
    ("train-generator", "--teacher"): ("", "nowhere", "photo.png", "pipe", "bad/run of nothing", str(LORA)),
    ("train-generator", "--preset"): ("", "Draft", "nonsense"),
    ("train-generator", "--network"): ("", "unet"),
    ("train-generator", "--method"): (*METHODS, "sdedit", "styleid", "freestyle"),
    ("train-generator", "--pair-folder"): PLACES,
    ("train-generator", "--output"): PLACES,
    ("train-generator", "--resume"): ("", "nowhere", "photo.png"),
    ("train-generator", "--device"): DEVICES,
    ("train-generator", "--dtype"): ("", "half"),
    ("train-generator", "--set"): (
        *("", "=", "run=3", "run.method=3", "run.method=[1]", "run.styles=3", "run.method.nothing=1", "pairs=3"),
        *("pairs.count=nan", "pairs.count=1e9", "pairs.count=3", "pairs.teacher_passes=9", "pairs.teacher_passes=2"),
        *("pairs.teacher_strength=0", "width=129", "width=1e400", "blocks=33", "ema=1"),
        *("clip_norm=0", "beta1=1", "accumulate=0", "held_out=0", "patience=1e9", "workers=65", "file_dtype=int8"),
        *("regression=[]", "regression.steps=true", "regression.learning_rate=inf", "regression.perceptual_t=1000"),
        *("regression.optimiser=sgd", "matching.optimiser=3", "regression.crop=12", "regression.flip=maybe"),
        *("regression.adversarial=-1", "regression.texture=-1", "stability=nan", "passes=9", "strength=0"),
        *("matching.fake_steps=101", "matching.method.method='sdedit'", "matching.method.fake.rank=1e9", "noise=2"),
        *("run.method.iterations=0", "run.method.consistent_noise=1.5", "name='a/b'", "network=5", "size=65"),
    ),
    ("tune", "--style"): STYLES,
    ("tune", "--distance"): ("0", "10", "1e-400"),
    ("tune", "--metric"): ("", "lpips", LONG),
    ("tune", "--weights"): (*WEIGHTS, "alexnet=photo.png"),
    ("tune", "--tolerance"): ("0", "1"),
    ("tune", "--trials"): ("0", "2", "21"),
    ("tune", "--prompt"): (RAW, LONG),
    ("tune", "--model"): ("", "nowhere"),
    ("tune", "--method"): (*METHODS, "styleid"),
    ("tune", "--preset"): ("", "nowhere", "bad/nested.toml"),
    ("tune", "--set"): ("", "iterations=0", "nothing=1"),
    ("tune", "--size"): ("1", "8193"),
    ("tune", "--device"): DEVICES,
    ("tune", "--output"): PLACES,
    ("evaluate", "--style"): FOLDERS,
    ("evaluate", "--prompt"): (RAW, LONG, "{caption}"),
    ("evaluate", "--source-prompt"): (RAW, LONG),
    ("evaluate", "--size"): ("1", "63", "4097"),
    ("evaluate", "--metrics"): METRICS,
    ("evaluate", "--weights"): WEIGHTS,
    ("evaluate", "--bootstrap"): ("1", "19", "100001"),
    ("evaluate", "--batch"): ("0", "10001"),
    ("evaluate", "--device"): DEVICES,
    ("evaluate", "--format"): ("", "xml", RAW),
    ("evaluate", "--output"): (*PLACES[2:], "", "pictures", "/dev/full", "/dev/null", "nowhere/x"),
    ("compare", "--questions"): ("", ",", "nothing", "style,style"),
    ("compare", "--pairs"): ("-1",),
    ("compare", "--voter"): ("", "a\nb", LONG, RAW),
    ("compare", "--host"): ("", "nowhere.invalid", "0.0.0.0", "999.1.1.1", "a b", RAW, LONG),
    ("compare", "--address"): ("", "a b", RAW),
    ("compare", "--port"): ("-1", "65536"),
    ("compare", "--seed"): ("-1",),
    ("compare", "--votes"): ("", "pictures", "photo.png", "/dev/full", "/dev/null", "nowhere/x", "/proc/x"),
    ("compare", "--export"): ("", "pictures", "/proc/x", "photo.png/x", "nowhere/x.csv"),
    ("compare", "--source"): FOLDERS,
    ("compare", "--style"): ("", "nowhere", "pictures", "pipe", "/dev/zero"),
    ("benchmark", "--style"): (*STYLES, ""),
    ("benchmark", "--methods"): ("", ",", "nothing", "sms;vsd", "styleid"),
    ("benchmark", "--generator"): ("", "=", "A=", "=photo.png", *FOLDERS[1:], "A=/dev/zero", RAW),
    ("benchmark", "--ablations"): ("nothing", "all,none"),
    ("benchmark", "--knob"): ("", ",", "nan", "2", "much", "1e400"),
    ("benchmark", "--seeds"): ("0", "101"),
    ("benchmark", "--captions"): TABLES,
    ("benchmark", "--model"): ("", "nowhere"),
    ("benchmark", "--style-model"): ("", "nowhere"),
    ("benchmark", "--preset"): ("", "nowhere", "bad/nested.toml"),
    ("benchmark", "--set"): ("", "iterations=0", "nothing=1"),
    ("benchmark", "--size"): ("1", "8193"),
    ("benchmark", "--device"): DEVICES,
    ("benchmark", "--dtype"): ("", "half"),
    ("benchmark", "--memory"): ("", "tiny"),
    ("benchmark", "--batch"): ("0", "10001"),
    ("benchmark", "--workers"): ("", "nonsense", "ray:0", "ray:x"),
    ("benchmark", "--style-pictures"): ("", *FOLDERS[1:], "x=results"),
    ("benchmark", "--metrics"): METRICS,
    ("benchmark", "--weights"): WEIGHTS,
    ("benchmark", "--bootstrap"): ("1", "100001"),
    ("benchmark", "--output"): PLACES,
    ("export", "--out"): ("", "made.pt", ".onnx", "nowhere/made.onnx", "pictures", "/proc/made.onnx", "/"),
    ("export", "--precision"): ("", "int8"),
    ("export", "--model"): ("", "nothing", "photo.png", "pictures"),
    ("push", "--model"): ("", "nothing", "photo.png"),
    ("push", "--message"): ("", " ", RAW, LONG),
    ("studio", "--styles"): FOLDERS[:-1],
    ("studio", "--model"): ("", "nowhere"),
    ("studio", "--device"): ("", "gpu", "cpu:3"),
    ("studio", "--host"): ("", "nowhere.invalid", "999.1.1.1", "a b", RAW, LONG),
    ("studio", "--port"): ("-1", "65536"),
    ("studio", "--token"): ("", "short", "ä" * 20, RAW * 20, LONG),
    ("studio", "--data"): PLACES,
    ("studio", "--storage"): ("0", "-1"),
}
"""Wrong values by command and option, besides those that no number and no path can have."""
APPLY_VALUES: Mapping[str, Sequence[str]] = {
    "--out": ("", "photo.png", "/dev/full", "/dev/null", "/proc/x", "."),
    "--format": ("", "gif", "PNG"),
    "--quality": ("", "0", "101", "much", "9" * 5000),
    "--seed": ("", "-1", "4294967296", "1.5", "much"),
    "--passes": ("", "0", "9", "-1", "1.5", "two"),
    "--strength": ("", "2", "nan", "-0.1", "inf", "much"),
    "--memory-limit": ("", "0", "63", "-5", "much", "99999999999999999999"),
    "--smooth": ("", "1", "nan", "-1", "much"),
    "--noise": ("", "drifting"),
    "--threads": ("", "-1", "1025", "much"),
}
WHOLE: Sequence[tuple[str, ...]] = (
    *(
        ("train-generator",),
        ("train-generator", "many"),
        ("train-generator", "many", "--style", str(LORA), "--pairs-only"),
    ),
    *(("train-generator", name, "--style", str(LORA), *QUICK) for name in (*FOLDERS, "photo.png", "few", "/dev/zero")),
    *(("train-generator", "--resume", name) for name in ("", "nowhere", "photo.png", "bad/run of nothing")),
    ("train-generator", "--resume", "nowhere", "--steps", "3"),
    *(("tune",), ("tune", "photo.png"), ("tune", "photo.png", "--distance", "0.3")),
    *(("tune", name, "--distance", "0.3", "--style", str(LORA)) for name in (*FOLDERS, "pictures", "/dev/zero")),
    *(("evaluate",), ("evaluate", "pictures"), ("evaluate", "pictures", "few"), ("evaluate", "pictures", "few", "few")),
    *(("evaluate", name, "results") for name in FOLDERS),
    *(("evaluate", "pictures", name) for name in FOLDERS),
    *(("evaluate", "--list", "--format", "xml"), ("evaluate", "--list", "--weights", "nothing=1")),
    *(("compare",), ("compare", "pictures"), ("compare", "pictures", "pictures"), ("compare", "pictures", "few")),
    *(("compare", "pictures", name) for name in FOLDERS),
    *(
        ("compare", "--results", "--votes", name)
        for name in ("", "nowhere", "photo.png", "pipe", "/dev/zero", "pictures")
    ),
    *(("benchmark",), ("benchmark", "photo.png")),
    *(("benchmark", name, "--style", str(LORA), "--output", "out", *QUICK) for name in FOLDERS),
    *(("export",), ("export", "generator.safetensors", "extra")),
    *(("export", name) for name in (*FOLDERS, "/dev/zero", "photo.png", "pictures", str(LORA))),
    *(("push",), ("push", "generator.safetensors")),
    *(("push", "generator.safetensors", name) for name in ("", "me", "me/x/y", "me/..", RAW)),
    *(("push", name, "somebody/generator") for name in (*FOLDERS, "photo.png", str(LORA))),
    *(("studio", "extra"), ("studio", "--stop", "--data", "nowhere"), ("studio", "--stop", "--data", "")),
    *(("apply",), ("apply", "generator"), ("apply", "generator", "photo.png", "-x"), ("apply", "--out", "x")),
    *(("apply", name, "photo.png") for name in ("", "nowhere", "photo.png", "pipe", "/dev/zero", "pictures", RAW)),
    *(("apply", "generator", name) for name in (*FOLDERS, "/dev/zero", "*.nothing", "nowhere.png", RAW)),
    *((*APPLY, option, value) for option, values in APPLY_VALUES.items() for value in values),
    *((*APPLY, option) for option in APPLY_VALUES),
)
"""Lines without an option, or with wrong arguments."""


def whole_lines() -> Iterator[list[str]]:
    """Yield the lines that are written out."""
    yield from map(list, WHOLE)
