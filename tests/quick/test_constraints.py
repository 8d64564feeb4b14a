"""The constraint files resolve: told from the metadata of the very files that pip would choose.

`tests/data/wheels.json` is what scripts/make-constraints saw: each file's version, Requires-Python and Requires-Dist.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

import apexgpu_lab
from apexgpu.recipes import recipe

FILES = recipe.PACKAGED / "files"
RECORD = json.loads((Path(__file__).parent.parent / "data" / "wheels.json").read_text())
STEMS = sorted(path.stem for path in FILES.glob("*-py*.txt"))
ABIS = {"2.7": "cp27mu", "3.5": "cp35m", "3.6": "cp36m"}
# manylinux2014 wants glibc 2.17; Ubuntu 16.04 has 2.23. pip 20.3.4 knows no later names.
PLATFORMS = ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def pins(stem: str) -> dict[str, Version]:
    """Name -> version of a constraint file; every line must be a pin."""
    lines = [
        line
        for line in (FILES / f"{stem}.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    found: dict[str, Version] = {}
    for line in lines:
        name, separator, version = line.partition("==")
        assert separator, line
        assert canonicalize_name(name) not in found, line
        found[canonicalize_name(name)] = Version(version)
    return found


def environment(full: str) -> dict[str, str]:
    short = ".".join(full.split(".")[:2])
    return {
        **{name: str(value) for name, value in default_environment().items()},
        "python_version": short,
        "python_full_version": full,
        "implementation_version": full,
        "sys_platform": "linux" + "2" * (short == "2.7"),
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "os_name": "posix",
        "extra": "",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }


def tags(full: str) -> set[Tag]:
    short = ".".join(full.split(".")[:2])
    major, minor = map(int, short.split("."))
    own = f"cp{major}{minor}"
    found = {
        *cpython_tags((major, minor), [ABIS[short]], PLATFORMS),
        *compatible_tags((major, minor), own, PLATFORMS),
    }
    return found | {Tag(own, abi, name) for abi in (ABIS[short], "none") for name in PLATFORMS}


def chosen(stem: str) -> dict[str, dict[str, Any]]:
    """Name -> the metadata of the file that was chosen, with its file name."""
    return {
        canonicalize_name(RECORD["wheels"][file]["name"]): {**RECORD["wheels"][file], "file": file}
        for file in RECORD["files"][stem]["chosen"]
    }


def lab_index(record: dict[str, Any]) -> dict[str, Any]:
    """What the lab's pip installs from: Python -> canonical name -> version -> file and requirements.

    Of several files of one version, the lab takes the first that this Python can use.
    """
    index: dict[str, Any] = {}
    fulls = {stem.rpartition("-")[2]: found["python"] for stem, found in record["files"].items()}
    for full in fulls.values():
        there, usable = environment(full), tags(full)
        packages = index.setdefault(".".join(full.split(".")[:2]), {})
        # pip itself is not recorded: the recipes pin it.
        pip = {"name": "pip", "file": "pip-20.3.4-py2.py3-none-any.whl", "requires": []}
        packages["pip"] = {"20.3.4": pip}
        for file, one in sorted(record["wheels"].items()):
            if not SpecifierSet(one["requires_python"] or "").contains(full):
                continue
            if file.endswith(".whl") and not parse_wheel_filename(file)[3] & usable:
                continue
            requires = []
            for line in one["requires_dist"]:
                requirement = Requirement(line.replace("===", "=="))
                if requirement.marker is None or requirement.marker.evaluate(there):
                    requires.append(f"{requirement.name}{requirement.specifier}")
            entry = {"name": one["name"], "file": file, "requires": requires}
            packages.setdefault(canonicalize_name(one["name"]), {}).setdefault(
                one["version"], entry
            )
    return index


def test_the_lab_installs_from_what_is_recorded() -> None:
    path = Path(apexgpu_lab.__file__).with_name("packageindex.json")
    assert json.loads(path.read_text()) == lab_index(RECORD)


def test_every_file_is_recorded() -> None:
    assert sorted(RECORD["files"]) == STEMS
    assert len(STEMS) == 3 * 9 + 3 + 2 + 2


@pytest.mark.parametrize("stem", STEMS)
def test_the_pins_are_what_was_chosen(stem: str) -> None:
    assert pins(stem) == {name: Version(one["version"]) for name, one in chosen(stem).items()}


@pytest.mark.parametrize("stem", STEMS)
def test_whatever_a_pinned_package_needs_is_pinned_and_fits(stem: str) -> None:
    pinned, full = pins(stem), RECORD["files"][stem]["python"]
    there = environment(full)
    wanted = [Requirement(line) for line in RECORD["files"][stem]["requirements"]]
    needed = {canonicalize_name(one.name) for one in wanted}
    for name, one in chosen(stem).items():
        for line in one["requires_dist"]:
            requirement = Requirement(
                line.replace("===", "==")
            )  # of names, where both mean the same
            if requirement.marker is None or requirement.marker.evaluate(there):
                wanted.append(requirement)
                needed.add(canonicalize_name(requirement.name))
                assert canonicalize_name(requirement.name) in pinned, f"{name} needs {line}"
    for requirement in wanted:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} against {version}"
        )
    assert pinned.keys() - needed <= {"setuptools", "wheel"}, "pins that nothing needs"


@pytest.mark.parametrize("stem", STEMS)
def test_every_pin_is_for_this_python_by_its_metadata_and_its_file(stem: str) -> None:
    full = RECORD["files"][stem]["python"]
    usable = tags(full)
    for name, one in chosen(stem).items():
        asked = SpecifierSet(one["requires_python"] or "")
        assert asked.contains(full), f"{name} wants Python {asked}"
        if one["file"].endswith(".whl"):
            file_name, version, _, its_tags = parse_wheel_filename(one["file"])
            assert its_tags & usable, one["file"]
        else:
            file_name, version = parse_sdist_filename(one["file"])
        assert (canonicalize_name(file_name), version) == (name, Version(one["version"]))


# What has to be built there, without a compiler: pure Python, or with parts in C that it can do without.
WITHOUT_A_COMPILER = {
    "absl-py",
    "gast",
    "html5lib",
    "pandocfilters",
    "pyrsistent",
    "scandir",
    "simplegeneric",
    "termcolor",
    "tornado",
}


@pytest.mark.parametrize("stem", STEMS)
def test_nothing_has_to_be_compiled(stem: str) -> None:
    built = {name for name, one in chosen(stem).items() if not one["file"].endswith(".whl")}
    assert built <= WITHOUT_A_COMPILER


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem.startswith("tensorflow-")])
def test_numbers_that_were_measured_are_kept(stem: str) -> None:
    pinned = pins(stem)
    assert pinned.get("gast", Version("0.2.2")) == Version("0.2.2")  # 1.5 had none
    newest = {"2.7": "1.16.6", "3.5": "1.18.5", "3.6": "1.18.5"}
    full = RECORD["files"][stem]["python"]
    assert pinned["numpy"] <= Version(newest[".".join(full.split(".")[:2])])
    assert pinned["protobuf"] <= Version("3.17.3" if full.startswith("2.7") else "3.19.6")
    assert pinned.get("grpcio", Version("1")) <= Version("1.41.1") or full.startswith("3.6")
    if stem.startswith("tensorflow-1.10.1-"):
        assert pinned["numpy"] <= Version("1.14.5")
        assert pinned["setuptools"] <= Version("39.1.0")
