"""The lab's monitor page in the shapes that such pages have; and pages that are none."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from apexgpu.nvidia import htmltables, monitorpage
from apexgpu.nvidia.monitorpage import Claim
from apexgpu.nvidia.smi import MIB

HOSTS = ["gpu2", "gpu3", "gpu12"]
NOW = datetime(2018, 4, 29, 11, 10, 0, tzinfo=timezone(timedelta(hours=8)))
GIB = 1024 * MIB


def claims(page: str) -> list[Claim]:
    return list(monitorpage.claims(page, HOSTS, NOW))


def brief(page: str) -> list[tuple[str, int | None, str, str, int | None]]:
    return [(one.host, one.gpu, one.user, one.group, one.memory) for one in claims(page)]


class TestShapes:
    def test_a_row_a_gpu_with_the_host_over_several(self) -> None:
        page = """<h1>GPU</h1><table border=1><tr><th>Host<th>GPU<th>Owner<th>Group<th>GPU Memory<th>Updated
        <tr><td rowspan=2>gpu2<td>0<td>alice<td>DM<td>8886 MiB<td rowspan=2>2018-04-29 11:09:00
        <tr><td>1<td>bob<td>CV<td>1.5 GiB
        <tr><td>gpu12<td>3<td>carol<td>NLP<td>700<td>2018-04-29 11:09:30</table>"""
        assert brief(page) == [
            ("gpu2", 0, "alice", "DM", 8886 * MIB),
            ("gpu2", 1, "bob", "CV", GIB * 3 // 2),
            ("gpu12", 3, "carol", "NLP", 700 * MIB),
        ]

    def test_a_table_a_host_under_its_heading(self) -> None:
        page = """<h2>gpu3 (2018-04-29 11:08:00)</h2><table><thead><tr><th>#</th><th>Users</th></tr></thead><tbody>
        <tr><td>GPU 0</td><td>alice(DM): 8000M<br>bob(CV): 2G</td></tr><tr><td>GPU 1</td><td>-</td></tr></tbody></table>
        <h2>gpu2</h2><table><tr><td>#</td><td>Users</td></tr><tr><td>0</td><td>none</td></tr></table>"""
        assert brief(page) == [
            ("gpu3", 0, "alice", "DM", 8000 * MIB),
            ("gpu3", 0, "bob", "CV", 2 * GIB),
        ]
        assert {one.refreshed for one in claims(page)} == {"2018-04-29 11:08:00"}

    def test_chinese_words(self) -> None:
        page = """<table><caption>gpu2</caption><tr><th>显卡<th>用户<th>课题组<th>显存 (GB)<th>更新时间
        <tr><td>0<td>alice、bob<td>数据挖掘<td>3、4.5<td>5 分钟前</table>"""
        assert brief(page) == [
            ("gpu2", 0, "alice", "数据挖掘", 3 * GIB),
            ("gpu2", 0, "bob", "数据挖掘", GIB * 9 // 2),
        ]

    def test_a_row_that_names_the_host_for_those_below(self) -> None:
        page = """<table><tr><th>GPU<th>User<th>Memory<tr><td colspan=3>gpu2-manage<tr><td>0<td>alice<td>10 / 12066 MiB
        <tr><td colspan=3>gpu99<tr><td>1<td>bob<td>5<tr><td colspan=3>gpu3<tr><td>1<td>bob<td>5 %</table>"""
        assert brief(page) == [("gpu2", 0, "alice", "", 10 * MIB), ("gpu3", 1, "bob", "", None)]

    def test_users_of_a_host_without_numbers_of_gpus(self) -> None:
        page = "<table><tr><th>Server</th><th>User</th></tr><tr><td>gpu3</td><td>alice/DM 3G; bob 4000</td></tr>"
        assert brief(page) == [
            ("gpu3", None, "alice", "DM", 3 * GIB),
            ("gpu3", None, "bob", "", 4000 * MIB),
        ]

    @pytest.mark.parametrize(
        "page",
        [
            "",
            "not html at all",
            "<table>",
            "<table><tr><td>gpu2<td>alice</table>",
            "<td>gpu2</td>",
            "</table></tr>",
            "<table><tr><th>Host<th>User<tr></table>",
            "<table><tr><th>User<th>GPU<tr><td>alice<td>0</table>",
            "<table><tr><th>Host<th>User<tr><td>gpu99<td>alice</table>",
            "<script>" + "<table>" * 3000,
            "<table><tr><th>Host<th>User<tr><td>gpu2<td>",
            "<table><tr><td rowspan=99999999 colspan=99999999>x</table>",
            "<!-- <table><tr><th>Host<th>User<tr><td>gpu2<td>alice</table>",
            "<template><table><tr><th>Host<th>User<tr><td>gpu2<td></table></template>",
        ],
    )
    def test_nothing_that_says_nothing(self, page: str) -> None:
        assert claims(page) == []

    def test_a_table_in_a_table_is_one_of_its_own(self) -> None:
        page = "<table><tr><td>gpu2<table><tr><th>Host<th>User<tr><td>gpu3<td>bob</table></td></tr></table>"
        assert brief(page) == [("gpu3", None, "bob", "", None)]

    def test_spans_and_sizes_have_an_end(self) -> None:
        page = "<table>" + "<tr><td colspan=9999 rowspan=9999>x" * 20_000
        (table,) = htmltables.tables(page)
        assert sum(len(row) for row in table.rows) <= 100_000


def row(stamp: str, host: str = "gpu2") -> str:
    return f"<tr><td>{host}<td>0<td>alice<td>{stamp}"


def stale(*stamps: str) -> list[bool]:
    page = "<table><tr><th>Host<th>GPU<th>User<th>Last update" + "".join(
        row(stamp) for stamp in stamps
    )
    return [one.stale for one in claims(page)]


class TestAge:
    @pytest.mark.parametrize(
        ("stamps", "old"),
        [
            (
                ["30 s ago", "9 minutes ago", "11 min ago", "2 hours ago", "3天前"],
                [False, False, True, True, True],
            ),
            (
                ["2018-04-29T03:09:00Z", "2018-04-29T02:09:00Z", "2018-04-29 11:09:00 +0800"],
                [False, True, False],
            ),
            (["1524971340", "1524967740"], [False, True]),
            # Without a zone, against the newest of the page: its clock may be in any zone.
            (
                ["2018-04-29 03:09:00", "2018-04-29 03:01:00", "2018/4/29 2:09"],
                [False, False, True],
            ),
            (["Sun Apr 29 11:09:00 2018", "Sun Apr 29 10:09:00 2018"], [False, True]),
            # A page that stood still days ago is old as a whole.
            (["2018-04-20 11:09:00", "2018-04-20 11:08:00"], [True, True]),
            (["yesterday", "", "99999999999999999999 days ago", "2018-99-99 11:11"], [False] * 4),
        ],
    )
    def test_rows_are_marked_by_their_own_time(self, stamps: list[str], old: list[bool]) -> None:
        assert stale(*stamps) == old

    def test_of_a_page_read_in_another_zone_is_the_same(self) -> None:
        page = (
            "<table><tr><th>Host<th>GPU<th>User<th>Updated"
            + row("2018-04-29 11:09:00")
            + row("2018-04-29 09:00:00")
        )
        assert [one.stale for one in monitorpage.claims(page, HOSTS, NOW.astimezone(UTC))] == [
            False,
            True,
        ]
