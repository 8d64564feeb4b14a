"""Facts and recipes become a plan; what cannot be is refused before anything is changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.errors import RefusedError, UsageError
from apexgpu.recipes import installers, planner, recipe
from apexgpu.recipes.compatibility import PythonVersion
from apexgpu.recipes.facts import Facts, FreeSpace, GpuModel
from apexgpu.recipes.installers import InstallerChecksums, Trust
from apexgpu.recipes.planner import RecipeRequest, SetupPlan
from apexgpu.recipes.setupscript import SourceFile

RECIPES = recipe.load_all(Path("/nonexistent"))
FACTS = Facts(
    home="/home/alice",
    distribution=("ubuntu", "16.04"),
    driver="390.48",
    gpus=(GpuModel("TITAN V", 12066),),
    cudnn_archives={"7.0.5": "/newNAS/Share/GPU_Server/cudnn-9.0-linux-x64-v7.tgz"},
    pythons=(PythonVersion("3.5.2"), PythonVersion("2.7.12")),
    free={
        "/": FreeSpace(50_000, "sda"),
        "/usr/local": FreeSpace(50_000, "sda"),
        "/tmp": FreeSpace(50_000, "sda"),
        "/home/alice": FreeSpace(50_000, "sdb"),
    },
)


def plan(*words: str, facts: Facts = FACTS, python: int = 3) -> SetupPlan:
    return planner.make_plan("gpu7", facts, RECIPES, planner.parse_request(words, RECIPES, python))


def names(made: SetupPlan) -> list[str]:
    return [f"{one.recipe.name}.{one.step.name}" for one in made.steps]


class TestOrder:
    def test_versions_are_written_behind_the_name(self) -> None:
        assert planner.parse_request(
            ["cudnn==7.0.5", "tensorflow", "tensorflow"], RECIPES, 2
        ) == RecipeRequest(("cudnn", "tensorflow"), {"cudnn": "7.0.5"}, 2)

    def test_the_words_make_the_same_order_again(self) -> None:
        made = planner.parse_request(["cudnn==7.0.5", "tensorflow"], RECIPES, 2)
        assert made.arguments == ("cudnn==7.0.5", "tensorflow", "--python", "2")

    @pytest.mark.parametrize(
        ("word", "near"),
        [("tensorflwo", "tensorflow"), ("cuddn", "cudnn"), ("CUDA", ""), ("jupiter", "jupyter")],
    )
    def test_an_unknown_recipe_is_a_wrong_use_with_the_nearest_names(
        self, word: str, near: str
    ) -> None:
        with pytest.raises(UsageError) as caught:
            planner.parse_request([word], RECIPES)
        assert caught.value.exit_code == 2
        assert caught.value.message.startswith(f"there is no recipe {word}")
        assert near in caught.value.message
        assert caught.value.hint == "apexgpu setup list"

    @pytest.mark.parametrize("word", ["tensorflow==", "tensorflow==new", "cuda==v9"])
    def test_what_is_no_version_is_a_wrong_use(self, word: str) -> None:
        with pytest.raises(UsageError, match="is not a version"):
            planner.parse_request([word], RECIPES)


class TestNeeds:
    def test_what_is_needed_comes_first_and_once(self) -> None:
        made = [
            one.name
            for one in planner.with_dependencies(["tensorflow", "cudnn", "jupyter"], RECIPES)
        ]
        assert made == ["cuda", "cudnn", "growth", "tensorflow", "jupyter"]

    def test_recipes_that_need_each_other_are_told(self) -> None:
        circle = {
            "a": replace(RECIPES["x11"], name="a", needs=("b",)),
            "b": replace(RECIPES["x11"], needs=("a",)),
        }
        with pytest.raises(UsageError, match="the recipes a and b need each other"):
            planner.with_dependencies(["a"], circle)


class TestPlan:
    def test_an_old_cudnn_brings_the_hook_and_a_new_one_does_not(self) -> None:
        assert "tensorflow.hook" in names(plan("tensorflow"))
        newer = replace(FACTS, cudnn_archives={"7.6.5": "/newNAS/x.tgz"})
        assert "tensorflow.hook" not in names(plan("tensorflow", facts=newer))

    def test_the_scripts_are_told_the_choice(self) -> None:
        made = plan("tensorflow", "jupyter", python=2)
        assert {name: value for name, value in made.variables.items() if value} == {
            "CUDA": "9.0",
            "CUDNN": "7.0.5",
            "CUDNN_ARCHIVE": FACTS.cudnn_archives["7.0.5"],
            "TENSORFLOW": "1.10.1",
            "PYTHON": "2.7",
            "TAG": "py27",
            "PYTHON3": "3.5",
            "TAG3": "py35",
            "GROWTH": "hook",
            "PIP": "20.3.4",
            "SUFFIX": "-py2",
        }
        environment = next(one for one in made.steps if one.recipe.name == "tensorflow")
        assert "TensorFlow 1.10.1 for Python 2.7" in environment.title
        assert environment.constraints == "tensorflow-1.10.1-py27.txt"

    def test_the_archive_of_the_chosen_version_is_the_source(self) -> None:
        facts = replace(FACTS, cudnn_archives={"7.0.5": "/newNAS/a.tgz", "7.6.5": "/newNAS/b.tgz"})
        sources = {
            source.name: source.path for _, source in plan("cudnn==7.0.5", facts=facts).sources
        }
        assert sources["CUDNN_FILE"] == "/newNAS/a.tgz"

    def test_a_header_and_a_library_that_disagree_are_no_cudnn(self) -> None:
        broken = replace(FACTS, cudnn="7.1.4", cudnn_library="7.0.5")
        assert plan("tensorflow", facts=broken).versions.cudnn == "7.0.5"
        whole = replace(FACTS, cudnn="7.1.4", cudnn_library="7.1.4")
        assert plan("tensorflow", facts=whole).versions.tensorflow == "1.12.3"
        assert replace(FACTS, cudnn="7.1.4", cudnn_library="7").software("gpu7").cudnn == "7.1.4"

    def test_a_refusal_comes_before_any_step(self) -> None:
        with pytest.raises(RefusedError, match=r"driver 381\.09"):
            plan("cuda", facts=replace(FACTS, driver="381.09"))

    def test_sudo_that_asks_is_refused(self) -> None:
        with pytest.raises(RefusedError) as caught:
            plan("x11", facts=replace(FACTS, sudo=False))
        assert (caught.value.code, caught.value.exit_code) == ("no_sudo", 6)

    def test_it_can_be_typed_again(self) -> None:
        assert plan("cudnn==7.0.5", "tensorflow", python=2).command == (
            "apexgpu setup gpu7 cudnn==7.0.5 tensorflow --python 2"
        )


class TestDisk:
    def test_room_for_what_is_to_be_done_is_enough(self) -> None:
        tight = replace(
            FACTS, free={"/": FreeSpace(10, "sda"), "/home/alice": FreeSpace(2000, "sdb")}
        )
        done = frozenset(range(1, 8))
        assert (
            planner.with_states(plan("tensorflow", facts=tight), done).steps_to_do[0].recipe.name
            == "tensorflow"
        )

    def test_too_little_room_is_refused_with_the_numbers(self) -> None:
        tight = replace(
            FACTS,
            free={
                **FACTS.free,
                "/usr/local": FreeSpace(2700, "sda"),
                "/tmp": FreeSpace(2700, "sda"),
            },
        )
        with pytest.raises(RefusedError) as caught:
            planner.with_states(plan("cuda", facts=tight), frozenset())
        assert caught.value.code == "disk"
        assert "gpu7 has 2700 MiB free" in caught.value.message
        assert "4500 MiB are needed" in caught.value.message

    def test_file_systems_are_counted_each_for_itself(self) -> None:
        apart = replace(
            FACTS,
            free={
                **FACTS.free,
                "/usr/local": FreeSpace(2700, "sda"),
                "/tmp": FreeSpace(2700, "sdc"),
            },
        )
        assert len(planner.with_states(plan("cuda", facts=apart), frozenset()).steps_to_do) == 4

    def test_a_home_that_was_not_measured_is_not_guessed(self) -> None:
        assert planner.with_states(
            plan("jupyter", facts=replace(FACTS, free={})), frozenset()
        ).steps_to_do


class TestInstallers:
    FILE = SourceFile("INSTALLER", "/newNAS/cuda.run", 10, "a" * 64)

    def test_the_makers_own_file_is_known(self) -> None:
        sha = RECIPES["cuda"].sources[0].sha256[0]
        judged = installers.check_installers(plan("cuda"), [replace(self.FILE, sha256=sha)], {})
        assert [one.trust for one in judged] == [Trust.PUBLISHED]

    @pytest.mark.parametrize(
        ("memory", "trust"),
        [
            ({}, Trust.NEW),
            ({"/newNAS/cuda.run": "a" * 64}, Trust.REMEMBERED),
            ({"/newNAS/cuda.run": "b" * 64}, Trust.CHANGED),
            ({"/newNAS/other": "b" * 64}, Trust.NEW),
        ],
    )
    def test_another_is_compared_with_the_one_that_has_worked(
        self, memory: dict[str, str], trust: Trust
    ) -> None:
        assert [
            one.trust for one in installers.check_installers(plan("cuda"), [self.FILE], memory)
        ] == [trust]

    def test_one_that_has_changed_is_refused_until_it_is_accepted(self) -> None:
        made = plan("cuda")
        judged = installers.check_installers(made, [self.FILE], {"/newNAS/cuda.run": "b" * 64})
        with pytest.raises(RefusedError) as caught:
            installers.refuse_changed(made, judged)
        assert (caught.value.code, caught.value.exit_code) == ("file_changed", 6)
        assert caught.value.hint == "apexgpu setup gpu7 cuda --accept-files"
        assert "ask the administrators" in caught.value.message

    def test_one_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(RefusedError) as caught:
            installers.check_installers(
                plan("cuda"), [SourceFile("INSTALLER", "/newNAS/x/cuda.run")], {}
            )
        assert (caught.value.code, str(caught.value.hint).endswith("ls -l /newNAS/x")) == (
            "no_installer",
            True,
        )

    def test_what_has_worked_is_remembered_across_runs(self, tmp_path: Path) -> None:
        InstallerChecksums(tmp_path).remember([self.FILE])
        InstallerChecksums(tmp_path).remember([replace(self.FILE, path="/other", sha256="c" * 64)])
        assert InstallerChecksums(tmp_path).read() == {
            "/newNAS/cuda.run": "a" * 64,
            "/other": "c" * 64,
        }

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}'])
    def test_a_damaged_memory_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "installers.json").write_text(text)
        assert set(InstallerChecksums(tmp_path).read()) <= {"a"}
