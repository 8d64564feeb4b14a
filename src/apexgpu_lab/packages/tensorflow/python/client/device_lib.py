"""The list of devices."""

from typing import NamedTuple

from tensorflow import native


class Device(NamedTuple):
    """A device, as TensorFlow describes it."""

    name: str
    device_type: str
    memory_limit: int
    physical_device_desc: str


def list_local_devices() -> list[Device]:
    """The CPU, and the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    devices = [Device("/device:CPU:0", "CPU", 268435456, "")]
    native.open_gpu(allow_growth=False)
    for number, gpu in enumerate(native.gpus()):
        bus = gpu.bus.removeprefix("0000").lower()
        about = f"device: {number}, name: {gpu.name}, pci bus id: {bus}, compute capability: 7.0"
        devices.append(Device(f"/device:GPU:{number}", "GPU", native.memory_limit(), about))
    return devices
