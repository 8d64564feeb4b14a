"""What the lab's NAS has to install from: small stand-ins of NVIDIA's CUDA installer and cuDNN archive."""

import io
import tarfile
from pathlib import Path

CUDNN = "7.0.5"

_INSTALLER = r"""#!/bin/sh
# The lab's stand-in of NVIDIA's installer of CUDA 9.0: the same words, and small files in place of the toolkit.
silent= toolkit=
for word; do
  case $word in
    --silent) silent=yes ;;
    --toolkit) toolkit=yes ;;
    --override|--verbose|--tmpdir=*) ;;
    *) echo "Unknown option: $word"; exit 1 ;;
  esac
done
if [ -z "$silent$toolkit" ]; then
  echo "Do you accept the previously read EULA? accept/decline/quit: "
  exit 1
fi
room=${APEXGPU_LAB_CONTAINER:?this one is for the lab alone}rootfs/usr/local/cuda-9.0
mkdir -p "$room/bin" "$room/include" "$room/lib64"
cat >"$room/bin/nvcc" <<'END'
#!/bin/sh
echo "nvcc: NVIDIA (R) Cuda compiler driver"
echo "Cuda compilation tools, release 9.0, V9.0.176"
END
chmod 755 "$room/bin/nvcc"
echo "CUDA Version 9.0.176" >"$room/version.txt"
echo "#define CUDART_VERSION 9000" >"$room/include/cuda_runtime_api.h"
for library in cudart cublas cufft curand cusolver cusparse; do
  echo "a stand-in of lib$library" >"$room/lib64/lib$library.so.9.0.176"
  ln -sf "lib$library.so.9.0.176" "$room/lib64/lib$library.so.9.0"
  ln -sf "lib$library.so.9.0" "$room/lib64/lib$library.so"
done
ln -sfn cuda-9.0 "${room%-9.0}"
echo "Installing the CUDA Toolkit in /usr/local/cuda-9.0 ..."
echo "= Summary ="
echo "Driver:   Not Selected"
echo "Toolkit:  Installed in /usr/local/cuda-9.0"
echo "***WARNING: Incomplete installation! This installation did not install the CUDA Driver."
"""


def lay_out(room: Path) -> None:
    """Put them into the NAS's directory of installers."""
    room.mkdir(parents=True, exist_ok=True)
    installer = room / "cuda_9.0.176_384.81_linux.run"
    installer.write_text(_INSTALLER, encoding="utf-8", newline="\n")
    installer.chmod(0o755)
    _cudnn(room / "cudnn-9.0-linux-x64-v7.tgz")


def _cudnn(archive: Path) -> None:
    major, minor, patch = CUDNN.split(".")
    header = f"#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR {minor}\n#define CUDNN_PATCHLEVEL {patch}\n"
    with tarfile.open(archive, "w:gz") as tar:
        _add(tar, "cuda/include/cudnn.h", header)
        _add(tar, "cuda/NVIDIA_SLA_cuDNN_Support.txt", "The text of a licence.\n")
        _add(tar, f"cuda/lib64/libcudnn.so.{CUDNN}", "a stand-in of libcudnn\n")
        for name, target in (
            ("libcudnn.so.7", f"libcudnn.so.{CUDNN}"),
            ("libcudnn.so", "libcudnn.so.7"),
        ):
            link = tarfile.TarInfo(f"cuda/lib64/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
