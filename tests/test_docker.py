"""The container's files, as far as they can be held to the package without an engine: image, compose file, page."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
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
DEFINITION = (ROOT / "docker" / "wsipipe.def").read_text(encoding="utf-8")
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


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name, those of the stages that it is built on first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            base, *named = rest.split()
            name = named[1] if named else "default"
            found[name] = list(found.get(base, []))
        elif name:
            found[name].append((instruction, rest))
    return found


def only(name: str, stage: str = "gpu") -> str:
    """The one instruction of a name that counts: the last one."""
    return [rest for instruction, rest in stages()[stage] if instruction == name][-1]


def pairs(name: str, stage: str = "gpu") -> dict[str, str]:
    found = [rest for instruction, rest in stages()[stage] if instruction == name]
    return dict(word.split("=", 1) for rest in found for word in shlex.split(rest))


def pinned(file: str) -> dict[str, str]:
    """The versions in a file of hashes; every line that is no comment must be one exact version with its hash."""
    pins = {}
    for line in (ROOT / "docker" / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        found = re.fullmatch(r"([a-z0-9-]+)==([^ *;@]+) --hash=sha256:[0-9a-f]{64}", line)
        assert found, line
        assert found[1] not in pins
        pins[found[1]] = found[2]
    return pins


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


SERVICES = ("wsipipe", "wsipipe-compile", "wsipipe-cpu", "view")
TARGETS = {"wsipipe": "gpu", "wsipipe-compile": "compile", "wsipipe-cpu": "cpu", "view": "cpu"}


@pytest.fixture(params=SERVICES)
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
            assert source == "." or [*ROOT.glob(source)]
            assert source == "." or all(reaches_the_builder(f.relative_to(ROOT).as_posix()) for f in ROOT.glob(source))


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


@pytest.mark.parametrize("target", ["cpu", "gpu", "compile", "default"])
def test_it_is_not_root_and_any_user_can_write_where_it_must(target: str, compose: dict[str, Any]) -> None:
    user = only("USER", target)
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user)
    names = [name for name, _ in stages()[target]]
    assert "RUN" not in names[len(names) - names[::-1].index("USER") :]
    environment = pairs("ENV", target)
    (made,) = [rest.split() for name, rest in stages()[target] if name == "RUN" and rest.startswith("mkdir")]
    assert made[:2] == ["mkdir", "--mode=1777"]
    assert set(made[2:]) == {environment["HOME"], environment["HF_HOME"], only("WORKDIR", target)}
    assert json.loads(only("ENTRYPOINT", target)) == ["wsipipe"]
    for service in compose["services"].values():
        default = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", service["user"])
        assert default == user
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_base_is_a_digest_and_the_same_for_docker_and_apptainer() -> None:
    (base,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("BASE=")]
    image, digest = base.removeprefix("BASE=").split("@")
    assert image.rsplit(":", 1)[0] == "docker.io/library/python"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    froms = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert {source for source in froms if source not in stages()} == {"${BASE}"}
    assert f"From: python@{digest}\n" in DEFINITION
    assert image.rsplit(":", 1)[1] in PAGE


def test_a_target_each_for_cpu_gpu_and_compile() -> None:
    steps = {name: [rest for kind, rest in stage if kind == "RUN"] for name, stage in stages().items()}
    assert {"cpu", "gpu", "compile"} < set(steps)
    assert steps["default"] == steps["gpu"]
    assert [step for step in steps["cpu"] if "install.sh torch cpu" in step]
    assert [step for step in steps["gpu"] if 'install.sh torch "${CUDA}"' in step]
    assert [rest for name, rest in stages()["gpu"] if rest == "CUDA=cu132"]
    assert steps["compile"][: len(steps["gpu"])] == steps["gpu"]
    compilers = {name for name, all_steps in steps.items() if any("g++" in step for step in all_steps)}
    assert compilers == {"compile"}


def test_nothing_is_installed_but_by_the_steps_of_install_sh() -> None:
    """And these install by hash, or PyTorch by its version from its own index; the compiler is Debian's."""
    runs = [rest for name, rest in instructions() if name == "RUN" and not rest.startswith("mkdir")]
    assert [run for run in runs if "install.sh" not in run and not run.startswith("apt-get update")] == []
    text = (ROOT / "docker" / "install.sh").read_text(encoding="utf-8")
    calls = [line.strip() for line in text.splitlines() if re.match(r"\s+install ", line)]
    assert len(calls) == 5
    by_hash = [call for call in calls if "--require-hashes --no-deps --only-binary :all:" in call]
    own = [call for call in calls if "--no-index --no-deps" in call]
    (by_version,) = [call for call in calls if call not in by_hash + own]
    assert by_version.endswith('--constraint "$here/constraints.txt" torch torchvision')
    assert subprocess.run(["sh", "-n", str(ROOT / "docker" / "install.sh")], check=False).returncode == 0
    assert os.access(ROOT / "docker" / "install.sh", os.X_OK)


