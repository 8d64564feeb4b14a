"""nvidia-smi -q of drivers old and new, in a recording and in the forms that its releases print, and its refusals."""

import re
from pathlib import Path

import pytest

from apexgpu.errors import RefusedError
from apexgpu.nvidia import smi
from apexgpu.nvidia.choice import GIB, Need, offers
from apexgpu.nvidia.smi import MIB, Condition, Gpu, GpuProcess, MigInstance, Report

RECORDED = (Path(__file__).parent.parent / "data" / "nvidia-smi" / "q-390.48.txt").read_text()


def text(*fields: str, driver: str = "384.81", gpus: int = 1) -> str:
    """A report in the form of the program, with these lines for each GPU, and the end of our script."""
    head = [
        "",
        "==============NVSMI LOG==============",
        "",
        f"Timestamp : now\nDriver Version   : {driver}",
        "",
    ]
    blocks = [
        line for number in range(gpus) for line in (f"GPU 00000000:0{number}:00.0", *fields, "")
    ]
    return "\n".join([*head, f"Attached GPUs     : {gpus}", *blocks, "@@ 0"])


def only(*fields: str) -> Gpu:
    """The one GPU that these lines tell of."""
    ((gpu,),) = [one.gpus for one in smi.reports(text(*fields), "gpu7")]
    return gpu


class TestARecording:
    def test_of_a_whole_host_is_read(self) -> None:
        (found,) = smi.reports(f"{RECORDED}\n@@ 0\n", "gpu7")
        assert found.driver == "390.48"
        assert [gpu.index for gpu in found.gpus] == [0, 1, 2, 3]
        assert {gpu.name for gpu in found.gpus} == {"TITAN V"}
        assert [gpu.used for gpu in found.gpus] == [0, 9473 * MIB, 8897 * MIB, 7421 * MIB]
        assert [gpu.free for gpu in found.gpus] == [12066 * MIB, 2593 * MIB, 3169 * MIB, 4645 * MIB]
        assert [gpu.utilization for gpu in found.gpus] == [5, 30, 84, 93]
        assert [gpu.temperature for gpu in found.gpus] == [41, found.gpus[1].temperature, 73, 65]
        assert [gpu.processes for gpu in found.gpus[2:]] == [
            (GpuProcess(33746, "python", 8886 * MIB),),
            (GpuProcess(35132, "python", 7410 * MIB),),
        ]
        assert found.gpus[0].uuid == "GPU-d42df4c5-4d4b-dd91-c65a-17d2cc7648c9"

    def test_is_the_same_after_what_the_container_leaves_out(self) -> None:
        # As the script's sed does: fields that say N/A, and the blanks that align the rest.
        lines = [line for line in RECORDED.splitlines() if not line.endswith(": N/A")]
        short = "\n".join(
            " ".join([line[: len(line) - len(line.lstrip())] + left.strip(), ":", right.strip()])
            if colon
            else line
            for line in lines
            for left, colon, right in [line.partition(" : ")]
        )
        assert len(short) < len(RECORDED) / 2
        assert smi.reports(f"{short}\n@@ 0\n", "gpu7") == smi.reports(f"{RECORDED}\n@@ 0\n", "gpu7")

    def test_of_eleven_mebibytes_that_nobody_holds_is_nobodys(self) -> None:
        (found,) = smi.reports(f"{RECORDED}\n@@ 0\n", "gpu7")
        assert [gpu.others for gpu in found.gpus] == [0, 0, 0, 0]


MEMORY = (
    "    FB Memory Usage",
    "        Total : 11178 MiB",
    "        Used : 5000 MiB",
    "        Free : 6178 MiB",
)


