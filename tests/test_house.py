"""The house: who may import whom, what loads when, one tree of errors, the backbones."""

from __future__ import annotations

import ast
import csv
import inspect
import json
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from wsipipe.data import errors
from wsipipe.models.backbones.backbone import embed, registry

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data", "models", "stages", "pipeline")
"""Arrows run down only: a folder imports from itself and from those before it."""

ROOMS: dict[str, set[str]] = {
    "data": set(),
    "data.files": {"data"},
    "data.slides": {"data", "data.files"},
    "data.tiling": {"data", "data.files", "data.slides"},
    "data.cohort": {"data", "data.files"},
    "data.matrices": {"data", "data.files", "data.cohort"},
    "data.molecular": {"data", "data.files", "data.cohort", "data.matrices"},
    "data.features": {"data", "data.files"},
    "data.interop": {"data", "data.files", "data.features", "data.slides", "data.tiling"},
    "models.backbones": {"data"},
    "models.tasks": {"data", "data.cohort", "models.audit", "models.evaluation"},
    "models.mil": {"data", "data.cohort", "data.features", "models.backbones", "models.tasks"},
    "models.training": {"data", "data.molecular", "models.backbones", "models.mil", "models.tasks"},
    "models.evaluation": {"data"},
    "models.audit": {"data", "models.evaluation"},
    "pipeline.doctor": {"data", "data.slides", "models.backbones", "pipeline", "pipeline.demo", "pipeline.run"},
}
"""What each room of ``data`` and ``models``, and the doctor, builds on; other rooms may take all below them."""

SOURCES = sorted(file for folder in FOLDERS for file in (ROOT / folder).glob("**/*.py"))


