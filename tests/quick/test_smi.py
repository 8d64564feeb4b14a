"""nvidia-smi -q of drivers old and new, in a recording and in the forms that its releases print, and its refusals."""

from pathlib import Path

import pytest

from apexgpu.errors import RefusedError
from apexgpu.nvidia import smi
from apexgpu.nvidia.smi import MIB, Gpu, GpuProcess

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
                Gpu(0, "A100", "", None, None, 40960 * MIB, 13 * MIB, 40947 * MIB),
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
                Gpu(0, "GeForce GT 610", "", None, None, 2047 * MIB, 100 * MIB, 1947 * MIB),
                id="little-is-supported",
            ),
            pytest.param(
                ("    Product Name : Unknown Error", "    FB Memory Usage : GPU is lost"),
                Gpu(0, "Unknown Error"),
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

    def test_that_end_at_a_lost_card_are_no_whole_report(self) -> None:
        lost = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost."
        with pytest.raises(RefusedError) as caught:
            smi.reports(text(*MEMORY).replace("@@ 0", f"{lost}\n@@ 15"), "gpu7")
        assert caught.value.code == "gpu_lost"

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
                "apexgpu down gpu7 &&",
            ),
            (
                "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161",
                18,
                "driver_mismatch",
                "apexgpu down gpu7 && apexgpu up gpu7",
            ),
            (
                "Failed to initialize NVML: Unknown Error",
                255,
                "gpu_access_lost",
                "apexgpu down gpu7 &&",
            ),
            (
                "Failed to initialize NVML: Insufficient Permissions",
                4,
                "gpu_access_lost",
                "apexgpu down gpu7 &&",
            ),
            (
                "Failed to initialize NVML: GPU access blocked by the operating system",
                17,
                "gpu_access_lost",
                "down gpu7",
            ),
            (
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest\n"
                "NVIDIA driver is installed and running.",
                9,
                "driver_down",
                "ask the administrators",
            ),
            (
                "Failed to initialize NVML: Driver Not Loaded",
                9,
                "driver_down",
                "ask the administrators",
            ),
            (
                "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.",
                12,
                "driver_missing",
                "apexgpu down gpu7",
            ),
            ("No devices were found", 6, "no_gpus", "ask the administrators"),
            ("Attached GPUs                       : 0", 0, "no_gpus", "ask the administrators"),
            (
                "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover"
                " this GPU",
                15,
                "gpu_lost",
                "ask the administrators",
            ),
            (
                "Unable to determine the device handle for GPU 0000:02:00.0: Unknown Error",
                255,
                "gpu_lost",
                "ask the",
            ),
            (
                "sh: 3: nvidia-smi: not found",
                127,
                "no_nvidia_smi",
                "apexgpu down gpu7 && apexgpu up gpu7",
            ),
            ("bash: nvidia-smi: 未找到命令", 127, "no_nvidia_smi", "apexgpu down gpu7"),
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
