"""The ways into the environment agree, and the checkers that need no running of chapters are clean."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WANTED = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]


def conda_packages() -> dict[str, SpecifierSet]:
    found = {}
    for entry in yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]:
        for line in [line for line in entry["pip"] if line != "-e ."] if isinstance(entry, dict) else [entry]:
            name, bounds = re.fullmatch(r"([\w.-]+)\s*(.*)", line).groups()
            found[canonicalize_name(CONDA_NAMES.get(name, name))] = SpecifierSet(re.sub(r"^=(?!=)", "==", bounds))
    return found


def constraints() -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def test_conda_and_pip_install_the_same_packages():
    conda = conda_packages()
    assert conda.pop("python") == SpecifierSet(PROJECT["project"]["requires-python"])
    conda.pop("pip")
    assert conda == {canonicalize_name(want.name): want.specifier for want in map(Requirement, WANTED)}


@pytest.mark.parametrize("line", WANTED)
def test_a_pinned_version_satisfies_its_bound(line):
    want = Requirement(line)
    pins = constraints().get(canonicalize_name(want.name), [])
    assert pins, f"constraints.txt does not pin {want.name}: run `make constraints`"
    for pin in pins:
        (version,) = (spec.version for spec in pin.specifier)
        assert want.specifier.contains(version), f"{pin} is outside {want}"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_supported_python_gets_one_version_of_each_package(python):
    wanted = {canonicalize_name(want.name) for want in map(Requirement, WANTED)}
    for name, pins in constraints().items():
        here = {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "sys_platform": "linux",
            "platform_machine": "x86_64",
        }
        fitting = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
        assert len(fitting) == 1 if name in wanted else len(fitting) <= 1, f"{name} on Python {python}: {fitting}"


def test_constraints_are_pins_and_name_no_server():
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line]
    assert all(re.match(r"[\w.-]+==[\w.+]+( ;|$)", line) for line in lines)


CHECKERS = {
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "import layers": ["lint-imports"],
    "codespell": ["codespell"],
}


@pytest.mark.parametrize("name", CHECKERS)
def test_checker_is_clean(name):
    tool, *arguments = CHECKERS[name]
    run = subprocess.run([str(Path(sys.executable).with_name(tool)), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
