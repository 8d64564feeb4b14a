"""The decision which GPUs are free, on looks that no lab is needed for."""

import pytest

from apexgpu.nvidia.choice import GIB, Need, fitting, offers
from apexgpu.nvidia.smi import MIB, Gpu, Report

TOTAL = 12066 * MIB


def gpu(
    index: int = 0,
    *,
    used: int | None = 11,
    load: int | None = 0,
    mode: str = "Default",
    uuid: str = "",
) -> Gpu:
    """A card with `used` MiB held."""
    held = None if used is None else used * MIB
    return Gpu(
        index,
        "TITAN V",
        uuid or f"GPU-{index}",
        40,
        load,
        TOTAL,
        held,
        None if held is None else TOTAL - held,
        mode,
    )


def looks(*cards: Gpu) -> list[Report]:
    """The same card, looked at again and again."""
    return [Report("390.48", (card,)) for card in cards]


class TestAGpu:
    @pytest.mark.parametrize(
        ("cards", "memory", "fits"),
        [
            pytest.param([gpu()] * 3, None, True, id="empty"),
            pytest.param(
                [gpu(load=5), gpu(load=0)], None, True, id="a driver that wakes up is no load"
            ),
            pytest.param([gpu(used=200)], None, True, id="a display is no program"),
            pytest.param([gpu(used=300)], None, False, id="a program that begins"),
            pytest.param([gpu(), gpu(used=3000)], None, False, id="came while we looked"),
            pytest.param([gpu(used=3000), gpu()], None, False, id="may come back"),
            pytest.param(
                [gpu(used=9000, load=95), gpu(used=9000, load=0)],
                2,
                False,
                id="a pause between batches",
            ),
            pytest.param([gpu(load=95), gpu(load=0)], 2, False, id="load without memory"),
            pytest.param([gpu(used=9000)] * 3, None, False, id="held and idle"),
            pytest.param([gpu(used=9000)] * 3, 2, True, id="held and idle, with enough beside it"),
            pytest.param([gpu(used=9000)] * 3, 4, False, id="held and idle, without"),
            pytest.param([gpu(used=1000), gpu(used=9000)], 4, False, id="what was free was taken"),
            pytest.param([gpu(load=None)], None, True, id="no load told, but empty"),
            pytest.param([gpu(load=None, used=2000)], 2, False, id="no load told, and held"),
            pytest.param([gpu(load=None), gpu(load=50)], 2, False, id="load told once"),
            pytest.param([gpu(used=None)], None, False, id="no memory told"),
            pytest.param([gpu(), gpu(used=None)], None, False, id="memory told once"),
            pytest.param([gpu(mode="Prohibited")], None, False, id="nobody may"),
            pytest.param([gpu(mode="Exclusive_Process")], 2, True, id="exclusive and empty"),
            pytest.param(
                [gpu(mode="Exclusive_Process", used=2000)], 2, False, id="exclusive and taken"
            ),
            pytest.param(
                [gpu(uuid="GPU-a"), gpu(uuid="GPU-b")], None, False, id="not the same card"
            ),
        ],
    )
    def test_fits_or_does_not(self, cards: list[Gpu], memory: float | None, fits: bool) -> None:
        need = Need(None if memory is None else int(memory * GIB))
        assert bool(fitting(looks(*cards), need)) == fits

    def test_that_was_lost_on_the_way_does_not_fit(self) -> None:
        both, one = Report("390.48", (gpu(0), gpu(1))), Report("390.48", (gpu(0, uuid="GPU-1"),))
        assert fitting([both, one], Need()) == ()

    def test_that_nobody_looked_at_does_not_fit(self) -> None:
        assert fitting([], Need()) == ()


class TestHosts:
    def test_between_equals_have_the_order_of_their_numbers(self) -> None:
        seen = {name: looks(gpu()) for name in ("gpu10", "gpu2", "a1", "gpu9")}
        assert [one.host for one in offers(seen, Need())] == ["a1", "gpu2", "gpu9", "gpu10"]

    def test_with_a_shared_card_come_after_those_with_empty_ones(self) -> None:
        wide = Gpu(0, "V100", "GPU-w", 40, 0, 32 * GIB, 12 * GIB, 20 * GIB)
        seen = {"gpu2": looks(wide), "gpu3": looks(gpu())}
        assert [(one.host, one.free // GIB) for one in offers(seen, Need(4 * GIB))] == [
            ("gpu3", 11),
            ("gpu2", 20),
        ]

    def test_are_told_with_what_cuda_needs_to_number_the_cards_alike(self) -> None:
        report = Report("390.48", (gpu(0, used=500), gpu(1, used=9000, load=90), gpu(2), gpu(3)))
        (offer,) = offers({"gpu7": [report]}, Need(2 * GIB, 2))
        assert offer.variables == "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=2,3"
        assert [fit.gpu.index for fit in offer.fits] == [2, 3, 0]
        assert offer.load == 0

    def test_are_told_by_numbers_in_order(self) -> None:
        report = Report("390.48", (gpu(0, load=9), gpu(1, load=5), gpu(2)))
        (offer,) = offers({"gpu7": [report]}, Need(count=2))
        assert [fit.gpu.index for fit in offer.fits] == [2, 1, 0]
        assert offer.chosen == (1, 2)