def test_every_package_is_there_with_its_hash_and_in_the_version_that_the_tests_use() -> None:
    packages, torch_files = pinned("packages.txt"), sorted((ROOT / "docker").glob("torch-*.txt"))
    assert [file.name for file in torch_files if file.name == "torch-cu132.txt"]
    for file in torch_files:
        together = packages | pinned(file.name)
        assert set(pinned(file.name)) & set(packages) == set()
        for name, version in constraints().items():
            assert together[name].split("+")[0] == version, f"{name}: run docker/lock.py"
        for extra in lock_extras():
            for line in PROJECT["optional-dependencies"][extra]:
                requirement = Requirement(line)
                assert requirement.specifier.contains(together[canonicalize_name(requirement.name)]), line
    assert "setuptools" in packages  # builds the wheel, without the network


def lock_extras() -> tuple[str, ...]:
    text = (ROOT / "docker" / "lock.py").read_text(encoding="utf-8")
    (line,) = re.findall(r"^EXTRAS: Final = (.+)$", text, flags=re.MULTILINE)
    return tuple(ast.literal_eval(line))


def test_the_bill_of_materials_lists_what_is_installed_and_is_the_same_each_time(tmp_path: Path) -> None:
    once, again = tmp_path / "once.json", tmp_path / "again.json"
    for file in (once, again):
        subprocess.run([sys.executable, str(ROOT / "docker" / "sbom.py"), str(file)], check=True)
    assert once.read_bytes() == again.read_bytes()
    bill = json.loads(once.read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]
    listed = {component["purl"]: component for component in bill["components"]}
    assert len(listed) == len(bill["components"])
    for name in constraints():
        assert f"pkg:pypi/{name}@{metadata.version(name).replace('+', '%2B')}" in listed
    assert all(re.fullmatch(r"[0-9a-f]{64}", h["content"]) for c in listed.values() for h in c.get("hashes", []))
    assert next(c for c in listed.values() if c["name"] == "numpy")["licenses"]


def test_apptainer_takes_the_same_steps_and_files() -> None:
    files = re.search(r"%files\n(.*?)\n\n", DEFINITION, flags=re.DOTALL)
    assert files
    sources = [line.split()[0] for line in files[1].splitlines()]
    for source in sources:
        assert [*ROOT.glob(source)], source
    copied = {word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]} - {"."}
    assert {source for source in copied if not source.startswith("--")} <= set(sources)
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "__init__.py", "py.typed"}
    assert needed | {package.split(".")[1] for package in TOOL["packages"] if "." in package} <= set(sources)
    steps = re.findall(r"\$install (\w+)", DEFINITION)
    assert steps == ["packages", "torch", "wheel", "wsipipe"]
    assert "    TORCH=cu132\n" in DEFINITION
    assert "PYTHONNOUSERSITE=1" in DEFINITION
    assert pairs("ENV")["PYTHONNOUSERSITE"] == "1"
    assert f"org.opencontainers.image.version {wsipipe.__version__}\n" in DEFINITION


