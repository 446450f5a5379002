"""The container's files, as far as they can be held to the package without an engine: image, compose file, page."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import wsipipe
import yaml  # type: ignore[import-untyped,unused-ignore]  # timm and huggingface-hub bring it
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wsipipe.pipeline.cli import app

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker" / "compose.yaml"
PAGE = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, comments left out and continued lines joined."""
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest) for name, rest in pairs]


def final_stage() -> list[tuple[str, str]]:
    everything = instructions()
    start = max(i for i, (name, _) in enumerate(everything) if name == "FROM")
    return everything[start:]


def only(name: str) -> str:
    (rest,) = [rest for instruction, rest in final_stage() if instruction == name]
    return rest


def pairs(name: str) -> dict[str, str]:
    found = [rest for instruction, rest in final_stage() if instruction == name]
    return dict(word.split("=", 1) for rest in found for word in shlex.split(rest))


def reaches_the_builder(path: str) -> bool:
    """Whether ``.dockerignore`` lets a path through: the last pattern that fits it, or a folder above it, decides."""
    through = True
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        anywhere = "**/" in line
        if any(fnmatch.fnmatchcase(p.rsplit("/", 1)[-1] if anywhere else p, pattern) for p in above):
            through = line.startswith("!")
    return through


def variables(text: str) -> set[str]:
    """The variables that a compose file asks for, the shell's own home left out."""
    return set(re.findall(r"\$\{([A-Z_]+)", text)) - {"HOME"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return content


@pytest.fixture(params=["wsipipe", "wsipipe-cpu"])
def service(request: pytest.FixtureRequest, compose: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = compose["services"][request.param]
    return content


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in service["volumes"]}


def test_what_the_image_copies_is_there_and_reaches_the_builder() -> None:
    copies = [rest.split() for name, rest in instructions() if name in ("COPY", "ADD") and "--from=" not in rest]
    assert copies
    for *sources, _ in copies:
        for source in sources:
            assert (ROOT / source).exists()
            assert source == "." or reaches_the_builder(source)


def test_all_of_the_package_reaches_the_builder_and_nothing_else() -> None:
    needed = ["pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "__init__.py"]
    for package in TOOL["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        globs = [*TOOL["package-data"].get(package, []), "*.py"]
        needed += [file.relative_to(ROOT).as_posix() for glob in globs for file in folder.glob(glob)]
    assert len(needed) > 200
    assert [path for path in needed if not reaches_the_builder(path)] == []
    results = ["work/tiles/a.h5", "slides/a.svs", "cohort.csv", "docker/.env"]
    others = [".git/HEAD", ".venv/bin/python", "data/__pycache__/x.pyc", "tests/test_docker.py", "docs/docker.md"]
    assert [path for path in (*results, *others) if reaches_the_builder(path)] == []


def test_it_starts_the_command_without_a_shell_so_that_signals_arrive() -> None:
    entrypoint = json.loads(only("ENTRYPOINT"))
    assert entrypoint == ["wsipipe"]
    assert entrypoint[0] in PROJECT["scripts"]
    assert json.loads(only("CMD")) == ["--help"]


def test_it_is_not_root_and_any_user_can_write_where_it_must(compose: dict[str, Any]) -> None:
    user = only("USER")
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user)
    names = [name for name, _ in final_stage()]
    assert "RUN" not in names[names.index("USER") :]
    environment = pairs("ENV")
    (made,) = [rest.split() for name, rest in final_stage() if name == "RUN" and rest.startswith("mkdir")]
    assert made[:2] == ["mkdir", "--mode=1777"]
    assert set(made[2:]) == {environment["HOME"], environment["HF_HOME"], only("WORKDIR")}
    for service in compose["services"].values():
        default = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", service["user"])
        assert default == user


def test_labels_say_what_it_is() -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in pairs("LABEL").items()}
    assert labels["title"] == PROJECT["name"]
    assert labels["licenses"] == PROJECT["license"]
    assert labels["version"] == wsipipe.__version__
    assert labels["description"] == PROJECT["description"]


def test_constraints_pin_the_direct_dependencies_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]  # fails on an option or a file
    assert not [pin for pin in pins if pin.url or pin.extras or pin.marker]
    versions = {}
    for pin in pins:
        (exactly,) = pin.specifier
        assert exactly.operator == "=="
        assert "*" not in exactly.version
        versions[canonicalize_name(pin.name)] = exactly.version
    assert len(versions) == len(pins)
    wanted = {canonicalize_name(r.name): r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    assert versions.keys() == wanted.keys()
    for name, version in versions.items():
        assert wanted[name].contains(version, prereleases=True), name


def test_compose_builds_this_dockerfile_for_both_services(compose: dict[str, Any], service: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"wsipipe", "wsipipe-cpu"}
    context = (COMPOSE.parent / service["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service["build"]["dockerfile"]).is_file()
    assert service["image"] == compose["services"]["wsipipe"]["image"]
    assert service["init"] is True
    assert service["stop_grace_period"] == "2m"  # the default, 10 s, is short for a batch on its way


def test_compose_mounts_slides_read_only_and_the_rest_where_the_image_looks(service: dict[str, Any]) -> None:
    places = mounts(service)
    assert set(places) == {"/slides", only("WORKDIR"), pairs("ENV")["HF_HOME"]}
    assert [target for target, mount in places.items() if mount.get("read_only") is True] == ["/slides"]
    for mount in places.values():
        assert mount["type"] == "bind"
        assert mount["bind"] == {"create_host_path": False}  # Docker would make a missing folder as root
    sources = [variables(mount["source"]) for mount in places.values()]
    assert sources == [{"SLIDES"}, {"WORK"}, {"MODELS"}]


def test_only_the_first_service_reserves_the_gpu(compose: dict[str, Any]) -> None:
    gpu = compose["services"]["wsipipe"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert "profiles" not in compose["services"]["wsipipe"]
    assert "deploy" not in compose["services"]["wsipipe-cpu"]
    assert compose["services"]["wsipipe-cpu"]["profiles"]


def test_every_variable_has_the_same_default_in_the_example_and_stands_on_the_page() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    example = (ROOT / "docker" / ".env.example").read_text(encoding="utf-8")
    defaults = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, flags=re.MULTILINE))
    assert set(defaults) == variables(text)
    assert [line for line in example.splitlines() if line and not line.startswith("#")] == []
    for name, default in defaults.items():
        assert f"${{{name}:-{default}}}" in text
        shown = default.replace("${HOME}", "~")
        (row,) = [line for line in PAGE.splitlines() if re.match(rf"\| (`[A-Z_]+`, )?`{name}`.*\| .* \|$", line)][:1]
        assert shown in row.split("|")[2]


def test_the_page_says_which_cuda_comes_with_the_pinned_torch() -> None:
    installed = torch.__version__.split("+")[0]
    if f"torch=={installed}" not in (ROOT / "constraints.txt").read_text(encoding="utf-8").split():
        pytest.skip("another version of torch is installed")
    if torch.version.cuda is None:
        pytest.skip("torch is installed without CUDA")
    assert f"CUDA {torch.version.cuda} with PyTorch" in " ".join(PAGE.split())


def test_the_page_names_every_service_and_only_files_that_exist(compose: dict[str, Any]) -> None:
    for name in compose["services"]:
        assert f"run --rm {name} " in PAGE
    assert f"docker save {compose['services']['wsipipe']['image']} " in PAGE
    for path in set(re.findall(r"docker/[\w.]+", PAGE)) - {"docker/.env"}:
        assert (ROOT / path).exists()


def test_the_page_gives_only_commands_and_flags_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL))
    compose_run = r"docker compose -f \S+ run (?:-\S+ )*(?:--name \S+ )?"
    given = re.findall(rf"^\s*(?:{compose_run})?wsipipe(?:-cpu)? (.+)$", blocks, flags=re.MULTILINE)
    assert len(given) > 10
    for line in given:
        name, *words = shlex.split(line, comments=True)
        flags = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= flags, line
    assert {line.split()[0] for line in given} >= {"demo", "init", "tile", "extract", "genomics", "train", "predict"}
