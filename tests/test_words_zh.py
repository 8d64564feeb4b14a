"""The Chinese pages use the terms of the field, one for each thing, and full-width punctuation.

A new wrong word goes into `WRONG_WORDS` with the right one. Code, in blocks and between backticks,
is not looked at.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The generated reference is English help above _reference-tail.md, which is looked at instead.
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.zh-CN.md", *(ROOT / "docs/zh").glob("*.md")]
    if page.name != "reference.md"
)
X11_PAGES = [page for page in PAGES if page.startswith("docs/zh/x11")]
# Quoted in a table, but printed by a program in the container.
FROM_OTHER_PROGRAMS = {"Can't open display"}
HAN = "[\u4e00-\u9fff]"

# A pattern that does not belong into a Chinese page, and what to write instead.
WRONG_WORDS = {
    # The reader is addressed plainly.
    "您": "你",
    # Programs are not persons.
    "(?<!来)说(?!明)": "输出、报告、报错",
    "(?<!会)(?<!对)话": "输出、报错；“……的话”写成“如果……”",
    "抱怨": "报错",
    "记住|记得": "记录、保存",
    "忘掉|忘记": "删除记录",
    "察觉": "检测到",
    "告诉(?!管理员)": "传给、通知",
    "点名": "指定",
    "碰": "改动、访问",
    "取走|拿走": "删除",
    "吞掉": "丢失、静默丢包",
    # One thing has one name.
    "那边|这边": "容器里、本机",
    "本机的?容器|本机上的容器": "该主机上的容器（本机是笔记本）",
    "指向一个?显示器": "X display",
    "(卸载.{0,6}挂载)|(挂载.{0,4}卸载)|已卸载的": "取消挂载（卸载是 uninstall）",
    "区块": "配置块",
    "钥匙串|密码库": "系统密钥环（keyring）",
    "(?<!（)(?<![-\\w])token": "令牌（token）",
    "(?<![-\\w])agent": "ssh-agent",
    "(?<![-\\w])master": "主连接",
    "(?<!不)相配|配套|相容": "兼容",
    "不相配": "不兼容",
    "登陆": "登录",
    "帐[号户]|账号": "账户",
    # What an engineer searches for.
    "散列": "哈希",
    "脉搏|报活": "心跳",
    "时限": "超时",
    "第一次接触": "首次连接",
    "裁决": "校验",
    "接缝": "接口",
    "接着来": "继续",
    "符号连接|软连接": "符号链接",
}


def prose(page: str) -> str:
    """The page without its code: blocks are removed, `spans` become one backtick, links lose their target."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]+`", "`", text)
    return re.sub(r"\]\([^)\n]*\)", "]", text)


def places(pattern: str, text: str) -> Iterator[str]:
    """Each match with some letters on both sides, so that a failure shows where it is."""
    for match in re.finditer(pattern, text):
        yield text[max(0, match.start() - 12) : match.end() + 12].replace("\n", "⏎")


@pytest.mark.parametrize("page", PAGES)
def test_chinese_pages_use_the_terms_of_the_field(page: str) -> None:
    text = prose(page)
    wrong = [
        f"…{place}… → {instead}"
        for pattern, instead in WRONG_WORDS.items()
        for place in places(pattern, text)
    ]
    assert not wrong


@pytest.mark.parametrize("page", X11_PAGES)
def test_a_server_on_an_x11_page_is_the_x_server(page: str) -> None:
    assert not list(places("(?<!X )(?<!GPU )服务器", prose(page)))


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_a_chinese_page_breaks_between_two_han_letters(page: str) -> None:
    """HTML shows such a break as a blank in the middle of a sentence."""
    assert not list(places(f"{HAN}\n *{HAN}", prose(page)))


@pytest.mark.parametrize("page", PAGES)
def test_chinese_sentences_have_full_width_punctuation(page: str) -> None:
    text = prose(page)
    assert not list(places(f"{HAN}[,;:!?()]|[,;:!?()]{HAN}", text)), "，；：！？（）"
    assert not list(places("`[,;:] *`", text)), "between code spans: 、；："
    assert not list(places(f"{HAN} +{HAN}", text)), "a blank between two Han letters"


def strings_of_the_program() -> str:
    """All string literals of the package; a NUL stands for what an f-string fills in."""
    parts = []
    for source in (ROOT / "src/apexgpu").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                values = [getattr(value, "value", None) for value in node.values]
                parts.append("".join(v if isinstance(v, str) else "\0" for v in values))
    text = "\n".join(parts)
    # States are codes in the source, and are shown without their underscores.
    return text + text.replace("_", " ")


def test_the_output_that_a_table_quotes_is_what_the_program_prints() -> None:
    """The first cell of a row quotes the program, with … and example values for what varies."""
    printed = strings_of_the_program()
    quotes = 0
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for table in re.findall(
            r"^\| (?:输出|显示|check 的输出) \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE
        ):
            for row in table.splitlines():
                for quote in re.findall("`([^`]+)`", row.split(" | ")[0]):
                    quotes += 1
                    parts = re.split(r"…|\bgpu\d+\b|:\d+|: ", quote)
                    missing = [part for part in parts if part.strip(" :") not in printed]
                    assert quote in FROM_OTHER_PROGRAMS or not missing, f"{page}: {quote}"
    assert quotes > 40


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/zh/")])
def test_tables_in_both_languages_have_the_same_rows(page: str) -> None:
    """What a row is about (a command, a setting, an output of the program) is code in its first cell."""

    def rows(path: Path) -> list[list[str]]:
        cells = re.findall(r"^\| *(.*?) \|", path.read_text(encoding="utf-8"), re.MULTILINE)
        return [re.findall(r"`([^`]+)`", cell) for cell in cells]

    assert rows(ROOT / page) == rows(ROOT / page.replace("docs/zh/", "docs/"))