def test_labels_say_what_it_is() -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in pairs("LABEL").items()}
    assert labels["title"] == PROJECT["name"]
    assert labels["licenses"] == PROJECT["license"]
    assert labels["version"] == wsipipe.__version__
    assert labels["description"] == PROJECT["description"]


def constraints() -> dict[str, str]:
    """The versions of ``constraints.txt``, each an exact one."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]  # fails on an option or a file
    assert not [pin for pin in pins if pin.url or pin.extras or pin.marker]
    versions: dict[str, str] = {}
    for pin in pins:
        (exactly,) = pin.specifier
        assert exactly.operator == "=="
        assert "*" not in exactly.version
        versions[canonicalize_name(pin.name)] = exactly.version
    assert len(versions) == len(pins)
    return versions


def test_constraints_pin_the_direct_dependencies_and_nothing_else() -> None:
    versions = constraints()
    wanted = {canonicalize_name(r.name): r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    assert versions.keys() == wanted.keys()
    for name, version in versions.items():
        assert wanted[name].contains(version, prereleases=True), name


def test_compose_builds_a_target_of_this_dockerfile_for_every_service(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == set(SERVICES)
    for name, service in compose["services"].items():
        context = (COMPOSE.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
        assert service["build"]["target"] == TARGETS[name]
        assert service["build"]["args"] == {"CUDA": "${CUDA:-cu132}"}
        assert service["image"] == f"wsipipe-momkd:{TARGETS[name]}"
        assert service["init"] is True
        assert service["stop_grace_period"] == "2m"  # the default, 10 s, is short for a batch on its way
        assert "shm_size" not in service  # nothing of ours is in /dev/shm


def test_the_viewer_is_reached_from_this_machine_alone_and_its_command_is_one(compose: dict[str, Any]) -> None:
    view = compose["services"]["view"]
    name, *words = view["command"]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, words, resilient_parsing=True).params
    assert (given["host"], given["port"], given["browser"]) == ("0.0.0.0", 8765, False)
    assert view["ports"] == ["127.0.0.1:8765:8765"]
    assert view["hostname"] == "localhost"  # the address that it prints


def test_compose_mounts_slides_read_only_and_the_rest_where_the_image_looks(service: dict[str, Any]) -> None:
    places = mounts(service)
    assert set(places) == {"/slides", only("WORKDIR"), pairs("ENV")["HF_HOME"]}
    assert [target for target, mount in places.items() if mount.get("read_only") is True] == ["/slides"]
    for mount in places.values():
        assert mount["type"] == "bind"
        assert mount["bind"] == {"create_host_path": False}  # Docker would make a missing folder as root
    sources = [variables(mount["source"]) for mount in places.values()]
    assert sources == [{"SLIDES"}, {"WORK"}, {"MODELS"}]


def test_only_the_gpu_services_reserve_the_gpu(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if TARGETS[name] == "cpu":
            assert "deploy" not in service
        else:
            gpu = service["deploy"]["resources"]["reservations"]["devices"]
            assert gpu == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
        assert ("profiles" not in service) == (name == "wsipipe")


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
    for name in set(compose["services"]) - {"view"}:
        assert f"run --rm {name} " in PAGE
    assert "up view" in PAGE
    assert f"docker save {compose['services']['wsipipe']['image']} " in PAGE
    written = {"docker/.env", "docker/torch-cpu.txt", "docker/torch-cu126.txt"}
    for path in set(re.findall(r"docker/[\w.-]+\w", PAGE)) - written:
        assert (ROOT / path).exists(), path


def test_the_page_gives_only_commands_and_flags_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL))
    compose_run = r"docker compose -f \S+ run (?:-\S+ )*(?:--name \S+ )?"
    given = re.findall(rf"^\s*(?:{compose_run})?wsipipe(?:-cpu|-compile)? (.+)$", blocks, flags=re.MULTILINE)
    assert len(given) > 10
    for line in given:
        name, *words = shlex.split(line, comments=True)
        flags = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= flags, line
    assert {line.split()[0] for line in given} >= {"demo", "init", "tile", "extract", "genomics", "train", "predict"}