class TestFormsOfTheReleases:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            pytest.param(
                (
                    "    Product Name : GeForce GTX 1080 Ti",
                    *MEMORY,
                    "    Utilization",
                    "        Gpu : 97 %",
                    "    Temperature",
                    "        GPU Current Temp : 81 C",
                    "    Processes : None",
                ),
                Gpu(0, "GeForce GTX 1080 Ti", "", 81, 97, 11178 * MIB, 5000 * MIB, 6178 * MIB),
                id="384",
            ),
            pytest.param(
                (
                    "    Product Name : Tesla K20m",
                    "    GPU UUID : GPU-1",
                    "    Memory Usage",
                    "        Total : 4799 MB",
                    "        Used : 11 MB",
                    "        Free : 4788 MB",
                    "    Compute Mode : Exclusive_Process",
                    "    Utilization",
                    "        Gpu : 0 %",
                    "    Temperature",
                    "        Gpu : 30 C",
                    "    Compute Processes : None",
                ),
                Gpu(
                    0,
                    "Tesla K20m",
                    "GPU-1",
                    30,
                    0,
                    4799 * MIB,
                    11 * MIB,
                    4788 * MIB,
                    "Exclusive_Process",
                ),
                id="319",
            ),
            pytest.param(
                (
                    "    Product Name                          : NVIDIA GeForce RTX 4090",
                    "    Product Architecture                  : Ada Lovelace",
                    "    MIG Mode",
                    "        Current                           : N/A",
                    "    FB Memory Usage",
                    "        Total                             : 24564 MiB",
                    "        Reserved                          : 367 MiB",
                    "        Used : 20000 MiB",
                    "        Free : 4197 MiB",
                    "    BAR1 Memory Usage",
                    "        Total : 32768 MiB",
                    "        Used : 1 MiB",
                    "        Free : 32767 MiB",
                    "    Conf Compute Protected Memory Usage",
                    "        Total : 0 MiB",
                    "        Used : 0 MiB",
                    "    Utilization",
                    "        GPU                               : 64 %",
                    "        Memory : 3 %",
                    "        JPEG : 0 %",
                    "    Temperature",
                    "        GPU Current Temp : 55 C",
                    "        GPU T.Limit Temp : 30 C",
                    "    Processes",
                    "        GPU instance ID : N/A",
                    "        Compute instance ID : N/A",
                    "        Process ID : 4242",
                    "            Type : C",
                    "            Name : /home/a b/python3 : x",
                    "            Used GPU Memory : 15000 MiB",
                    "        GPU instance ID : N/A",
                    "        Process ID : 4243",
                    "            Type : C",
                    "            Name :",
                    "            Used GPU Memory : N/A",
                ),
                Gpu(
                    0,
                    "NVIDIA GeForce RTX 4090",
                    "",
                    55,
                    64,
                    24564 * MIB,
                    20000 * MIB,
                    4197 * MIB,
                    "Default",
                    (
                        GpuProcess(4242, "/home/a b/python3 : x", 15000 * MIB),
                        GpuProcess(4243, "?", None),
                    ),
                ),
                id="560",
            ),
            pytest.param(
                (
                    "    Product Name : A100",
                    "    MIG Devices",
                    "        MIG Device",
                    "            Index : 0",
                    "            FB Memory Usage",
                    "                Total : 4864 MiB",
                    "                Used : 12 MiB",
                    "    FB Memory Usage",
                    "        Total : 40960 MiB",
                    "        Used : 13 MiB",
                    "        Free : 40947 MiB",
                    "    Utilization",
                    "        Gpu : N/A",
                ),
                Gpu(
                    0,
                    "A100",
                    total=40960 * MIB,
                    used=13 * MIB,
                    free=40947 * MIB,
                    condition=Condition.MIG,
                    instances=(MigInstance(0, total=4864 * MIB, used=12 * MIB),),
                ),
                id="mig",
            ),
            pytest.param(
                (
                    "    Product Name : GeForce GT 610",
                    "    FB Memory Usage",
                    "        Total : 2047 MiB",
                    "        Used : 100 MiB",
                    "    Utilization",
                    "        Gpu : [Not Supported]",
                    "    Temperature",
                    "        GPU Current Temp : Unknown Error",
                    "    Processes : [Not Supported]",
                ),
                Gpu(
                    0,
                    "GeForce GT 610",
                    total=2047 * MIB,
                    used=100 * MIB,
                    free=1947 * MIB,
                    condition=Condition.BROKEN,
                    reason="temperature gpu current temp: Unknown Error",
                ),
                id="little-is-supported",
            ),
            pytest.param(
                ("    Product Name : Unknown Error", "    FB Memory Usage : GPU is lost"),
                Gpu(
                    0,
                    "Unknown Error",
                    condition=Condition.LOST,
                    reason="fb memory usage: GPU is lost",
                ),
                id="nothing-is-told",
            ),
        ],
    )
    def test_are_read(self, fields: tuple[str, ...], expected: Gpu) -> None:
        assert only(*fields) == expected

    def test_are_numbered_in_the_order_they_stand_in(self) -> None:
        ((found),) = smi.reports(text("    Minor Number : 5", gpus=3), "gpu7")
        assert [gpu.index for gpu in found.gpus] == [0, 1, 2]

    def test_with_a_warning_under_a_whole_report_are_believed(self) -> None:
        said = text(*MEMORY).replace(
            "@@ 0", "WARNING: infoROM is corrupted at gpu 0000:00:00.0\n@@ 14"
        )
        assert smi.reports(said, "gpu7")[0].gpus[0].used == 5000 * MIB

    def test_that_end_at_a_lost_card_list_the_others_and_the_lost_one(self) -> None:
        lost = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost."
        (found,) = smi.reports(text(*MEMORY).replace("@@ 0", f"{lost}\n@@ 15"), "gpu7")
        assert [(gpu.index, gpu.condition, gpu.reason) for gpu in found.gpus] == [
            (0, Condition.HEALTHY, ""),
            (1, Condition.LOST, lost),
        ]
        assert not found.is_complete

    def test_with_fewer_cards_than_are_attached_are_not_complete(self) -> None:
        said = text(*MEMORY).replace("Attached GPUs     : 1", "Attached GPUs     : 3")
        (found,) = smi.reports(said, "gpu7")
        assert (len(found.gpus), found.missing, found.is_complete) == (1, 2, False)

    def test_in_several_reports_of_one_answer_are_as_many(self) -> None:
        assert len(smi.reports("\n".join([text(*MEMORY)] * 3), "gpu7")) == 3


