"""How the stores' kernels are compiled. Compiles nothing itself."""

from pathlib import Path

from adumbra.compiling import Kernels

_KERNELS = Kernels(sorted(Path(__file__).parent.glob("*kernels.py")))
compiled, inlined = _KERNELS.compiled, _KERNELS.inlined
