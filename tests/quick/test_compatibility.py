"""Every row of the tables of what goes together, and every combination that must be refused, with its way out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.recipes import compatibility
from apexgpu.recipes.compatibility import (
    CUDA,
    DRIVERS,
    PYTHONS,
    TENSORFLOW,
    ChosenVersions,
    ContainerSoftware,
    PythonVersion,
    VersionRequest,
    choose_versions,
)

XENIAL = (PythonVersion("3.5.2"), PythonVersion("2.7.12"))
HAVE = ContainerSoftware(
    "gpu7", driver="390.48", pythons=XENIAL, cudnn="7.0.5", cudnn_archives=("7.0.5",)
)
ALL = frozenset({"cuda", "cudnn", "tensorflow"})


def request(*parts: str, python: int = 3, **versions: str) -> VersionRequest:
    return VersionRequest(frozenset(parts) or ALL, versions, python)


def refused(have: ContainerSoftware, wanted: VersionRequest) -> ApexError:
    with pytest.raises(RefusedError) as caught:
        choose_versions(have, wanted)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    return caught.value


class TestDrivers:
    @pytest.mark.parametrize(
        ("cuda", "least"),
        [
            ("8.0", "375.26"),
            ("9.0", "384.81"),
            ("9.1", "390.46"),
            ("9.2", "396.26"),
            ("10.0", "410.48"),
        ],
    )
    def test_the_table_is_nvidias(self, cuda: str, least: str) -> None:
        assert DRIVERS[cuda] == least

    @pytest.mark.parametrize(
        "driver", ["384.81", "384.111", "387.26", "390.48", "396.26", "410.48", "535.104.05"]
    )
    def test_a_driver_that_is_new_enough_is_taken(self, driver: str) -> None:
        assert choose_versions(replace(HAVE, driver=driver), request("cuda")).cuda == "9.0"

    @pytest.mark.parametrize(
        ("driver", "good_for"),
        [("381.09", "8.0"), ("384.80", "8.0"), ("375.26", "8.0"), ("375.25", ""), ("367.57", "")],
    )
    @pytest.mark.parametrize("part", ["cuda", "cudnn", "tensorflow", "pytorch"])
    def test_one_that_is_too_old_is_refused_with_what_it_is_good_for(
        self, driver: str, good_for: str, part: str
    ) -> None:
        error = refused(replace(HAVE, driver=driver), request(part))
        assert error.code == "driver_too_old"
        assert f"gpu7 has driver {driver}, and CUDA 9.0 needs 384.81 or newer" in error.message
        good = f"(this one supports CUDA {good_for})"
        assert (good in error.message) == bool(good_for)
        assert ("supports" in error.message) == bool(good_for)
        assert "another host" in error.message
        assert error.hint == "apexgpu gpus"

    def test_no_gpu_is_refused_with_what_nvidia_smi_said(self) -> None:
        error = refused(
            replace(HAVE, driver=None, gpu_trouble="No devices were found"), request("cuda")
        )
        assert (error.code, "No devices were found" in error.message) == ("no_driver", True)
        assert "apexgpu restart gpu7" in str(error.hint)

    def test_another_machine_is_refused(self) -> None:
        assert refused(replace(HAVE, machine="aarch64"), request("pytorch")).code == "machine"

    def test_what_needs_no_gpu_is_not_refused_for_it(self) -> None:
        assert choose_versions(
            replace(HAVE, driver=None, machine="aarch64"), request("python3")
        ) == ChosenVersions(python3="3.5")
        assert (
            choose_versions(replace(HAVE, driver=None), VersionRequest(frozenset(), {}))
            == ChosenVersions()
        )


class TestCuda:
    def test_the_labs_own_may_be_named(self) -> None:
        assert choose_versions(HAVE, request("cuda", cuda="9.0")).cuda == CUDA

    @pytest.mark.parametrize("version", ["8.0", "9.1", "9.2", "10.0", "11.8"])
    def test_another_is_refused_with_the_driver_that_it_would_need(self, version: str) -> None:
        error = refused(HAVE, request("cuda", cuda=version))
        assert error.code == "no_version"
        assert DRIVERS.get(version, "9.0") in error.message
        assert "cuda==9.0" in str(error.hint)


# compat.md: version, what it was built with, the cuDNNs that it takes and does not take, whether it knows the variable.
ROWS = [
    ("1.5.0", "7.0.4", ["7.0.3", "7.0.5"], ["6.0.21", "7.1.4", "7.2.1", "7.6.5", "8.0.5"], False),
    ("1.6.0", "7.0.4", ["7.0.3", "7.0.5"], ["6.0.21", "7.1.4", "7.2.1", "7.6.5", "8.0.5"], False),
    ("1.7.1", "7.0.5", ["7.0.3", "7.0.5"], ["6.0.21", "7.1.4", "7.2.1", "7.6.5", "8.0.5"], False),
    ("1.8.0", "7.0.5", ["7.0.3", "7.0.5", "7.1.4", "7.2.1", "7.6.5"], ["6.0.21", "8.0.5"], False),
    ("1.9.0", "7.0.5", ["7.0.3", "7.0.5", "7.1.4", "7.2.1", "7.6.5"], ["6.0.21", "8.0.5"], False),
    ("1.10.1", "7.0.5", ["7.0.3", "7.0.5", "7.1.4", "7.2.1", "7.6.5"], ["6.0.21", "8.0.5"], False),
    ("1.11.0", "7.2.1", ["7.2.1", "7.3.1", "7.6.5"], ["6.0.21", "7.0.5", "7.1.4", "8.0.5"], False),
    ("1.12.0", "7.1.4", ["7.1.3", "7.1.4", "7.2.1", "7.6.5"], ["6.0.21", "7.0.5", "8.0.5"], True),
    ("1.12.3", "7.1.4", ["7.1.3", "7.1.4", "7.2.1", "7.6.5"], ["6.0.21", "7.0.5", "8.0.5"], True),
]


class TestTensorFlow:
    def test_every_row_is_there_and_no_other(self) -> None:
        assert [
            (one.version, one.built_with_cudnn, one.reads_growth_variable) for one in TENSORFLOW
        ] == [(version, built, growth) for version, built, _, _, growth in ROWS]
        assert {one.cuda for one in TENSORFLOW} == {"9.0"}

    @pytest.mark.parametrize(
        ("version", "cudnn", "growth"),
        [(row[0], cudnn, row[4]) for row in ROWS for cudnn in row[2]],
    )
    def test_a_release_is_taken_with_each_cudnn_that_it_computes_with(
        self, version: str, cudnn: str, growth: bool
    ) -> None:
        made = choose_versions(replace(HAVE, cudnn=cudnn), request(tensorflow=version))
        assert made == ChosenVersions(
            "9.0", cudnn, version, "", "3.5", "", "variable" if growth else "hook"
        )

    @pytest.mark.parametrize(
        ("version", "cudnn"), [(row[0], cudnn) for row in ROWS for cudnn in row[3]]
    )
    def test_a_release_is_refused_with_every_other(self, version: str, cudnn: str) -> None:
        error = refused(replace(HAVE, cudnn=cudnn, cudnn_archives=()), request(tensorflow=version))
        assert error.code == "cudnn"
        assert f"TensorFlow {version} works with cuDNN 7." in error.message
        assert f"gpu7 has {cudnn}" in error.message
        fitting = [
            row[0]
            for row in ROWS
            if compatibility.version_numbers(cudnn)[0] == 7 and cudnn in row[2]
        ]
        if fitting:
            assert error.hint == f"apexgpu setup gpu7 tensorflow=={fitting[-1]}"
        else:
            assert "ask the administrators" in error.message

    @pytest.mark.parametrize(
        ("cudnn", "newest", "growth"),
        [
            ("7.0.3", "1.10.1", "hook"),
            ("7.0.5", "1.10.1", "hook"),
            ("7.1.4", "1.12.3", "variable"),
            ("7.2.1", "1.12.3", "variable"),
            ("7.6.5", "1.12.3", "variable"),
        ],
    )
    def test_without_a_wish_the_newest_for_the_cudnn_that_is_there_is_chosen(
        self, cudnn: str, newest: str, growth: str
    ) -> None:
        made = choose_versions(
            replace(HAVE, cudnn=cudnn, cudnn_archives=("7.0.5", "7.6.5")), request()
        )
        assert (made.tensorflow, made.cudnn, made.growth) == (newest, cudnn, growth)

    @pytest.mark.parametrize("cudnn", ["6.0.21", "8.0.5"])
    def test_a_cudnn_that_none_takes_is_refused(self, cudnn: str) -> None:
        error = refused(replace(HAVE, cudnn=cudnn), request())
        assert error.code == "cudnn"
        assert error.hint == "apexgpu setup gpu7 cudnn==7.0.5 tensorflow==1.10.1"
        bare = refused(replace(HAVE, cudnn=cudnn, cudnn_archives=()), request())
        assert bare.message.endswith(
            "; ask the administrators for the archive of a cuDNN 7.1 or a newer 7.x"
        )
        assert bare.hint == "apexgpu ssh gpu7 -- ls -l /newNAS/Share/GPU_Server"

    def test_a_beginning_of_a_version_means_its_newest(self) -> None:
        assert (
            choose_versions(replace(HAVE, cudnn="7.1.4"), request(tensorflow="1.12")).tensorflow
            == "1.12.3"
        )
        assert choose_versions(HAVE, request(tensorflow="1.7")).tensorflow == "1.7.1"

    @pytest.mark.parametrize("version", ["1.13.1", "1.13.2", "1.14.0", "1.15.5", "2.4.0"])
    def test_one_for_a_newer_cuda_is_refused_with_the_driver_that_it_wants(
        self, version: str
    ) -> None:
        error = refused(HAVE, request(tensorflow=version))
        assert error.code == "no_version"
        assert f"TensorFlow {version} needs CUDA 10.0 or newer (driver 410.48)" in error.message
        assert "1.10.1, 1.11.0" in error.message

    @pytest.mark.parametrize("version", ["1.4.0", "1.4", "1.1", "1.10.9", "0.12.1"])
    def test_one_that_is_in_no_row_is_refused(self, version: str) -> None:
        error = refused(HAVE, request(tensorflow=version))
        assert (error.code, "for CUDA 9.0" in error.message) == ("no_version", True)


class TestCudnn:
    def test_the_newest_of_the_nas_is_chosen_where_there_is_none(self) -> None:
        have = replace(HAVE, cudnn=None, cudnn_archives=("7.0.5", "7.6.5", "7.1.4"))
        assert choose_versions(have, request("cudnn")).cudnn == "7.6.5"
        made = choose_versions(have, request())
        assert (made.cudnn, made.tensorflow) == ("7.6.5", "1.12.3")

    def test_the_newest_that_the_wanted_release_takes_is_chosen(self) -> None:
        have = replace(HAVE, cudnn=None, cudnn_archives=("7.0.5", "7.6.5", "7.1.4"))
        assert choose_versions(have, request(tensorflow="1.6.0")).cudnn == "7.0.5"

    def test_the_one_that_is_there_stays_though_a_newer_could_be_had(self) -> None:
        made = choose_versions(replace(HAVE, cudnn_archives=("7.6.5",)), request())
        assert (made.cudnn, made.tensorflow) == ("7.0.5", "1.10.1")

    def test_it_is_never_replaced_without_a_word_and_the_word_is_told(self) -> None:
        error = refused(
            replace(HAVE, cudnn_archives=("7.0.5", "7.6.5")), request(tensorflow="1.12.3")
        )
        assert error.hint == "apexgpu setup gpu7 cudnn==7.6.5 tensorflow==1.12.3"
        assert error.message.endswith("; the newest TensorFlow for cuDNN 7.0.5 is 1.10.1")

    def test_that_word_is_taken(self) -> None:
        made = choose_versions(
            replace(HAVE, cudnn_archives=("7.6.5",)), request(cudnn="7.6.5", tensorflow="1.12.3")
        )
        assert (made.cudnn, made.tensorflow) == ("7.6.5", "1.12.3")
        assert (
            choose_versions(
                replace(HAVE, cudnn_archives=("7.6.5",)), request("cudnn", cudnn="7.6")
            ).cudnn
            == "7.6.5"
        )

    def test_one_that_neither_the_container_nor_the_nas_has_is_refused(self) -> None:
        error = refused(HAVE, request("cudnn", cudnn="7.4.2"))
        assert (error.code, "there is: 7.0.5" in error.message) == ("no_cudnn", True)

    @pytest.mark.parametrize("parts", [("cudnn",), ("cuda", "cudnn", "tensorflow")])
    def test_none_at_all_is_refused(self, parts: tuple[str, ...]) -> None:
        error = refused(replace(HAVE, cudnn=None, cudnn_archives=()), request(*parts))
        assert error.code == "no_cudnn"
        assert "/newNAS/Share/GPU_Server" in str(error.hint)

    def test_versions_that_contradict_each_other_are_refused(self) -> None:
        assert (
            refused(
                replace(HAVE, cudnn_archives=("7.6.5",)), request(cudnn="7.6.5", tensorflow="1.5.0")
            ).code
            == "cudnn"
        )


class TestPython:
    @pytest.mark.parametrize(
        ("there", "major", "chosen"),
        [
            (("3.5.2", "2.7.12"), 3, "3.5"),
            (("3.5.2", "2.7.12"), 2, "2.7"),
            (("3.6.9", "2.7.17"), 3, "3.6"),
            (("3.5.2", "3.6.15"), 3, "3.6"),
            (("3.8.10", "3.6.15"), 3, "3.6"),
        ],
    )
    @pytest.mark.parametrize("part", ["tensorflow", "pytorch"])
    def test_the_newest_that_has_wheels_is_chosen(
        self, there: tuple[str, ...], major: int, chosen: str, part: str
    ) -> None:
        have = replace(HAVE, pythons=tuple(map(PythonVersion, there)))
        assert choose_versions(have, request(part, python=major)).python == chosen

    @pytest.mark.parametrize(
        ("release", "major", "chosen"),
        [
            ("16.04", 3, "3.5"),
            ("16.04", 2, "2.7"),
            ("18.04", 3, "3.6"),
            ("18.04", 2, "2.7"),
            ("20.04", 2, "2.7"),
        ],
    )
    def test_where_there_is_none_what_apt_has_is_chosen(
        self, release: str, major: int, chosen: str
    ) -> None:
        have = replace(HAVE, pythons=(), distribution=("ubuntu", release))
        assert choose_versions(have, request(python=major)).python == chosen

    @pytest.mark.parametrize(
        ("distribution", "there"),
        [
            (("ubuntu", "20.04"), "3.8.10"),
            (("ubuntu", "22.04"), "3.10.6"),
            (("debian", "12"), "3.11.2"),
            (("ubuntu", "14.04"), "3.4.3"),
            (("fedora", "28"), "3.7.0"),
        ],
    )
    def test_one_without_wheels_is_refused_with_a_container_that_would_do(
        self, distribution: tuple[str, str], there: str
    ) -> None:
        error = refused(
            replace(HAVE, distribution=distribution, pythons=(PythonVersion(there),)), request()
        )
        assert error.code == "no_python"
        assert f"there is: {there}" in error.message
        assert "Ubuntu 16.04 or 18.04" in error.message
        assert error.hint == "apexgpu rebuild gpu7"

    def test_the_other_python_is_offered_where_that_would_do(self) -> None:
        have = replace(
            HAVE,
            distribution=("debian", "10"),
            pythons=(PythonVersion("3.7.3"), PythonVersion("2.7.16")),
        )
        assert refused(have, request()).hint == "apexgpu setup gpu7 tensorflow --python 2"

    def test_a_narrow_python_2_has_no_wheels(self) -> None:
        have = replace(
            HAVE, distribution=("debian", "12"), pythons=(PythonVersion("2.7.16", wide=False),)
        )
        assert "cp27mu" in refused(have, request(python=2)).message

    def test_tools_take_the_systems_own(self) -> None:
        have = replace(
            HAVE,
            distribution=("ubuntu", "18.04"),
            pythons=(PythonVersion("3.8.0"), PythonVersion("3.6.9")),
        )
        assert choose_versions(have, request("python3")).python3 == "3.6"
        assert (
            choose_versions(
                replace(have, pythons=(PythonVersion("3.9.2"),)), request("python3")
            ).python3
            == "3.9"
        )
        assert choose_versions(replace(have, pythons=()), request("python3")).python3 == "3.6"
        error = refused(
            replace(have, distribution=("fedora", "28"), pythons=(PythonVersion("3.4.1"),)),
            request("python3"),
        )
        assert error.code == "no_python"

    def test_the_tables_name_the_wheels_that_there_are(self) -> None:
        assert PYTHONS == ("2.7", "3.5", "3.6")
        assert compatibility.PIP == "20.3.4"


class TestPyTorch:
    def test_it_is_the_last_build_for_this_cuda_and_brings_its_own_cudnn(self) -> None:
        made = choose_versions(replace(HAVE, cudnn=None, cudnn_archives=()), request("pytorch"))
        assert made == ChosenVersions(pytorch="1.1.0", python="3.5")
        assert choose_versions(HAVE, request("pytorch", pytorch="1.1")).pytorch == "1.1.0"

    @pytest.mark.parametrize("version", ["1.0.1", "1.2.0", "1.13.1", "2.1.0"])
    def test_another_is_refused(self, version: str) -> None:
        error = refused(HAVE, request("pytorch", pytorch=version))
        assert (error.code, "pytorch==1.1.0" in str(error.hint)) == ("no_version", True)


def test_a_version_of_what_has_none_is_a_wrong_use() -> None:
    with pytest.raises(UsageError) as caught:
        choose_versions(HAVE, VersionRequest(frozenset({"python3"}), {"jupyter": "6.0"}))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("older", "newer"),
    [("384.81", "384.111"), ("7.0.5", "7.1"), ("1.9.0", "1.10.1"), ("381.09", "384.81")],
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    assert compatibility.version_numbers(older) < compatibility.version_numbers(newer)


@pytest.mark.parametrize("page", ["docs/software.md", "docs/zh/software.md"])
def test_the_documents_have_the_same_tables(page: str) -> None:
    lines = (Path(__file__).parent.parent.parent / page).read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    assert {cuda: driver for cuda, driver, *more in rows if cuda in DRIVERS and not more} == DRIVERS
    told = {
        version: row[1]
        for row in rows
        if len(row) == 4 and row[0][:2] == "1." and row[1]
        for version in re.split(", |、", row[0])
    }
    assert told == {one.version: one.built_with_cudnn for one in TENSORFLOW}