class TestWhoHoldsTheMemory:
    def gpu(self, used: int | None, *shares: int | None) -> Gpu:
        processes = tuple(
            GpuProcess(number, "python", share) for number, share in enumerate(shares)
        )
        return Gpu(0, "TITAN V", used=used, processes=processes)

    @pytest.mark.parametrize(
        ("used", "shares", "others"),
        [
            (8000 * MIB, (3000 * MIB, 1000 * MIB), 4000 * MIB),
            (8000 * MIB, (), 8000 * MIB),
            (11 * MIB, (), 0),
            (3011 * MIB, (3000 * MIB,), 0),
            (2000 * MIB, (3000 * MIB,), 0),
            (8000 * MIB, (None,), None),
            (None, (), None),
        ],
    )
    def test_what_no_own_program_accounts_for_is_of_others(
        self, used: int | None, shares: tuple[int | None, ...], others: int | None
    ) -> None:
        assert self.gpu(used, *shares).others == others


class TestRefusals:
    @pytest.mark.parametrize(
        ("said", "status", "code", "hint"),
        [
            (
                "Failed to initialize NVML: Driver/library version mismatch",
                18,
                "driver_mismatch",
                "apexgpu restart gpu7",
            ),
            (
                "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161",
                18,
                "driver_mismatch",
                "apexgpu restart gpu7",
            ),
            (
                "Failed to initialize NVML: Unknown Error",
                255,
                "gpu_access_lost",
                "apexgpu restart gpu7",
            ),
            (
                "Failed to initialize NVML: Insufficient Permissions",
                4,
                "gpu_access_lost",
                "apexgpu restart gpu7",
            ),
            (
                "Failed to initialize NVML: GPU access blocked by the operating system",
                17,
                "gpu_access_lost",
                "apexgpu restart gpu7",
            ),
            (
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest\n"
                "NVIDIA driver is installed and running.",
                9,
                "driver_down",
                "apexgpu gpus free",
            ),
            (
                "Failed to initialize NVML: Driver Not Loaded",
                9,
                "driver_down",
                "apexgpu gpus free",
            ),
            (
                "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.",
                12,
                "driver_missing",
                "apexgpu restart gpu7",
            ),
            ("No devices were found", 6, "no_gpus", "apexgpu gpus free"),
            ("Attached GPUs                       : 0", 0, "no_gpus", "apexgpu gpus free"),
            (
                "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover"
                " this GPU",
                15,
                "gpu_lost",
                "apexgpu gpus free",
            ),
            (
                "Unable to determine the device handle for GPU 0000:02:00.0: Unknown Error",
                255,
                "gpu_lost",
                "apexgpu gpus free",
            ),
            (
                "sh: 3: nvidia-smi: not found",
                127,
                "no_nvidia_smi",
                "apexgpu doctor gpu7",
            ),
            ("bash: nvidia-smi: 未找到命令", 127, "no_nvidia_smi", "apexgpu doctor gpu7"),
            ("Segmentation fault", 139, "garbled", "apexgpu ssh gpu7 -- nvidia-smi"),
            ("", 0, "garbled", "apexgpu ssh gpu7 -- nvidia-smi"),
        ],
    )
    def test_are_told_apart_with_what_to_type(
        self, said: str, status: int, code: str, hint: str
    ) -> None:
        with pytest.raises(RefusedError) as caught:
            smi.reports(f"{said}\n@@ {status}\n", "gpu7")
        assert caught.value.code == code
        assert "gpu7" in caught.value.message
        assert hint in (caught.value.hint or "")

    @pytest.mark.parametrize("said", ["", "motd\n", RECORDED])
    def test_an_answer_without_its_end_is_none(self, said: str) -> None:
        with pytest.raises(RefusedError) as caught:
            smi.reports(said, "gpu7")
        assert caught.value.code == "garbled"


