"""Recipes are read strictly: every mistake is named by file and key, and the shipped ones hold what they promise."""

import subprocess
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.recipes import recipe
from apexgpu.recipes.compatibility import PYTHONS, PYTORCH, TENSORFLOW
from apexgpu.recipes.recipe import Recipe, Source, Step
from apexgpu.remote import programs
from apexgpu.xserver import installation

GOOD = """
summary = "a tool"
[[steps]]
name = "one"
title = "the tool"
done = "test -e ~/tool"
do = "touch ~/tool"
"""


def written(room: Path, text: str, name: str = "tool.toml") -> Path:
    path = room / "recipes" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_small_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    step = Step("one", "the tool", "test -e ~/tool", "touch ~/tool", verify="test -e ~/tool")
    assert recipe.load(path) == Recipe("tool", "a tool", (step,), path.parent)


def test_a_full_recipe_is_read_whole(tmp_path: Path) -> None:
    sha = "0" * 64
    path = written(
        tmp_path,
        f"""
summary = "a tool"
needs = ["cuda"]
choose = ["tensorflow"]
files = ["patch.txt"]
constraints = "tool-{{TAG}}.txt"
login = "command -v tool"
use = "tool --python {{PYTHON}}"
[[sources]]
name = "ARCHIVE"
path = "/newNAS/tool-{{CUDA}}.tgz"
sha256 = ["{sha}"]
[[steps]]
name = "one"
title = "the tool for {{TENSORFLOW}}"
done = "test -e ~/tool"
verify = "tool --version"
do = "tar xf $ARCHIVE"
disk = {{ "/usr/local" = 20, "~" = 3 }}
when = {{ GROWTH = "hook", TAG = ["py35", "py36"] }}
""",
    )
    (path.parent / "files").mkdir()
    (path.parent / "files" / "patch.txt").write_text("x")
    found = recipe.load(path)
    assert (found.needs, found.choose, found.files) == (("cuda",), ("tensorflow",), ("patch.txt",))
    assert found.sources == (Source("ARCHIVE", "/newNAS/tool-{CUDA}.tgz", (sha,)),)
    assert found.steps[0].when == {"GROWTH": ("hook",), "TAG": ("py35", "py36")}
    assert found.steps[0].disk == {"/usr/local": 20, "~": 3}
    assert found.is_users_own


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "sumary = 'x'\n", "sumary is not known"),
        ('summary = "a tool"', "", "summary is missing"),
        ('summary = "a tool"', "summary = 3", "summary must be a text that is not empty"),
        ('summary = "a tool"', 'summary = "  "', "summary must be a text that is not empty"),
        ("", "needs = 'cuda'\n", "needs must be a list of texts"),
        ("", "needs = ['nothing']\n", "needs names nothing, and there is no recipe nothing"),
        ("", "choose = ['keras']\n", "choose names keras, and may name cuda, cudnn"),
        ("", "files = ['../x']\n", "files names ../x, and may name files in files/"),
        ("", "files = ['x.txt']\n", "x.txt does not exist, or is not UTF-8 text"),
        ("", "constraints = '{NOTHING}.txt'\n", "constraints may name CUDA"),
        ("", "use = '{'\n", "use may name CUDA"),
        ('name = "one"', 'name = "One"', "steps[1].name must be lower-case"),
        ('name = "one"', "", "steps[1].name is missing"),
        ('title = "the tool"', 'title = "{0}"', "steps[1].title may name CUDA"),
        ('title = "the tool"', 'title = "{HOME.x}"', "steps[1].title may name CUDA"),
        ('done = "test -e ~/tool"', "", "steps[1].done is missing"),
        ('do = "touch ~/tool"', "", "steps[1].do must be there, or else action"),
        (
            'do = "touch ~/tool"',
            'do = "x"\naction = "renew_host_keys"',
            "steps[1].do must be there, or else action",
        ),
        (
            'do = "touch ~/tool"',
            'action = "reboot"',
            "steps[1].action must be one of renew_host_keys",
        ),
        ('do = "touch ~/tool"', 'do = "x"\nif = "y"', "steps[1].if is not known"),
        (
            'do = "touch ~/tool"',
            'do = "x"\nwhen = { DISTRO = "x" }',
            "steps[1].when.DISTRO must be one of CUDA",
        ),
        (
            'do = "touch ~/tool"',
            'do = "x"\nwhen = { TAG = 3 }',
            "steps[1].when.TAG must be one of CUDA",
        ),
        ('do = "touch ~/tool"', 'do = "x"\nwhen = "TAG"', "steps[1].when must be a table"),
        (
            'do = "touch ~/tool"',
            'do = "x"\ndisk = { usr = 3 }',
            "steps[1].disk.'usr' must be a path",
        ),
        (
            'do = "touch ~/tool"',
            "do = \"x\"\ndisk = { '/' = true }",
            "steps[1].disk.'/' must be a path",
        ),
        (
            'do = "touch ~/tool"',
            'do = "x\\nEND_OF_APEXGPU_TEXT\\ny"',
            "steps[1].do contains a NUL character or END_OF_APEXGPU_TEXT",
        ),
        ("[[steps]]", "[steps]", "steps must be a list of tables"),
        (GOOD, "summary = 'x'", "steps is missing"),
        (GOOD, f"{GOOD}\n{GOOD[GOOD.index('[[steps]]') :]}", "steps has two of one name"),
        (
            "[[steps]]",
            "[[sources]]\nname='x'\npath='/x'\n[[steps]]",
            "sources[1].name must be upper-case",
        ),
        (
            "[[steps]]",
            "[[sources]]\nname='CUDA'\npath='/x'\n[[steps]]",
            "sources[1].name must be upper-case",
        ),
        ("[[steps]]", "[[sources]]\nname='X'\n[[steps]]", "sources[1].path is missing"),
        (
            "[[steps]]",
            "[[sources]]\nname='X'\npath='/x'\nsha256=['abc']\n[[steps]]",
            "sources[1].sha256 must contain 64",
        ),
        (
            "[[steps]]",
            "[[sources]]\nname='X'\npath='/x'\nmd5='y'\n[[steps]]",
            "sources[1].md5 is not known",
        ),
        ("summary", "summary = =", "is not valid TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = GOOD.replace(old, new, 1) if old else new + GOOD
    assert text != GOOD
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        recipe.load_all(tmp_path)
    assert str(path) in caught.value.message
    assert said in caught.value.message
    assert (caught.value.exit_code, caught.value.code) == (2, "recipe")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "does not exist, or is not UTF-8 text"),
        (b"x\nEND_OF_APEXGPU_TEXT\n", "which contains a NUL character or END_OF_APEXGPU_TEXT"),
    ],
)
def test_a_file_that_cannot_be_sent_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = written(tmp_path, f"files = ['x.txt']\n{GOOD}")
    (path.parent / "files").mkdir()
    (path.parent / "files" / "x.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        recipe.load_all(tmp_path)


@pytest.mark.parametrize("name", ["Tool.toml", "my tool.toml", "-x.toml", "x==1.toml"])
def test_a_recipes_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    written(tmp_path, GOOD, name)
    with pytest.raises(ConfigError, match="the file's name must be lower-case"):
        recipe.load_all(tmp_path)


def test_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    written(tmp_path, "").write_bytes(b"summary = '\xff'")
    with pytest.raises(ConfigError, match=r"tool\.toml cannot be read"):
        recipe.load_all(tmp_path)


def test_the_users_recipes_stand_beside_the_packages_and_take_their_place(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, GOOD, "cuda.toml")
    found = recipe.load_all(tmp_path)
    assert found["tool"].is_users_own
    assert found["cuda"].summary == "a tool"
    assert not found["cudnn"].is_users_own


SHIPPED = recipe.load_all(Path("/nonexistent"))


def test_the_shipped_recipes_are_these() -> None:
    assert sorted(SHIPPED) == [
        "cuda",
        "cudnn",
        "growth",
        "hostkeys",
        "jupyter",
        "pytorch",
        "tensorboard",
        "tensorflow",
        "x11",
    ]
    assert SHIPPED["tensorflow"].needs == ("cuda", "cudnn", "growth")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_text_of_a_shipped_recipe_is_plain_sh(name: str, tmp_path: Path) -> None:
    for step in SHIPPED[name].steps:
        for text in (step.done, step.do, step.verify, SHIPPED[name].login):
            script = tmp_path / "text.sh"
            script.write_text(text)
            done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
            assert done.stderr == ""


def test_setup_installs_for_windows_what_x11_install_does() -> None:
    (step,) = recipe.load(recipe.PACKAGED / "x11.toml").steps
    words = " ".join(installation.SMALL)
    assert (step.done, step.do) == (f"has_packages {words}", f"install_packages {words}")


def test_no_shipped_recipe_touches_the_driver_or_a_host_key_check() -> None:
    files = [path for path in recipe.PACKAGED.rglob("*") if path.suffix in {".toml", ".txt", ".py"}]
    texts = "".join(path.read_text() for path in files)
    texts += "".join(path.read_text() for path in Path(programs.__file__).parent.glob("*.sh"))
    for word in (
        "--driver",
        "StrictHostKeyChecking",
        "nvidia-3",
        "nvidia-driver",
        "trusted-host",
        "--force-yes",
    ):
        assert word not in texts
    assert "--silent --toolkit --override" in texts


def test_every_choice_has_its_constraints() -> None:
    files = {path.name for path in (recipe.PACKAGED / "files").iterdir()}
    tags = [f"py{python.replace('.', '')}" for python in PYTHONS]
    assert {f"tensorflow-{one.version}-{tag}.txt" for one in TENSORFLOW for tag in tags} <= files
    assert {f"pytorch-{PYTORCH}-{tag}.txt" for tag in tags} <= files
    assert {
        f"{tool}-{tag}.txt" for tool in ("jupyter", "tensorboard-1.15.0") for tag in tags[1:]
    } <= files


@pytest.mark.parametrize("page", ["docs/software.md", "docs/zh/software.md"])
def test_the_recipe_of_the_documents_is_one(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent.parent / page).read_text()
    written(tmp_path, text.partition("```toml\n")[2].partition("```")[0])
    assert [step.name for step in recipe.load_all(tmp_path)["tool"].steps] == ["htop", "tool"]