@pytest.fixture(scope="module", params=SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def module(request: pytest.FixtureRequest) -> tuple[Path, ast.Module]:
    file: Path = request.param
    return file, ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name, within the package, of every module of ours that a module imports."""
    here = file.relative_to(ROOT).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [name.name for name in node.names if name.name.split(".")[0] == "wsipipe"], "import relatively"
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] != "wsipipe", f"line {node.lineno}: import relatively"
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(here), f"line {node.lineno} takes from the package itself, or leaves it"
            base = [*here[: len(here) - node.level], *([node.module] if node.module else [])]
            for name in node.names:
                module = ROOT.joinpath(*".".join(base).split("."), f"{name.name}.py")
                yield node.lineno, ".".join([*base, name.name] if module.exists() else base)


def room(module: str) -> str:
    """The folder a module lies in."""
    parts = module.split(".")
    return module if (ROOT / Path(*parts)).is_dir() else ".".join(parts[:-1])


def test_imports_run_down_only(module: tuple[Path, ast.Module]) -> None:
    file, tree = module
    own = ".".join(file.parent.relative_to(ROOT).parts)
    below = FOLDERS[: FOLDERS.index(own.split(".")[0]) + 1]
    for line, name in imported(file, tree):
        assert name.split(".")[0] in below, f"line {line}: {own} must not import {name}"
        if own in ROOMS:
            assert room(name) in ROOMS[own] | {own}, f"line {line}: {own} must not import {name}"


def test_timm_and_torchvision_are_imported_where_a_network_is_built(module: tuple[Path, ast.Module]) -> None:
    """They take as long to import as PyTorch; training, comparing and evaluating begin without them."""
    file, tree = module
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 0]
    at_once = {name.partition(".")[0] for name in names} & {"timm", "torchvision"}
    assert not at_once or file.name == "tissue_network.py"  # which is imported to build one


def test_no_room_needs_one_that_needs_it() -> None:
    needs: dict[str, set[str]] = {}
    for file in SOURCES:
        own = ".".join(file.parent.relative_to(ROOT).parts)
        # What lies in a folder beside its rooms is of no room: each such module stands for itself.
        own = own if "." in own else ".".join(file.relative_to(ROOT).with_suffix("").parts)
        modules = {name for _, name in imported(file, ast.parse(file.read_text(encoding="utf-8")))}
        needs.setdefault(own, set()).update(
            place for name in modules if (place := room(name) if "." in room(name) else name) != own
        )
    assert len([*TopologicalSorter(needs).static_order()]) >= len(needs)  # raises CycleError, which names the rooms


def test_every_room_says_what_it_holds() -> None:
    for folder in {file.parent for file in SOURCES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
        assert len([*folder.glob("*.py")]) <= 22, f"{folder} holds more than one subject"


def test_every_room_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {".".join(["wsipipe", *file.parent.relative_to(ROOT).parts]) for file in SOURCES}
    assert set(settings["packages"]) == {"wsipipe", *rooms}
    further = {
        file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*") if file.suffix not in (".py", ".pyc")
    }
    kinds = settings["package-data"]
    of_none = [
        f
        for f in further
        if f"*{f.suffix}" not in kinds.get(f"wsipipe.{'.'.join(f.parent.relative_to(ROOT).parts)}", ())
    ]
    assert not of_none


def test_no_print_and_no_bare_except(module: tuple[Path, ast.Module]) -> None:
    for node in ast.walk(module[1]):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}: a bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: the console speaks, not print"


OF_PICKLE = {"pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "pandas.read_pickle", "joblib.load"}


OWN_PROCESSES = {"worker.py", "seat.py", "places.py", "reading_process.py", "decode_child.py", "codecs.py"}
"""Modules that exchange pickles between processes of this program."""


def test_no_reader_unpickles(module: tuple[Path, ast.Module]) -> None:
    """What a file says to build is never built: pickles run code."""
    file, tree = module
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{file.name}, line {node.lineno}: {called}"
        assert given.get("allow_pickle", "False") == "False", where
        assert called != "torch.load" or given.get("weights_only") == "True", where
        assert called not in OF_PICKLE or file.name in OWN_PROCESSES, where
        opened = called in ("np.load", "numpy.load", "zarr.open", "zarr.load", "zarr.open_array")
        assert not opened or file.parent.name == "doctor", where  # which reads what it has just written
        if called == "zarr.open_group":  # to read: only what data/files/zarr_store.py has checked
            assert file.name == "zarr_store.py" or given.get("mode", "'r'").startswith("'w"), where


def test_the_root_holds_no_other_module() -> None:
    assert [file.name for file in ROOT.glob("*.py")] == ["__init__.py"]
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_modules_fit_on_a_few_screens() -> None:
    long = {
        str(f.relative_to(ROOT)): n for f in SOURCES if (n := len(f.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "openslide",
    "pandas",
    "anndata",
    "zarr",
    "cv2",
    "sklearn",
    "h5py",
    "matplotlib",
    "dask",
    "distributed",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import wsipipe",
        "import wsipipe; wsipipe.__version__; wsipipe.WsipipeError; wsipipe.Config; dir(wsipipe)",
        "import sys; sys.argv = ['wsipipe', '--help']; from wsipipe.pipeline.cli import main; run(main)",
        "import sys; sys.argv = ['wsipipe', 'train', '--help']; from wsipipe.pipeline.cli import main; run(main)",
        "import sys; sys.argv = ['wsipipe', 'doctor', '--help']; from wsipipe.pipeline.cli import main; run(main)",
        "import wsipipe.pipeline.doctor.doctor, wsipipe.pipeline.doctor.examiner",
    ],
)
def test_what_is_light_loads_nothing_heavy(statement: str) -> None:
    script = f"""
def run(main):
    try:
        main()
    except SystemExit as end:
        assert not end.code

{statement}
import json, sys
print()
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "wsipipe" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_that_runs_a_stage(words: list[str]) -> None:
    script = f"""
import json, sys
sys.argv = ["wsipipe", *{words}]
from wsipipe.pipeline.entry import main
try:
    main()
except SystemExit as end:
    assert not end.code
print()
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "wsipipe.pipeline.cli" in loaded
    assert not loaded & {"wsipipe.pipeline.chain", "wsipipe.pipeline.config", "wsipipe.data.manifest", "numpy"}


def test_all_that_the_package_names_can_be_had() -> None:
    import wsipipe

    for name in wsipipe._PLACES:
        assert getattr(wsipipe, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        wsipipe.nonsense  # noqa: B018  the access is the test


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_one_tree_and_cross_process_borders(kind: type[errors.WsipipeError]) -> None:
    assert issubclass(kind, errors.WsipipeError)
    error = kind("is broken", path=Path("a/b.svs"), hint="mend it")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.what, back.path, back.hint, str(back)) == ("is broken", "a/b.svs", "mend it", "a/b.svs: is broken")
    assert str(kind("is broken")) == "is broken"


@pytest.mark.parametrize("name", registry())
def test_every_backbone_is_what_its_entry_says(name: str) -> None:
    backbone = registry()[name]
    network = backbone.build("meta")
    assert sum(parameter.numel() for parameter in network.parameters()) == backbone.parameters
    if isinstance(trunk := getattr(network, "trunk", network), VisionTransformer):
        trunk.blocks = trunk.blocks[:1]  # all of its blocks are alike, and each takes its time on this device
    side = backbone.crop or backbone.resize
    with torch.inference_mode():
        features = embed(network, torch.empty(2, 3, side, side, device="meta"), backbone.pooling)
    assert features.shape == (2, backbone.width)


def test_the_registry_agrees_with_the_published_table(shared: Path) -> None:
    with (shared.parent / "backbones.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) >= 16
    for row in rows:
        backbone = registry()[row["key"]]
        assert backbone.architecture == row["timm_architecture"]
        assert (backbone.parameters, backbone.width) == (int(row["parameters"]), int(row["output_width"]))
        assert backbone.pooling == {"avg": "pooled"}.get(row["pooling"], row["pooling"])
        assert backbone.gated == (row["gated"] == "yes")
        assert (backbone.mpp, backbone.tile_px) == (float(row["mpp"]), int(row["tile_px"]))
        assert backbone.hub_id == (row["hub_id"] if not row["hub_id"].startswith("(") else None)
        if not row["mean"].startswith("hub"):
            assert backbone.mean == tuple(map(float, row["mean"].split()))
            assert backbone.std == tuple(map(float, row["std"].split()))
        told = dict(pair.split("=") for pair in row["timm_arguments"].split())
        assert told.pop("num_classes") == "0"
        assert backbone.arguments.keys() == told.keys()
        for argument, value in backbone.arguments.items():
            assert str(value) == told[argument] or value == float(told[argument]), argument
        if backbone.name == "resnet50":  # as timm and torchvision publish it; the table shows it the whole tile
            row["resize_crop"] = "256 crop 224"
        size, *crop = row["resize_crop"].replace("bicubic", "").split(" crop ")
        assert (backbone.resize, backbone.crop) == (int(size), int(crop[0]) if crop else None)


def test_the_long_round_names_tests_that_are_there() -> None:
    """A test that has another name by now would be run in every round."""
    tests = ROOT / "tests"
    for line in (tests / "long_round.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        file, _, case = line.partition("::")
        assert not case or f"def {case.partition('[')[0]}(" in (tests / file).read_text("utf-8"), line
        assert (tests / file).is_file(), line