@pytest.mark.parametrize(
    ("text", "driver", "gpus"),
    [
        (
            "390.48, 0, TITAN V, 12066, 66\n390.48, 1, TITAN V, 12066, [N/A]\n",
            "390.48",
            [(0, "TITAN V", 12000 * MIB), (1, "TITAN V", None)],
        ),
        ("Welcome!\n381.09\n", "381.09", [(0, "?", None)]),
    ],
)
def test_the_brief_answer_is_read_as_far_as_it_goes(
    text: str, driver: str, gpus: list[tuple[int, str, int | None]]
) -> None:
    found = smi.brief(text)
    assert found is not None
    assert (found.driver, [(one.index, one.name, one.free) for one in found.gpus]) == (driver, gpus)


def test_a_brief_answer_without_a_driver_is_none() -> None:
    assert smi.brief('Field "name" is not a valid field to query.\n') is None


CASES = Path(__file__).parent.parent / "data" / "nvidia-smi"


def case(name: str) -> Report:
    """What nvidia-smi printed on a machine of another lab, with its exit status."""
    output = (CASES / f"{name}.txt").read_text()
    status = (CASES / f"{name}.code").read_text().strip()
    (found,) = smi.reports(f"{output}\n@@ {status}\n", "gpu7")
    return found


def offered(found: Report, memory: int | None = None) -> list[str]:
    """The environment variables of the offer that is made of a host with this report, seen twice."""
    return [offer.variables for offer in offers({"gpu7": [found, found]}, Need(memory))]


