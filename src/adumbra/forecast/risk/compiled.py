"""How the kernels of this room are compiled. Compiles nothing itself."""

from pathlib import Path

from adumbra.compiling import Kernels

_KERNELS = Kernels(sorted(Path(__file__).parent.glob("*kernels.py")))
allocating, inlined = _KERNELS.allocating, _KERNELS.inlined