class TestCases:
    """Each bad condition is distinguished and shown, and only healthy cards are offered."""

    def test_a_card_that_needs_a_reset_is_not_offered_and_the_other_one_is_busy(self) -> None:
        found = case("reset-required")
        assert [gpu.condition for gpu in found.gpus] == [Condition.NEEDS_RESET, Condition.HEALTHY]
        assert found.gpus[0].reason == "channel repair pending: GPU requires reset"
        assert found.gpus[0].utilization is None
        assert offered(found) == offered(found, GIB) == []

    def test_cards_in_mig_mode_are_not_offered_as_a_whole_and_their_instances_are_shown(
        self,
    ) -> None:
        found = case("mig-1g")
        assert [gpu.condition for gpu in found.gpus] == [Condition.MIG, Condition.MIG]
        assert found.gpus[0].instances == (
            MigInstance(0, 9, 0, 9856 * MIB, 14 * MIB, 9842 * MIB),
            MigInstance(1, 10, 0, 9856 * MIB, 9100 * MIB, 756 * MIB),
        )
        assert found.gpus[1].instances == ()
        assert offered(found) == offered(found, GIB) == []

    def test_a_lost_card_is_listed_and_the_healthy_one_is_offered_by_its_uuid(self) -> None:
        found = case("one-lost-others-listed-exit15")
        assert [(gpu.index, gpu.condition) for gpu in found.gpus] == [
            (0, Condition.LOST),
            (1, Condition.HEALTHY),
        ]
        # Whether CUDA counts the lost card is not certain, so numbers would be.
        uuid = "GPU-00000002-1111-2222-3333-444444444444"
        assert offered(found) == [f"CUDA_VISIBLE_DEVICES={uuid}"]

    def test_a_card_whose_memory_is_hidden_is_not_offered(self) -> None:
        found = case("parent-hidden")
        (gpu,) = found.gpus
        assert (gpu.condition, gpu.total, gpu.free) == (Condition.MIG, None, None)
        assert gpu.instances == (MigInstance(0, 1, 0, 20096 * MIB, 5 * MIB, 20091 * MIB),)
        assert offered(found, GIB) == []

    def test_a_card_without_memory_of_its_own_is_shown_and_not_offered(self) -> None:
        found = case("gb10")
        (gpu,) = found.gpus
        assert (gpu.condition, gpu.total, gpu.used, gpu.utilization) == (
            Condition.HEALTHY,
            None,
            None,
            0,
        )
        assert gpu.processes == (GpuProcess(2203, "/app/llama server/bin : x", 22686 * MIB),)
        assert offered(found, GIB) == []

    def test_a_card_under_wsl_tells_no_memory_of_its_programs(self) -> None:
        (gpu,) = case("wsl").gpus
        assert (gpu.condition, gpu.used, gpu.own, gpu.others) == (
            Condition.HEALTHY,
            7400 * MIB,
            None,
            None,
        )
        assert offered(case("wsl"), GIB // 2) == []

    @pytest.mark.parametrize(
        ("old", "new", "condition"),
        [
            ("Reset Required : No", "Reset Required : Yes", "needs_reset"),
            ("GPU Recovery Action : None", "GPU Recovery Action : Reboot", "needs_reset"),
            ("GPU : 0 %", "GPU : Unknown Error", "broken"),
            ("GPU : 0 %", "GPU : 1.2.3 %", "unexpected"),
            ("GPU : 0 %", "GPU : ² %", "unexpected"),
            ("GPU : 0 %", "GPU : 4294967295 %", "unexpected"),
            ("Used : 4 MiB", "Used : 1.2.3 MiB", "unexpected"),
            ("Used : 4 MiB", f"Used : {'9' * 5000} MiB", "unexpected"),
            ("Total : 81559 MiB", "Total : GPU is lost", "lost"),
            ("Total : 81559 MiB", "Total : Insufficient Permissions", "hidden"),
            ("Current : Disabled", "Current : Enabled", "mig"),
            ("Pending : Disabled", "Pending : Enabled", "mig"),
            ("Compute Mode : Default", "Compute Mode : Strange", "healthy"),
        ],
    )  # fmt: skip
    def test_a_card_with_one_bad_value_is_not_offered(
        self, old: str, new: str, condition: str
    ) -> None:
        output = (CASES / "one-lost-others-listed-exit15.txt").read_text()
        healthy = output.partition("==============NVSMI")[2].replace(
            "GPUs                                     : 2", "GPUs : 1"
        )
        (found,) = smi.reports(f"=={healthy}\n@@ 0\n", "gpu7")
        assert len(offered(found)) == 1
        bad = re.sub(old.replace(" : ", " +: "), new, healthy, count=1)
        assert bad != healthy
        (found,) = smi.reports(f"=={bad}\n@@ 0\n", "gpu7")
        assert found.gpus[0].condition == condition
        assert offered(found) == []

    def test_a_program_may_be_called_like_a_failure(self) -> None:
        output = (CASES / "gb10.txt").read_text().replace("/app/llama server/bin", "Unknown Error")
        (found,) = smi.reports(f"{output}\n@@ 0\n", "gpu7")
        assert found.gpus[0].condition is Condition.HEALTHY


def test_a_load_that_nothing_reports_is_unknown() -> None:
    idle = Gpu(0, "GT 610", "GPU-1", total=GIB, used=0, free=GIB)
    (offer,) = offers({"gpu7": [Report("390.48", (idle,))]}, Need())
    assert offer.load is None


def test_a_long_line_of_blanks_takes_linear_time() -> None:
    line = "x" + " " * 2_000_000 + "y"
    with pytest.raises(RefusedError):
        smi.reports(f"{line}\n@@ 0\n", "gpu7")
